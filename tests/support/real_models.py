"""The models of tests/models, each from a real exporter with a static batch, and what they answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

Array = np.ndarray[Any, Any]

FOLDER = Path(__file__).parents[1] / "models"


@dataclass(frozen=True, slots=True)
class RealModel:
    """One model and what its manifest says about it; the batch of every tensor is on axis 0.

    Attributes:
        stem: Its file's name without the suffix.
        static_batch: What the exporter froze.
        refused: The type of the node that mixes samples; empty if the model can be batched.
        inputs: The manifest's entries for the inputs.
        rtol: How near an answer must come, relative to the answer.
        atol: How near an answer must come, absolute.
    """

    stem: str
    static_batch: int
    refused: str
    inputs: tuple[Mapping[str, Any], ...]
    rtol: float
    atol: float

    @property
    def path(self) -> Path:
        """The .onnx file."""
        return FOLDER / f"{self.stem}.onnx"

    def draw(self, rows: int, seed: int = 0) -> list[Array]:
        """Valid inputs, in order, each `[rows, *dims]`."""
        rng = np.random.default_rng([seed, rows])
        return [_draw(entry, rows, rng) for entry in self.inputs]

    def answer(self, inputs: list[Array]) -> list[Array]:
        """What the original answers, run on chunks of its static batch: each `[rows, *dims]`, in order."""
        rows, size = len(inputs[0]), self.static_batch
        answers = []
        for start in range(0, rows, size):
            chunk = np.minimum(np.arange(start, start + size), rows - 1)
            feeds = {entry["name"]: array[chunk] for entry, array in zip(self.inputs, inputs, strict=True)}
            answers.append(session(self.path).run(None, feeds))
        return [np.concatenate(parts)[:rows] for parts in zip(*answers, strict=True)]

    def check(self, got: list[Array], inputs: list[Array]) -> None:
        """Compare answers with the original's."""
        for array, wanted in zip(got, self.answer(inputs), strict=True):
            assert array.dtype == wanted.dtype
            np.testing.assert_allclose(array, wanted, rtol=self.rtol, atol=self.atol)


def _draw(entry: Mapping[str, Any], rows: int, rng: np.random.Generator) -> Array:
    shape, sample = (rows, *entry["shape"][1:]), entry["sample"]
    match sample["kind"]:
        case "normal":
            values = rng.standard_normal(shape) * sample.get("scale", 1.0)
        case "randint":
            values = rng.integers(sample["low"], sample["high"], shape)
        case "mask":
            values = np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))
        case kind:
            raise NotImplementedError(kind)
    return np.asarray(values).astype(entry["dtype"])


@cache
def session(path: Path) -> ort.InferenceSession:
    """ONNX Runtime on the CPU, warnings about shapes shown."""
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _read() -> list[RealModel]:
    return [
        RealModel(
            stem=entry["stem"],
            static_batch=entry["B0"],
            refused=entry["refused"],
            inputs=tuple(entry["inputs"]),
            rtol=entry["tolerance"]["rtol"],
            atol=entry["tolerance"]["atol"],
        )
        for entry in json.loads((FOLDER / "manifest.json").read_text())["models"]
    ]


BATCHABLE = [model for model in _read() if not model.refused]
REFUSED = [model for model in _read() if model.refused]
