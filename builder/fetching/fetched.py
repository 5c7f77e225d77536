"""Fetch a file into a temporary folder, and let messages name its URL instead."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.bucket import Names
from builder.errors import BuilderError, ModelError
from builder.fetching.address import Address
from builder.fetching.transfer import transfer
from builder.progress import Report, format_bytes
from builder.record import Download


def matches_digest(text: str) -> bool:
    """Return whether a text is a SHA-256 digest: 64 hexadecimal digits."""
    return re.fullmatch(r"[0-9A-Fa-f]{64}", text) is not None


@contextmanager
def fetched(url: str, sha256: str | None, report: Report) -> Iterator[tuple[Path, Download]]:
    """Yield a file that was fetched and what to note about it, and delete it at the end. Errors name its URL.

    Args:
        url: Where the file is.
        sha256: The digest that it must have, in hexadecimal.
        report: Called with the progress.

    Raises:
        ModelError: No digest is given, or the file has another one, or cannot be read.
        HostError: The server cannot be reached, or there is no room for the file.
    """
    address = Address.parse(url)
    if sha256 is None or not matches_digest(sha256):
        what = "a file from elsewhere is published only if its content is known beforehand"
        raise ModelError(address.shown, what, "add --sha256 DIGEST; sha256sum FILE prints it where the file was made")
    with tempfile.TemporaryDirectory(prefix="builder-", ignore_cleanup_errors=True) as folder:
        file = Path(folder).resolve() / address.file
        found = transfer(address, file, report)
        if found != sha256.lower():
            what = (
                f"its SHA-256 digest is {found} ({format_bytes(file.stat().st_size)}), not the one that --sha256 gives"
            )
            fix = "make sure that this is the file you want; if it was replaced on purpose, give the new digest"
            raise ModelError(address.shown, what, fix)
        with _named(file, address.shown):
            yield file, Download(address.shown, found)


@contextmanager
def _named(file: Path, shown: str) -> Iterator[None]:
    """Let errors name the URL. A fix that speaks of the temporary folder cannot be followed, so it becomes another."""
    names = Names(file, shown)
    try:
        with names.in_errors():
            yield
    except BuilderError as error:
        if str(file.parent) not in f"{error.where}{error.what}{error.fix}":
            raise
        fix = "only this one file is fetched: download it with the files beside it, and publish it from their folder"
        what = names.renamed(error.what).replace(str(file.parent), shown.rpartition("/")[0])
        raise type(error)(shown, what, fix, is_about_batch=error.is_about_batch) from error
