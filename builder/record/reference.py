"""The reference of a version, its samples and answers: as an `.npz` file, and as the raw bytes of a request."""

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from builder.errors import RepositoryError
from builder.tensors import Array

FILE = "reference.npz"


def write_arrays(stream: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Write an `.npz` file whose bytes depend only on the names, their order and the values; nothing is pickled."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # always dated 1980-01-01
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)  # type: ignore[no-untyped-call]


def read_arrays(path: Path) -> dict[str, Array]:
    """Read an `.npz` file; pickled objects are refused.

    Raises:
        RepositoryError: The file is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {entry.filename.removesuffix(".npy"): _read_array(archive, entry) for entry in archive.infolist()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise RepositoryError(
            path, f"this reference cannot be read: {error}", "restore the file, or publish the model again"
        ) from error


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    with archive.open(entry) as member:
        array: Array = np.lib.format.read_array(member, allow_pickle=False)  # type: ignore[no-untyped-call]
    return array


def first_row(reference: Mapping[str, Array]) -> dict[str, Array]:
    """Return the first row of every input, by the input's name: `dtype[*dims]`."""
    prefix = "input:"
    return {key[len(prefix) :]: rows[0] for key, rows in reference.items() if key.startswith(prefix)}


def raw_bytes(array: Array) -> bytes:
    """Return the values as a Triton request carries them, in row-major order.

    Numbers are little-endian. A boolean is one byte. A string is its length as uint32, followed by its UTF-8 bytes.

    Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md,
    Tensor Data
    """
    if array.dtype.kind in "US":
        encoded = (value if isinstance(value, bytes) else str(value).encode() for value in array.reshape(-1))
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
