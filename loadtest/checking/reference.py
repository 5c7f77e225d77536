"""The stored reference of a published version: samples, the right answers to them, and how close an answer must be.

Everything is read from the repository's files (`NAME/VERSION/reference.npz` and `manifest.json`), which docs/design.md
describes under "On disk".
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.errors import SettingsError, reason
from loadtest.wire import Array, TensorSpec

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
        version: The version's number.
        max_batch_size: Triton's limit on rows per request; 0 means that the model takes no batches.
        inputs: In the order of the manifest.
        outputs: In the order of the manifest.
        samples: Per input, `[rows, *dims]`.
        answers: Per output, `[rows, *dims]`; row i is the answer to row i of the samples.
        tolerances: Per output.
    """

    model: str
    version: int
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
    return sorted(int(name) for name in found if name.isdecimal() and not name.startswith("0"))


def read_reference(repository: Path, model: str, version: int) -> Reference:
    """Read the reference that was stored when `version` of `model` was published.

    Raises:
        SettingsError: The repository does not have this version, or its reference is damaged.
    """
    folder = repository / model / str(version)
    manifest = _read_manifest(folder / "manifest.json")
    arrays = _read_arrays(folder / "reference.npz")
    batched = int(manifest["max_batch_size"]) > 0
    inputs, outputs = (_specs(manifest[side], batched) for side in ("inputs", "outputs"))
    reference = Reference(
        model=model,
        version=version,
        max_batch_size=int(manifest["max_batch_size"]),
        inputs=inputs,
        outputs=outputs,
        samples=_side(arrays, "input", inputs, folder),
        answers=_side(arrays, "output", outputs, folder),
        tolerances=_tolerances(manifest),
    )
    _check_rows(reference, folder)
    return reference


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise SettingsError(path, "the file does not exist", _PUBLISH_AGAIN) from error
    except (OSError, ValueError) as error:
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", _PUBLISH_AGAIN) from error
    if not isinstance(manifest, dict) or manifest.get("format") != 1:
        raise SettingsError(path, "the file is not a manifest of format 1", _PUBLISH_AGAIN)
    missing = [key for key in ("max_batch_size", "inputs", "outputs", "proof") if key not in manifest]
    if missing:
        raise SettingsError(path, f"these keys are missing: {', '.join(missing)}", _PUBLISH_AGAIN)
    return manifest


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise SettingsError(path, "the file does not exist", _PUBLISH_AGAIN) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", _PUBLISH_AGAIN) from error


def _specs(entries: Sequence[Mapping[str, Any]], batched: bool) -> tuple[TensorSpec, ...]:
    """Read inputs or outputs; with batching, Triton serves a tensor without dims as `[1]`."""
    scalar = (1,) if batched else ()
    return tuple(
        TensorSpec(entry["name"], kserve_datatype(entry["data_type"]), tuple(entry["dims"]) or scalar)
        for entry in entries
    )


def kserve_datatype(data_type: str) -> str:
    """Return KServe's name of a type in config.pbtxt: `TYPE_FP32` is `FP32`, `TYPE_STRING` is `BYTES`."""
    name = data_type.removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _side(arrays: Mapping[str, Array], prefix: str, specs: tuple[TensorSpec, ...], folder: Path) -> dict[str, Array]:
    missing = [spec.name for spec in specs if f"{prefix}:{spec.name}" not in arrays]
    if missing:
        what = f"these {prefix}s of manifest.json are missing: {', '.join(missing)}"
        raise SettingsError(folder / "reference.npz", what, _PUBLISH_AGAIN)
    return {spec.name: _with_dims(arrays[f"{prefix}:{spec.name}"], spec.dims) for spec in specs}


def _with_dims(array: Array, dims: tuple[int, ...]) -> Array:
    return array[:, np.newaxis] if array.ndim == 1 and dims == (1,) else array


def _check_rows(reference: Reference, folder: Path) -> None:
    counts = {name: len(array) for name, array in (*reference.samples.items(), *reference.answers.items())}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise SettingsError(folder / "reference.npz", f"the numbers of rows differ or are 0: {listed}", _PUBLISH_AGAIN)


def _tolerances(manifest: Mapping[str, Any]) -> dict[str, Tolerance]:
    outputs = manifest["proof"].get("outputs", {})
    return {
        name: Tolerance(float(proof.get("rtol", 0)), float(proof.get("atol", 0))) for name, proof in outputs.items()
    }
