"""Wrong answers kept as files: the request, the answer, the expected answer, and what is needed to send it again."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.checking.archives import read_arrays
from loadtest.checking.expected import Expected, Fault
from loadtest.checking.requests import Request
from loadtest.errors import SettingsError, reason
from loadtest.wire import Answer, Array, from_wire, to_wire

_LONGEST_NAME = 1000
"""A server may name an output as it likes, but the name of a file in an archive has 65,535 bytes at most."""

FIX = "name a file from the wrong/ directory of a report"


def pack(protocol: str, request: Request, answer: Answer, expected: Expected, fault: Fault) -> bytes:
    """Return an .npz file: arrays `input:NAME`, `answer:NAME` and `expected:NAME`, and `about`, which is JSON."""
    arrays = {f"input:{name}": _storable(array) for name, array in request.inputs().items()}
    arrays |= {f"expected:{name}": _storable(output.right) for name, output in expected.outputs.items()}
    for slot in answer.layout.slots:
        received = _as_received(answer.body[slot.start : slot.stop], slot.datatype, slot.shape)
        arrays[f"answer:{slot.name}"[:_LONGEST_NAME]] = received
    about = {
        "protocol": protocol,
        "version_answered": answer.layout.version,
        "kind": fault.kind.value,
        "output": fault.output,
        "row": fault.row,
        "what": fault.what,
        **_describe(request, expected),
    }
    file = io.BytesIO()
    np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
    return file.getvalue()


def _describe(request: Request, expected: Expected) -> dict[str, Any]:
    """Return what is needed to send the request again and to check the answer."""
    reference = expected.reference
    return {
        "model": request.samples.model,
        "version_asked": request.samples.version,
        "reference_version": reference.version,
        "reference_rows": list(expected.group),
        "inputs": [[spec.name, spec.datatype, list(spec.dims)] for spec in request.samples.inputs],
        "outputs": [[spec.name, spec.datatype, list(spec.dims)] for spec in reference.outputs],
        "binary": request.samples.binary,
        "max_batch_size": request.samples.max_batch_size,
        "parameters": dict(request.samples.parameters),
        "tolerances": {
            name: {"rtol": tolerance.rtol, "atol": tolerance.atol} for name, tolerance in reference.tolerances.items()
        },
    }


def _as_received(data: bytes, datatype: str, shape: tuple[int, ...]) -> Array:
    """Return an output as the server described it, or its bytes if they do not fit the description."""
    try:
        return _storable(from_wire(data, datatype, shape))
    except (ValueError, KeyError, OverflowError):
        return np.frombuffer(data, np.uint8)


def _storable(array: Array) -> Array:
    """Return an array as a file of arrays can keep it: strings as text, or else as they are sent.

    Such a file loses the NULs at the end of a text, and cannot keep strings that are no text, such as a JPEG.
    """
    if array.dtype != object:
        return array
    values = array.ravel().tolist()
    if all(isinstance(value, str) and not value.endswith("\0") for value in values):
        return array.astype(np.str_)
    return np.frombuffer(to_wire(array, "BYTES"), np.uint8)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a kept wrong answer: what is known about it, and its arrays.

    Raises:
        SettingsError: The file is something else.
    """
    try:
        arrays = read_arrays(path)
        about = json.loads(str(arrays.pop("about", None)))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(path, f"this file is not a kept wrong answer: {reason(error)}", FIX) from error
    if not isinstance(about, dict):
        raise SettingsError(path, "this file is not a kept wrong answer: it says nothing about it", FIX)
    return about, arrays
