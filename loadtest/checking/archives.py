"""Read `.npz` archives that anybody may have written; pickled objects are refused."""

import io
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from loadtest.files import open_file
from loadtest.wire import Array

DEFLATED = 1032
"""The most times its size that DEFLATE can pack into a file (source: https://zlib.net/zlib_tech.html)."""

_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, LookupError, TypeError),
    *(ArithmeticError, AttributeError, SyntaxError, tokenize.TokenError, MemoryError),
)
"""What `zipfile` and NumPy raise for damaged files, besides ValueError. RuntimeError: encrypted, or nested deeply."""

_LAST_CHARACTER = 0x10FFFF
_SURROGATES = 0xD800
"""The first of 2048 code points that are halves of characters in UTF-16, and no characters themselves."""


def read_arrays(path: Path, *, inside: Path | None = None, expansion: int = DEFLATED) -> dict[str, Array]:
    """Read an archive of arrays, by their names.

    Args:
        path: The file.
        inside: The folder that the file must be in, as for `open_file`.
        expansion: How many times as large as the file its arrays may be; 1 if it was not written compressed.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such an archive, is damaged, or does not fit into memory.
    """
    try:
        with open_file(path, inside=inside) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_size(sum(entry.file_size for entry in entries), os.fstat(file.fileno()).st_size * expansion)
            return {entry.filename.removesuffix(".npy"): _read_array(archive, entry) for entry in entries}
    except _DAMAGE as error:
        raise ValueError(f"it is not an .npz archive, or is damaged: {error}") from error


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is compressed in a way that NumPy does not use")
    content = archive.read(entry)  # all of it: an array of more values than there are bytes is then refused
    array: Array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)  # type: ignore[no-untyped-call]
    if array.size and not array.dtype.itemsize:
        raise ValueError(f"{entry.filename} has values of no size")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "U":
        codes = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
        if ((codes > _LAST_CHARACTER) | (codes & ~np.uint32(0x7FF) == _SURROGATES)).any():
            raise ValueError(f"{entry.filename} has text that is not Unicode")
    return array


def _check_size(needed: int, most: int) -> None:
    if needed > most:
        raise ValueError(f"its arrays take {needed / 1e6:,.1f} MB, but the file can hold only {most / 1e6:,.1f} MB")
    if needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2:
        raise ValueError(f"its arrays take {needed / 1e9:.1f} GB, more than half of this machine's memory")
