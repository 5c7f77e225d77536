"""Write what a URL leads to into a file, within limits of size and time, and return its digest."""

import base64
import errno
import hashlib
import http.client
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit

from builder.bucket import Storage, storage_errors
from builder.errors import HostError, ModelError, RepositoryError
from builder.fetching.address import BUCKETS, Address, is_loopback
from builder.progress import Report, format_bytes
from builder.version import __version__

LARGEST_BYTES = 20_000_000_000
LONGEST_S = 3600
"""How much is fetched, and for how long, whatever the other side says."""

_SILENCE_S = 60
"""How long the other side may send nothing."""

_REPORT_EVERY_S = 5

_BLOCK = 1 << 20


def transfer(address: Address, file: Path, report: Report) -> str:
    """Write a file, and return the SHA-256 digest of what was received.

    Raises:
        ModelError: There is no such file, or it is too large, or may not be read.
        HostError: The other side cannot be reached, is too slow, or there is no room for the file here.
    """
    is_in_bucket = address.url.partition("://")[0].lower() in BUCKETS
    with _opened_object(address) if is_in_bucket else _opened(address) as (stream, size):
        _check_size(address, size, file)
        report("download", f"{address.shown}{f', {format_bytes(size)}' if size is not None else ''}")
        digest = hashlib.sha256()
        received, started = 0, time.monotonic()
        told = started
        with _room_for(file) as target:
            while block := _read(address, stream):
                received += len(block)
                now = time.monotonic()
                _check_size(address, received, None)
                if now - started > LONGEST_S:
                    what = f"after {LONGEST_S // 60} minutes there were only {format_bytes(received)}"
                    raise HostError(address.shown, what, "download the file yourself, and publish it from this machine")
                digest.update(block)
                target.write(block)
                if now - told > _REPORT_EVERY_S:
                    told = now
                    report("download", _progress(received, size))
        if size is not None and received != size:
            what = f"it ended after {format_bytes(received)} of {format_bytes(size)}"
            raise HostError(address.shown, what, "run the command again")
    return digest.hexdigest()


def _progress(received: int, size: int | None) -> str:
    of = f" of {format_bytes(size)}, {received * 100 // size}%" if size else ""
    return f"{format_bytes(received)}{of}"


def _check_size(address: Address, size: int | None, file: Path | None) -> None:
    if size is not None and size > LARGEST_BYTES:
        what = f"it has {format_bytes(size)}, and at most {format_bytes(LARGEST_BYTES)} are fetched"
        raise ModelError(address.shown, what, "download the file yourself, and publish it from this machine")
    if size is not None and file is not None and (free := shutil.disk_usage(file.parent).free) < size:
        what = f"it has {format_bytes(size)}, and {file.parent.parent} has room for {format_bytes(free)}"
        raise HostError(address.shown, what, "free some, or set TMPDIR to a larger folder")


@contextmanager
def _room_for(file: Path) -> Iterator[IO[bytes]]:
    """Open the file to write.

    Raises:
        HostError: There is no room for it.
    """
    try:
        with file.open("wb") as target:
            yield target
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fix = "free some, or set TMPDIR to a larger folder"
        raise HostError(file.parent.parent, "there is no room for the file to download", fix) from error


def _read(address: Address, stream: Any) -> bytes:
    """Return what has come, without waiting for a whole block: a slow server cannot hold up the limit of time."""
    try:
        block: bytes = stream.read1(_BLOCK) if hasattr(stream, "read1") else stream.read(_BLOCK)
    except http.client.HTTPException as error:
        raise _broken(address, error) from error
    except storage_errors() as error:
        raise _broken(address, error) from error
    return block


def _broken(address: Address, error: BaseException) -> HostError:
    why = f"nothing came for {_SILENCE_S} s" if isinstance(error, TimeoutError) else type(error).__name__
    return HostError(address.shown, f"the connection broke: {why}", "run the command again")


# ---------------------------------------------------------------- https


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https only, and from this machine to itself."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Ask where the server sends us, if that is safe."""
        old, new = urlsplit(req.full_url), urlsplit(urljoin(req.full_url, headers.get("Location", "")))
        is_here = old.scheme == "http" and new.scheme == "http" and is_loopback(new.hostname or "")
        if new.scheme != "https" and not is_here:
            fp.close()
            raise _UnsafeRedirect(f"{new.scheme}://{new.hostname or '…'}")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _UnsafeRedirect(Exception):  # noqa: N818 - told as a ModelError
    """The server sends us on to a place that is not safe."""


@contextmanager
def _opened(address: Address) -> Iterator[tuple[Any, int | None]]:
    """Yield the answer of a server, and its size if it says that.

    Raises:
        ModelError: The server has no such file, or does not give it.
        HostError: It cannot be reached.
    """
    context = ssl.create_default_context()
    opener = urllib.request.build_opener(_Redirects, urllib.request.HTTPSHandler(context=context))
    opener.addheaders = [("User-Agent", f"triton-repository-builder/{__version__}"), ("Accept", "*/*")]
    try:
        answer = opener.open(_request(address), timeout=_SILENCE_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(address, error.code) from error
    except _UnsafeRedirect as error:
        fix = "use the URL that the file is really at, with https://"
        raise ModelError(address.shown, f"the server sends us on to {error}, which is not https", fix) from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(address, error) from error
    with answer:
        length = answer.headers.get("Content-Length", "")
        yield answer, int(length) if length.isascii() and length.isdigit() else None


def _request(address: Address) -> urllib.request.Request:
    """Return the request; a user in the URL goes into a header that is not sent on to other servers."""
    parts = urlsplit(address.url)
    request = urllib.request.Request(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl())
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    return request


def _refused(address: Address, status: int) -> ModelError | HostError:
    if status in (404, 410):
        return ModelError(address.shown, f"the server has no such file (HTTP {status})", "correct the URL")
    if status in (401, 403):
        fix = "use a URL that is signed, or download the file yourself"
        return ModelError(address.shown, f"the server does not let us read it (HTTP {status})", fix)
    fix = "try again later, or download the file yourself"
    return HostError(address.shown, f"the server answers with HTTP {status}", fix)


def _unreachable(address: Address, error: Exception) -> HostError:
    """Say why no connection was made; the parts of these errors that are shown name no URL."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        fix = "if the server has a certificate of your own authority, set SSL_CERT_FILE to the authority's file"
        return HostError(address.shown, f"its certificate cannot be checked: {reason.verify_message}", fix)
    why = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
    if isinstance(reason, TimeoutError):
        why = f"nothing came for {_SILENCE_S} s"
    fix = "check the address and the network, or download the file yourself"
    return HostError(address.shown, f"the server cannot be reached: {why}", fix)


# ---------------------------------------------------------------- buckets


@contextmanager
def _opened_object(address: Address) -> Iterator[tuple[Any, int | None]]:
    """Yield an object of a bucket, and its size.

    Raises:
        ModelError: There is no such object, or these credentials may not read it, or the bucket cannot be reached.
        HostError: The package for such a bucket is not installed.
    """
    try:
        storage = Storage.connect(address.url)
        with storage.reported("read"):
            found = _find(storage)
    except RepositoryError as error:
        raise ModelError(address.shown, error.what, error.fix) from error
    if found is None:
        raise ModelError(address.shown, "there is no such object in the bucket", "correct the URL")
    stream, size = found
    with stream:
        yield stream, size


def _find(storage: Storage) -> tuple[Any, int] | None:
    """Return an open object and its size, or None when there is none."""
    try:
        size = int(storage.filesystem.info(storage.path)["size"])
        return storage.filesystem.open(storage.path, "rb", block_size=16 * _BLOCK), size
    except FileNotFoundError:
        return None
