"""Read arrays in NumPy's formats, `.npy` and `.npz`, from files that anybody may have written.

NumPy's own reader trusts the file: it makes room for the array before it knows that the bytes are there, and unpacks
whatever it finds. Here what a file claims is first compared with its bytes and with this machine's memory. Only
numbers, booleans and strings are read, never pickled objects or records; big-endian values become the machine's own.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from builder import files
from builder.bounded.memory import available_bytes
from builder.progress import format_bytes
from builder.tensors import Array

MAGIC = b"\x93NUMPY"
"""How an `.npy` file begins."""

DEFLATED = 1032
"""The most times its size that DEFLATE can pack into a file (source: https://zlib.net/zlib_tech.html)."""

_MAX_HEADER = 1 << 16
_MAX_DIRECTORY = 1 << 22
_BLOCK = 1 << 20

_TYPE = re.compile(rb"""['"]descr['"]\s*:\s*['"]([^'"]*)['"]""")
_ORDER = re.compile(rb"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(rb"""['"]shape['"]\s*:\s*\(([\d\s,L]*)\)""")  # Python 2 wrote 3L

_LAST_CHARACTER = 0x10FFFF
_SURROGATES = 0xD800
"""The first of 2048 code points that are halves of characters in UTF-16, and no characters themselves."""


def read_npy(path: Path, *, limit: int) -> Array:
    """Read one array, from a file of at most `limit` bytes.

    Raises:
        OSError: The file cannot be read, is not a regular one, or is too large.
        ValueError: It is not an array in this format.
    """
    content = files.read(path, limit=limit)
    return _read_array(io.BytesIO(content), len(content))


def read_npz(path: Path, *, inside: Path | None = None, expansion: int = DEFLATED) -> dict[str, Array]:
    """Read an archive of arrays, by their names.

    Args:
        path: The file.
        inside: The folder that the file must be in, as for `files.read`.
        expansion: How many times as large as the file its arrays may be; 1 if it was not written compressed.

    Raises:
        OSError: The file cannot be read, is not a regular one, or is outside the folder.
        ValueError: It is not such an archive, is damaged, or does not fit into memory.
    """
    with files.open_file(path, inside=inside) as stream, _damage_told():
        if stream.peek(len(MAGIC)).startswith(MAGIC):
            raise ValueError("it holds a single array without a name")
        with _Wary(stream.raw) as wary, zipfile.ZipFile(wary) as archive:
            entries = archive.infolist()
            _check_size(sum(entry.file_size for entry in entries), os.fstat(stream.fileno()).st_size * expansion)
            arrays = {entry.filename.removesuffix(".npy"): _read_member(archive, entry) for entry in entries}
    if len(arrays) < len(entries):
        raise ValueError("it holds two arrays of the same name")
    return arrays


class _Wary(io.BufferedReader):
    """A stream that does not read a whole directory of millions of members, which `zipfile` asks for in one piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise ValueError(f"its list of members has {format_bytes(size)}")
        return super().read(size)


@contextmanager
def _damage_told() -> Iterator[None]:
    """Turn what `zipfile` raises for a damaged archive into a ValueError. RuntimeError means that it is encrypted."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the file is not an .npz archive, or is damaged: {error}") from error


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename!r} is compressed in a way that NumPy does not use")
    try:
        with archive.open(entry) as member:
            return _read_array(member, entry.file_size)
    except ValueError as error:
        raise ValueError(f"{entry.filename!r}: {error}") from error


def _read_array(stream: Any, size: int) -> Array:
    """Read an array from a stream of `size` bytes."""
    dtype, shape, is_fortran, start = _read_header(stream)
    count = math.prod(shape)
    if start + count * dtype.itemsize != size:
        has = format_bytes(max(0, size - start))
        raise ValueError(f"it says that it is an array of {dtype.name}{list(shape[:32])}, but has {has} of values")
    flat = np.empty(count, dtype)
    _fill(stream, flat.view(np.uint8).data)
    flat = flat.astype(dtype.newbyteorder("="), copy=False)
    _check_values(flat)
    array: Array = flat.reshape(shape[::-1]).T if is_fortran else flat.reshape(shape)
    return array


def _read_header(stream: BinaryIO) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Return the type and the shape of the values, whether the first axis varies fastest, and where they start."""
    start = stream.read(8)
    if start[:6] != MAGIC or start[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("it is not an array in NumPy's .npy format")
    width = 2 if start[6:] == b"\1\0" else 4
    length = int.from_bytes(stream.read(width), "little")
    header = stream.read(min(length, _MAX_HEADER))
    found = [pattern.search(header) for pattern in (_TYPE, _ORDER, _SHAPE)]
    if len(header) < length or None in found:
        raise ValueError("its header is damaged, or it is an array of records")
    descr, order, dims = (match[1].decode("latin1") for match in found if match)
    shape = tuple(int(dim.strip().removesuffix("L")) for dim in dims.split(",") if dim.strip())
    return _read_type(descr), shape, order == "True", 8 + width + length


def _read_type(descr: str) -> np.dtype[Any]:
    """Read the type of numbers, booleans or strings, such as `<f4`, `|b1` or `<U12`."""
    if re.fullmatch(r"[<>|=]?[biufcSU]\d{1,10}", descr):
        try:
            dtype = np.dtype(descr)
        except TypeError:
            dtype = np.dtype(np.void)
        if dtype.itemsize > 0:
            return dtype
    raise ValueError(f"its values are of the type {descr!r}, which are neither numbers nor strings")


def _fill(stream: BinaryIO, target: memoryview) -> None:
    done = 0
    while done < len(target):
        block = stream.read(min(_BLOCK, len(target) - done))
        if not block:
            raise ValueError(f"it ends after {done} of {len(target)} bytes")
        target[done : done + len(block)] = block
        done += len(block)


def _check_values(flat: Array) -> None:
    """Refuse bytes that are not values of their type: a boolean of 2, and text that is not Unicode."""
    if flat.dtype.kind == "b" and (flat.view(np.uint8) > 1).any():
        raise ValueError("it has booleans that are neither 0 nor 1")
    if flat.dtype.kind == "U":
        codes = flat.view(np.uint32)
        if ((codes > _LAST_CHARACTER) | (codes & ~np.uint32(0x7FF) == _SURROGATES)).any():
            raise ValueError("it has text that is not Unicode")


def _check_size(needed: int, most: int) -> None:
    left = available_bytes() // 2
    if needed > left:
        what = f"its arrays take {format_bytes(needed)}, and only {format_bytes(left)} are read"
        raise ValueError(f"{what}: half of what this machine has left")
    if needed > most:
        raise ValueError(f"its arrays take {format_bytes(needed)}, but the file can hold only {format_bytes(most)}")
