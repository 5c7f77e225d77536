"""The stored reference of a published version: samples, the right answers to them, and how close an answer must be.

Everything is read from the repository's files (`NAME/VERSION/reference.npz` and `manifest.json`), which docs/design.md
describes under "On disk".
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.checking.archives import read_arrays
from loadtest.errors import SettingsError, reason
from loadtest.files import read_json
from loadtest.wire import DTYPES, Array, TensorSpec, is_version

_PUBLISH_AGAIN = "publish the model again, or leave out --repository to run without checking answers"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An answer is right within `atol + rtol * |reference|`."""

    rtol: float = 0.0
    atol: float = 0.0


@dataclass(frozen=True)
class Reference:
    """What one published version answers to its samples.

    Attributes:
        model: The model's name.
        version: The version's number; None if the answers are right for every version.
        max_batch_size: Triton's limit on rows per request; 0 means that the model takes no batches.
        inputs: In the order of the manifest.
        outputs: In the order of the manifest.
        samples: Per input, `[rows, *dims]`.
        answers: Per output, `[rows, *dims]`; row i is the answer to row i of the samples.
        tolerances: Per output.
    """

    model: str
    version: int | None
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    samples: Mapping[str, Array]
    answers: Mapping[str, Array]
    tolerances: Mapping[str, Tolerance]

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return len(self.samples[self.inputs[0].name])

    @cached_property
    def row_by_inputs(self) -> dict[bytes, int]:
        """Which row has exactly these inputs. This finds one version's sample in another version's reference."""
        return {self.input_bytes(row): row for row in range(self.rows)}

    def input_bytes(self, row: int) -> bytes:
        """Return all inputs of `row`, joined in the order of their names."""
        return b"\0".join(self.samples[name][row].tobytes() for name in sorted(self.samples))


def find_versions(repository: Path, model: str) -> list[int]:
    """Return the versions of `model` that have a reference, in ascending order."""
    found = (path.parent.name for path in (repository / model).glob("*/reference.npz"))
    return sorted(int(name) for name in found if is_version(name))


def read_reference(repository: Path, model: str, version: int) -> Reference:
    """Read the reference that was stored when `version` of `model` was published.

    Raises:
        SettingsError: The repository does not have this version, or its reference is damaged.
    """
    folder = _follow(repository / model / str(version), repository)
    manifest = _read_manifest(folder / "manifest.json", folder)
    arrays = _read_arrays(folder / "reference.npz", folder)
    try:
        reference = _make_reference(model, version, manifest, arrays)
        check_arrays(reference)
    except DAMAGE as error:
        what = f"manifest.json and reference.npz do not fit together: {describe(error)}"
        raise SettingsError(folder, what, _PUBLISH_AGAIN) from error
    return reference


def _follow(folder: Path, repository: Path) -> Path:
    """Return the version that a link in the same repository stands for, such as that of `deploy`'s NAME.candidate.

    Any other folder is returned as it is: files are read inside it only.
    """
    place = Path(os.path.realpath(folder))
    is_version_there = place.parent.parent == Path(os.path.realpath(repository)) and is_version(place.name)
    return place if is_version_there else folder


DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading values of another form than expected raises."""


def describe(error: Exception) -> str:
    """Return what is wrong with a document, for an error of `DAMAGE`, in at most 300 characters."""
    return (f"{error} is missing" if isinstance(error, KeyError) else str(error))[:300]


def _read_manifest(path: Path, folder: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path, limit_mb=8, inside=folder)
    except FileNotFoundError as error:
        raise SettingsError(path, "the file does not exist", _PUBLISH_AGAIN) from error
    except (OSError, ValueError) as error:
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", _PUBLISH_AGAIN) from error
    if not isinstance(manifest, dict) or manifest.get("format") != 1:
        raise SettingsError(path, "the file is not a manifest of format 1", _PUBLISH_AGAIN)
    return manifest


def _read_arrays(path: Path, folder: Path) -> dict[str, Array]:
    try:
        return read_arrays(path, inside=folder, expansion=1)  # a published reference is not compressed
    except FileNotFoundError as error:
        raise SettingsError(path, "the file does not exist", _PUBLISH_AGAIN) from error
    except (OSError, ValueError) as error:
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", _PUBLISH_AGAIN) from error


def _make_reference(model: str, version: int, manifest: Mapping[str, Any], arrays: Mapping[str, Array]) -> Reference:
    max_batch_size = read_batch_size(manifest["max_batch_size"])
    # With batching, Triton serves a tensor without dims as `[1]`.
    scalar = (1,) if max_batch_size else ()
    inputs, outputs = (
        tuple(
            read_spec(entry["name"], kserve_datatype(entry["data_type"]), tuple(entry["dims"]) or scalar)
            for entry in manifest[side]
        )
        for side in ("inputs", "outputs")
    )
    return Reference(
        model=model,
        version=version,
        max_batch_size=max_batch_size,
        inputs=inputs,
        outputs=outputs,
        samples=_side(arrays, "input", inputs),
        answers=_side(arrays, "output", outputs),
        tolerances=read_tolerances(manifest["proof"].get("outputs", {})),
    )


def read_batch_size(value: Any) -> int:
    """Read a max_batch_size; a ValueError says what is wrong with it."""
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"{str(value)[:40]} is not a max_batch_size")
    return value


def read_spec(name: Any, datatype: Any, dims: Sequence[Any]) -> TensorSpec:
    """Describe a tensor by the words of a document; a ValueError says which of them cannot be right."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{name!r} is not the name of a tensor")
    name.encode()  # a ValueError for text that is not Unicode
    if datatype != "BYTES" and datatype not in DTYPES:
        raise ValueError(f"{datatype!r} is not a datatype of KServe")
    if not all(type(dim) is int and (dim == -1 or 0 < dim < 1 << 63) for dim in dims):
        raise ValueError(f"{list(dims[:32])} are not the dims of {name}")
    return TensorSpec(name, datatype, tuple(dims))


def read_tolerances(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Tolerance]:
    """Read the tolerances of outputs; a ValueError says which of them is wrong."""
    found = {name: Tolerance(float(one.get("rtol", 0)), float(one.get("atol", 0))) for name, one in entries.items()}
    for name, tolerance in found.items():
        if not (math.isfinite(tolerance.rtol + tolerance.atol) and min(tolerance.rtol, tolerance.atol) >= 0):
            raise ValueError(f"the tolerance of {name} is {tolerance}")
    return found


def check_arrays(reference: Reference) -> None:
    """Check that the samples and answers have the types, the dims and the number of rows that they should have.

    Raises:
        ValueError: They do not.
    """
    for specs, arrays in ((reference.inputs, reference.samples), (reference.outputs, reference.answers)):
        for spec in specs:
            _check_array(arrays[spec.name], spec)
    counts = {name: len(array) for name, array in (*reference.samples.items(), *reference.answers.items())}
    if not reference.inputs:
        raise ValueError("there are no inputs")
    if len(set(counts.values())) != 1 or 0 in counts.values():
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"the numbers of rows differ or are 0: {listed}")


def _check_array(array: Array, spec: TensorSpec) -> None:
    has_type = array.dtype.kind == "U" if spec.datatype == "BYTES" else array.dtype == DTYPES[spec.datatype]
    if not (has_type and array.ndim and spec.takes(array.shape[1:])):
        found, wanted = (
            f"{array.dtype}{list(array.shape)}",
            f"{spec.datatype}[rows{''.join(f', {d}' for d in spec.dims)}]",
        )
        raise ValueError(f"the array of {spec.name} is {found} instead of {wanted}")


def kserve_datatype(data_type: str) -> str:
    """Return KServe's name of a type in config.pbtxt: `TYPE_FP32` is `FP32`, `TYPE_STRING` is `BYTES`."""
    name = data_type.removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _side(arrays: Mapping[str, Array], prefix: str, specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    return {spec.name: _with_dims(arrays[f"{prefix}:{spec.name}"], spec.dims) for spec in specs}


def _with_dims(array: Array, dims: tuple[int, ...]) -> Array:
    return array[:, np.newaxis] if array.ndim == 1 and dims == (1,) else array
