"""Compare published ONNX files with the modules that they come from, one row at a time.

    python torch_judge.py < jobs.jsonl > verdicts.jsonl

This program knows nothing of the project: it imports PyTorch, NumPy and ONNX Runtime only. Each line of its input names
a module, an ONNX file and the inputs; each line of its output says what was found. The module answers each row by
itself. The file answers the same rows in batches, at several sizes and in other orders, and each row has to get the
module's answer. Beside normal numbers the rows hold zeros, ones, negative, large and small values.
"""

import dataclasses
import importlib
import json
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

Values = Any
"""An array of NumPy."""

BATCHES = (1, 2, 3, 8)
ROWS = 8
TOLERANCES = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-6}
"""As fractions of an output's largest value. Integers and booleans have to be equal."""


def draw(spec: Mapping[str, Any], shape: tuple[int, ...], row: int, rng: np.random.Generator) -> Values:
    """Return values for one row (or for a whole input without a batch).

    Args:
        spec: `values` is `normal`, `different` (normal, and no two equal), `ids N` (whole numbers below N), `bytes`,
            `bits`, `ones`, `prefix` (a mask of ones and then zeros), or `lengths N` (whole numbers from 1 to N).
        shape: The shape.
        row: The number of the row: some get special values.
        rng: A source of random numbers.
    """
    kind, *arguments = spec["values"].split()
    if kind == "normal":
        normal = rng.standard_normal(shape)
        special = (normal, normal, np.zeros(shape), np.ones(shape), -np.abs(normal), 30 * normal, 1e-3 * normal, normal)
        found = special[row % len(special)]
    elif kind == "different":
        found = rng.standard_normal(shape)
    elif kind == "ids":
        found = rng.integers(0, int(arguments[0]), shape)
    elif kind == "bytes":
        found = rng.integers(0, 256, shape)
    elif kind == "bits":
        found = rng.integers(0, 2, shape)
        found[..., 0] = 1
    elif kind == "ones":
        found = np.ones(shape)
    elif kind == "prefix":
        length = shape[-1] if row == 0 else int(rng.integers(1, shape[-1] + 1))
        found = np.broadcast_to(np.arange(shape[-1]) < length, shape)
    elif kind == "lengths":
        found = rng.integers(1, int(arguments[0]) + 1, shape)
    else:
        raise ValueError(f"no such values: {kind}")
    return np.asarray(found).astype(spec["dtype"])


def flat(value: Any) -> Iterator[Values]:
    """Yield the tensors in what a module returns, in order, as arrays."""
    if isinstance(value, torch.Tensor):
        yield value.detach().clone().numpy()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from flat(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from flat(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)


class Judge:
    """One module and one file."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = job
        home, _, name = job["module"].partition(":")
        made = getattr(importlib.import_module(home), name)
        self.module = made if isinstance(made, torch.nn.Module) else made(**job.get("arguments", {}))
        self.module.eval()
        self.session = onnxruntime.InferenceSession(job["model"], providers=["CPUExecutionProvider"])
        self.way = self.session.get_modelmeta().custom_metadata_map.get("exported_by", "")
        self.largest = 0.0
        self.rng = np.random.default_rng(sum(job["name"].encode()))
        expected, found = sorted(s["name"] for s in job["inputs"]), sorted(i.name for i in self.session.get_inputs())
        if expected != found:
            raise AssertionError(f"the inputs are {found}, not {expected}")

    def answer(self, feeds: Mapping[str, Values]) -> list[Values]:
        """Return the module's answer, of the outputs that were kept."""
        tensors = {name: torch.tensor(array) for name, array in feeds.items()}
        with torch.no_grad():
            found = list(flat(self.module(**tensors, **self.job.get("constants", {}))))
        kept = self.job.get("kept")
        return found if kept is None else [found[i] for i in kept]

    def shape(self, spec: Mapping[str, Any], sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape of an input with its named sizes filled in."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec["shape"])

    def compare(self, got: Sequence[Values], expected: Sequence[Values], scales: Sequence[float], where: str) -> None:
        """Compare one row of all outputs.

        Raises:
            AssertionError: They differ.
        """
        assert len(got) == len(expected), f"{len(got)} outputs instead of {len(expected)}"
        for i, (one, other, scale) in enumerate(zip(got, expected, scales, strict=True)):
            assert one.dtype == other.dtype, f"output {i} is {one.dtype}, not {other.dtype}"
            assert one.shape == other.shape, f"{where}: output {i} has shape {one.shape}, not {other.shape}"
            if other.dtype.kind != "f":
                assert np.array_equal(one, other), f"{where}: output {i} differs"
                continue
            mine, right = one.astype(np.float64), other.astype(np.float64)
            finite = np.isfinite(right)
            assert np.array_equal(mine[~finite], right[~finite], equal_nan=True), f"{where}: output {i} is not finite"
            difference = float(np.abs(mine - right)[finite].max(initial=0))
            row_scale = max(float(np.abs(right[finite]).max(initial=0)), scale)
            fraction = difference / row_scale if row_scale else difference
            assert fraction <= TOLERANCES[str(other.dtype)], f"{where}: output {i} differs by {fraction:.2g}"
            self.largest = max(self.largest, fraction)

    def drawn(self, sizes: Mapping[str, int]) -> list[dict[str, Values]]:
        """Return the inputs of each row, with a batch of 1 where the module has it."""
        return [
            {spec["name"]: draw(spec, self.shape(spec, sizes), row, self.rng) for spec in self.job["inputs"]}
            for row in range(ROWS)
        ]

    def judge_rows(self, sizes: Mapping[str, int]) -> None:
        """Compare batches of rows."""
        axes, rows = {spec["name"]: spec["axis"] for spec in self.job["inputs"]}, self.drawn(sizes)
        batch_of = self.job["outputs"]
        answers = [[np.moveaxis(a, batch_of.get(str(i), 0), 0) for i, a in enumerate(self.answer(row))] for row in rows]
        scales = typical(answers)
        moved = {name: [np.moveaxis(row[name], axis, 0) for row in rows] for name, axis in axes.items()}
        for batch, start in ((size, first) for size in BATCHES for first in (0, ROWS - size)):
            order = [(start + 3 * i) % ROWS for i in range(batch)]
            stacked = {name: np.concatenate([column[row] for row in order]) for name, column in moved.items()}
            got = self.session.run(None, stacked)
            for i, row in enumerate(order):
                counts = {len(output) for output in got} - {batch}
                assert not counts, f"at batch size {batch} an output has {counts.pop()} rows"
                where = f"{dict(sizes)}, batch {batch}, row {row}"
                self.compare([output[i : i + 1] for output in got], answers[row], scales, where)

    def judge_whole(self, sizes: Mapping[str, int]) -> None:
        """Compare inputs that have no batch."""
        for row, feeds in enumerate(self.drawn(sizes)):
            expected = self.answer(feeds)
            self.compare(self.session.run(None, feeds), expected, [0.0] * len(expected), f"{dict(sizes)}, draw {row}")


def typical(answers: Sequence[Sequence[Values]]) -> list[float]:
    """Return the usual largest value of each output: the median over the rows."""
    largest = [[float(np.abs(a[np.isfinite(a)]).max(initial=0)) if a.dtype.kind == "f" else 0.0 for a in row]
               for row in answers]  # fmt: skip
    return [float(np.median(column)) for column in zip(*largest, strict=True)]


def judge(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdict on one file: whether it is right, and the first difference if it is not."""
    try:
        judge = Judge(job)
    except Exception as error:
        return {"is_right": False, "why": f"{type(error).__name__}: {error}"}
    verdict = {"way": judge.way, "batches": [] if job["is_static"] else list(BATCHES), "sizes": job["sizes"]}
    for sizes in job["sizes"]:
        try:
            (judge.judge_whole if job["is_static"] else judge.judge_rows)(sizes)
        except Exception as error:  # a wrong answer, or a crash of the module or the file
            if not isinstance(error, AssertionError):
                traceback.print_exc(limit=-3)
            return verdict | {"is_right": False, "why": f"{type(error).__name__} with {sizes}: {str(error)[:300]}"}
    return verdict | {"is_right": True, "largest": judge.largest}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    for line in sys.stdin:
        print(json.dumps(judge(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
