"""A model runs all samples, in batches that it takes, with the memory and the time that are left."""

import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.plans import small

from builder.bounded import OutOfMemoryError, OutOfTimeError
from builder.errors import VerificationError
from builder.proof import Baseline
from builder.proof.accuracy import running
from builder.proof.accuracy.functions import Function, find_function
from builder.proof.accuracy.running import Batches, collect
from builder.record import Accuracy, Score
from builder.tensors import Array, Arrays

WHERE = Path("m.onnx")
EVERYTHING = Function("m:f", lambda outputs, labels: 1.0, np.zeros(7))


@pytest.mark.parametrize(
    ("most", "least", "sizes"), [(3, 1, [3, 3, 1]), (3, 2, [3, 3, 2]), (16, 1, [7]), (16, 9, [9]), (1, 1, [1] * 7)]
)
def test_every_row_runs_once_and_short_batches_are_filled_up(most: int, least: int, sizes: list[int]) -> None:
    rows = np.arange(7.0)[:, np.newaxis]
    seen: list[int] = []

    def run(feeds: Arrays) -> Arrays:
        seen.append(len(feeds["x"]))
        return {"y": feeds["x"] * 2}

    chunks = Batches(run, is_static=False, most=most, least=least).answers({"x": rows}, WHERE, "fix")
    kept = collect(chunks, EVERYTHING, 7, where=WHERE, report=print)
    assert np.array_equal(kept["y"], rows * 2)
    assert seen == sizes


def test_a_model_without_a_batch_runs_each_request_by_itself() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    chunks = Batches(lambda feeds: {"y": feeds["x"].sum()}, is_static=True, most=8).answers({"x": rows}, WHERE, "fix")
    assert collect(chunks, EVERYTHING, 3, where=WHERE, report=print)["y"].tolist() == [1, 5, 9]


def test_the_bits_of_bf16_are_read_as_numbers() -> None:
    bits = np.full((4, 1), 0x3FC0, np.uint16)  # 1.5
    batches = Batches(lambda feeds: {"y": feeds["x"]}, is_static=False, most=4, bfloat16=frozenset({"y"}))
    assert next(batches.answers({"x": bits}, WHERE, "fix"))[1]["y"].tolist() == [[1.5]] * 4


def test_answers_of_different_shapes_are_kept_apart() -> None:
    chunks = iter([(0, {"y": np.zeros((1, 2))}), (1, {"y": np.ones((1, 3))})])
    kept = collect(chunks, EVERYTHING, 2, where=WHERE, report=print)
    assert [row.shape for row in kept["y"]] == [(2,), (3,)]
    seen: list[object] = []

    def judge(outputs: dict[str, object], labels: Array) -> float:
        seen.append(outputs["y"])
        return 1.0

    Function("m:f", judge, np.zeros(2)).scores(kept)
    assert isinstance(seen[0], list)


def test_what_a_metric_prints_stays_off_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "printing_metrics.py").write_text(
        "import os\nprint('imported')\n"
        "def judge(outputs, labels, text):\n    print(text)\n    os.write(1, b'as C does\\n')\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "printing_metrics:judge(text='judged')"
    assert Function(text, find_function(text), np.zeros(2)).scores({"y": np.zeros(2)}) == {text: 1.0}
    printed = capfd.readouterr()
    assert (printed.out, sorted(printed.err.splitlines())) == ("", ["as C does", "imported", "judged"])


def test_answers_that_do_not_fit_into_memory_are_refused_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "memory_left", lambda: 10_000)
    small, large = ({"y": np.zeros((1, size))} for size in (1, 100))
    collect(iter([(0, small)] * 3), EVERYTHING, 100, where=WHERE, report=print)
    with pytest.raises(OutOfMemoryError, match=re.escape("all labelled samples take 80.0 kB, and 10.0 kB of memory")):
        collect(iter([(0, large)] * 3), EVERYTHING, 100, where=WHERE, report=print)


def slow(clock: list[float], *, rows: int) -> Iterator[tuple[int, Arrays]]:
    """Answer a row every 11 s."""
    for row in range(rows):
        clock[0] += 11
        yield row, {"y": np.zeros((1, 1))}


def test_progress_is_told_and_time_that_will_not_be_enough_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    said: list[str] = []
    collect(slow(clock, rows=3), EVERYTHING, 3, where=WHERE, report=said.append)
    assert said == ["1 of 3 rows", "2 of 3 rows", "3 of 3 rows"]
    monkeypatch.setattr(running, "time_left", lambda: 300.0)
    with pytest.raises(OutOfTimeError, match="the accuracy on 60 rows takes about 11m more") as error:
        collect(slow(clock, rows=60), EVERYTHING, 60, where=WHERE, report=said.append)
    assert "--prove-timeout 32m, or give fewer samples" in error.value.fix
    monkeypatch.setattr(running, "time_left", lambda: math.inf)
    with pytest.raises(OutOfTimeError):
        collect(slow(clock, rows=60), EVERYTHING, 60, where=WHERE, report=said.append, most_s=60)
    collect(slow(clock, rows=5), EVERYTHING, 5, where=WHERE, report=said.append, most_s=60)


@pytest.mark.parametrize(
    ("before", "after", "others", "is_refused"),
    [
        (0.9, 0.896, {}, False),
        (0.9, 0.895, {}, False),  # exactly the limit, apart from rounding
        (0.9, 0.894, {}, True),
        (0.9, 0.95, {}, False),
        (0.9, 0.9, {"top-5": Score(0.99, 0.98)}, True),
        (0.9, 0.9, {"top-5": Score(0.98, 0.99)}, False),
    ],
)
def test_every_figure_has_to_stay_within_the_limit(
    tmp_path: Path, before: float, after: float, others: dict[str, Score], is_refused: bool
) -> None:
    batched = small(tmp_path)
    baseline = Baseline(batched, {}, EVERYTHING, {}, {"top-1": before}, 0.005)
    found = Accuracy("top-1", 1000, before, after, 0.005, others=others)
    with pytest.raises(VerificationError) if is_refused else nullcontext():
        baseline.check(found)
    baseline.check(replace(found, max_drop=None))
