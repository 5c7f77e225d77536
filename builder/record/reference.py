"""The reference of a version, its samples and answers: as an `.npz` file, and as the raw bytes of a request."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from builder.arrays import read_npz
from builder.errors import RepositoryError
from builder.files import reason
from builder.model import fits
from builder.record.manifest import FILE as MANIFEST_FILE
from builder.record.manifest import Manifest, ServedTensor
from builder.tensors import TRITON_TYPES, Array

FILE = "reference.npz"

_ONNX_NAMES = {theirs: name for name, theirs in TRITON_TYPES.items()}


def write_arrays(stream: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Write an `.npz` file whose bytes depend only on the names, their order and the values; nothing is pickled."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # always dated 1980-01-01
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)  # type: ignore[no-untyped-call]


def read_reference(version_dir: Path, manifest: Manifest) -> dict[str, Array]:
    """Read the samples and answers of a version: `input:NAME` and `output:NAME`, each `dtype[rows, *dims]`.

    Raises:
        RepositoryError: The file is missing or damaged, or its arrays are not those of the manifest.
    """
    path = version_dir / manifest.reference.file
    try:
        arrays = read_npz(path, inside=version_dir, expansion=1)  # as `write_arrays` writes it
    except (OSError, ValueError) as error:
        what = f"this reference cannot be read: {reason(error)}"
        raise RepositoryError(path, what, "restore the file, or publish the model again") from error
    expected = {f"input:{tensor.name}": tensor for tensor in manifest.inputs}
    expected |= {f"output:{tensor.name}": tensor for tensor in manifest.outputs}
    rows = manifest.reference.rows
    if arrays.keys() != expected.keys() or not all(_is_of(arrays[key], expected[key], rows) for key in expected):
        what = f"its arrays are not the ones that {MANIFEST_FILE} lists"
        raise RepositoryError(path, what, "restore the file, or publish the model again")
    return arrays


def _is_of(array: Array, tensor: ServedTensor, rows: int) -> bool:
    """Return whether an array holds this many rows of a tensor; a dim of -1 may have any size."""
    shape = (rows, *("any" if dim == -1 else dim for dim in tensor.dims))
    return fits(array, ir.DataType[_ONNX_NAMES[tensor.data_type]], shape)


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
