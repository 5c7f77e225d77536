"""Wrong answers kept as files: the request, what came, what should have come, and how to ask again."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.checking.answers import Answer, Expected, Fault
from loadtest.checking.samples import Request
from loadtest.errors import SettingsError
from loadtest.wire.tensors import Array, from_wire


def pack(protocol: str, request: Request, answer: Answer, expected: Expected, fault: Fault) -> bytes:
    """One .npz: arrays `input:NAME`, `answer:NAME` and `expected:NAME`, and `about` as JSON text."""
    about = {
        "model": request.samples.model,
        "version_asked": request.samples.version,
        "version_answered": answer.layout.version,
        "reference_version": expected.reference.version,
        "reference_rows": list(expected.group),
        "protocol": protocol,
        "kind": fault.kind.value,
        "output": fault.output,
        "row": fault.row,
        "what": fault.what,
        "inputs": [[tensor.name, tensor.datatype, list(tensor.dims)] for tensor in request.samples.inputs],
        "outputs": [[tensor.name, tensor.datatype, list(tensor.dims)] for tensor in expected.reference.outputs],
        "binary": request.samples.binary,
        "max_batch_size": request.samples.max_batch_size,
        "tolerances": {
            name: {"rtol": tolerance.rtol, "atol": tolerance.atol}
            for name, tolerance in expected.reference.tolerances.items()
        },
    }
    arrays: dict[str, Array] = {f"input:{name}": array for name, array in request.inputs().items()}
    arrays.update({f"expected:{name}": output.right for name, output in expected.outputs.items()})
    for slot in answer.layout.slots:
        arrays[f"answer:{slot.name}"] = _as_it_came(answer.body[slot.start : slot.stop], slot.datatype, slot.shape)
    file = io.BytesIO()
    np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
    return file.getvalue()


def _as_it_came(data: bytes, datatype: str, shape: tuple[int, ...]) -> Array:
    try:
        return from_wire(data, datatype, shape)
    except (ValueError, KeyError):
        return np.frombuffer(data, np.uint8)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a kept wrong answer: what is known about it, and its arrays.

    Raises:
        SettingsError: It is no such file.
    """
    mend = "name a file from the wrong/ directory of a report"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return json.loads(str(arrays.pop("about"))), arrays
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise SettingsError(path, f"it is not a kept wrong answer: {error}", mend) from error
