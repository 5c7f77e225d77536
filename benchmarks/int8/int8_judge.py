"""Measure what a lower precision costs and gains: errors, accuracy and speed of a file beside the one it was made of.

    python int8_judge.py ORIGINAL.onnx FP32.onnx OTHER.onnx SAMPLES.npz [--metric MODULE:FUNCTION] [--seconds 4]
        [--basic]

This program knows nothing of the project: it imports NumPy and ONNX Runtime only. `ORIGINAL.onnx` has a fixed batch of
1 and answers each row alone; these are the right answers. `OTHER.onnx` answers the same rows in batches of 1 and of 32,
also in another order. The inputs are taken in order, whatever their names are. `label` in the samples is the right
class of each row; with `--metric`, whatever that function takes. The speed is that of `OTHER.onnx` beside `FP32.onnx`,
both with a dynamic batch, in processor time on one thread: the two take turns, and medians are compared.

The answer is one line of JSON:

    largest_error   by output: the largest difference, as a part of the output's largest value
    mean_error      by output: the mean difference, as a part of the mean of the values
    neighbours      the largest difference between a row's answers in different batches, as a part of the largest value
    before, after   the accuracy
    changed         how many rows have another class than before; null with a metric
    speed           by batch size: how many times the throughput of FP32.onnx
"""

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Values = Any
"""An array of NumPy."""

Answers = dict[str, Values]

LARGE = 32


def opened(path: Path, *, is_basic: bool = False) -> onnxruntime.InferenceSession:
    """Return a session on one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if is_basic:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class File:
    """One file, whose inputs and outputs go by their order."""

    def __init__(self, path: Path, outputs: "list[str] | None" = None, *, is_basic: bool = False) -> None:
        self.path = path
        self.session = opened(path, is_basic=is_basic)
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = outputs or [value.name for value in self.session.get_outputs()]

    def answer(self, rows: list[Values]) -> Answers:
        """Return the answers to rows of all inputs, by the outputs' names in the original."""
        found = self.session.run(None, dict(zip(self.inputs, rows, strict=True)))
        return dict(zip(self.outputs, found, strict=True))

    def answer_all(self, rows: list[Values], batch: int, order: "Values | None" = None) -> Answers:
        """Return the answers to many rows, in batches, by the rows' own order."""
        count = len(rows[0])
        order = np.arange(count) if order is None else order
        parts = [self.answer([value[order[i : i + batch]] for value in rows]) for i in range(0, count, batch)]
        back = np.argsort(order)
        return {name: np.concatenate([part[name] for part in parts])[back] for name in self.outputs}


def largest(one: Values, other: Values) -> float:
    """Return the largest difference of two arrays, as a part of the largest value of the second."""
    scale = float(np.abs(other).max(initial=0)) or 1.0
    difference = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0)) / scale


def mean(one: Values, other: Values) -> float:
    """Return the mean difference of two arrays, as a part of the mean of the absolute values of the second."""
    difference = np.abs(one.astype(np.float64) - other.astype(np.float64)).mean()
    return float(difference) / (float(np.abs(other.astype(np.float64)).mean()) or 1.0)


def measured(answers: Answers, labels: Values, metric: "str | None") -> float:
    """Return the accuracy of answers: of the only output's classes, or what the metric says."""
    if metric is not None:
        home, _, name = metric.partition(":")
        return float(getattr(importlib.import_module(home), name)(answers, labels))
    (scores,) = answers.values()
    return float((scores.argmax(-1) == labels).mean())


def turns(files: list[File], rows: list[Values], batch: int, seconds: float) -> list[float]:
    """Return the median processor time of a run of each file, which take turns."""
    feeds = [value[:batch] for value in rows]
    times: list[list[float]] = [[] for _ in files]
    for file in files:
        file.answer(feeds)
    end = time.process_time() + seconds
    while time.process_time() < end or len(times[0]) < 5:
        for file, found in zip(files, times, strict=True):
            start = time.thread_time()
            file.answer(feeds)
            found.append(time.thread_time() - start)
    return [statistics.median(found) for found in times]


def rows_of(samples: Mapping[str, Values], inputs: list[str]) -> list[Values]:
    """Return the rows of each input: by its name in the file, or else in the order of the samples."""
    if set(inputs) <= set(samples):
        return [samples[name] for name in inputs]
    return [samples[name] for name in samples if name != "label"]


def judge(
    original: Path,
    fp32: Path,
    other: Path,
    samples: Mapping[str, Values],
    metric: "str | None",
    seconds: float,
    *,
    is_basic: bool = False,
) -> dict[str, Any]:
    """Return what was measured."""
    truth = File(original)
    rows, labels = rows_of(samples, truth.inputs), samples["label"]
    right, file = truth.answer_all(rows, 1), File(other, truth.outputs, is_basic=is_basic)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    alone, *batched = file.answer_all(rows, 1), file.answer_all(rows, LARGE), file.answer_all(rows, LARGE, shuffled)
    return {
        "largest_error": worst(largest, [alone, *batched], right),
        "mean_error": worst(mean, [alone, *batched], right),
        "neighbours": max(worst(largest, batched, alone).values()),
        "before": measured(right, labels, metric),
        "after": measured(batched[0], labels, metric),
        "changed": None if metric else int((classes(right) != classes(batched[0])).sum()),
        "rows": len(labels),
        **paces(File(fp32), file, rows, seconds),
        "bytes": sum(path.stat().st_size for path in other.parent.glob(f"{other.name}*")),
    }


def worst(measure: Callable[[Values, Values], float], found: list[Answers], right: Answers) -> dict[str, float]:
    """Return the largest of a measure over several answers to the same rows, by output."""
    return {name: max(measure(answers[name], right[name]) for answers in found) for name in right}


def classes(answers: Answers) -> Values:
    """Return the class of each row, by the first output."""
    return next(iter(answers.values())).argmax(-1)


def paces(fp32: File, file: File, rows: list[Values], seconds: float) -> dict[str, Any]:
    """Return how fast a file is, and how many times as fast as the one in fp32, by batch size."""
    times = {str(batch): turns([fp32, file], rows, batch, seconds / 2) for batch in (1, LARGE)}
    return {
        "speed": {batch: one / other for batch, (one, other) in times.items()},
        "milliseconds": {batch: other * 1000 for batch, (_, other) in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("original", "fp32", "other", "samples"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--metric", metavar="MODULE:FUNCTION")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument(
        "--basic", action="store_true", help="only basic optimizations, as `level: 1` in a config.pbtxt"
    )
    asked = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    with np.load(asked.samples) as samples:
        found = judge(
            asked.original, asked.fp32, asked.other, dict(samples), asked.metric, asked.seconds, is_basic=asked.basic
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
