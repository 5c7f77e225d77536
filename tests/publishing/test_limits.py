"""A small file that wants much memory or much time ends in an error that names the node, and leaves nothing behind."""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from support.artifacts import tree
from support.batched import IS_OLD_RUNTIME
from support.serving import eventually

from builder import api
from builder.bounded import Limits, OutOfMemoryError, OutOfTimeError, inside, running
from builder.errors import BuilderError, ModelError
from builder.proof import session
from builder.publishing import PublishOptions, publish

ROOT = Path(__file__).parents[2]
LITTLE = Limits(prove_timeout=250.0, prove_memory=250_000_000)
TIMED = Limits(prove_timeout=60.0, prove_memory=2_000_000_000)
WAYS: dict[str, dict[str, Any]] = {"default": {}, "static": {"is_static": True}, "per sample": {"is_per_sample": True}}


@dataclass(frozen=True)
class Case:
    """A model that wants too much, and the node that does, or several joined by `|`."""

    graph: str
    node: str
    constants: dict[str, Any] = field(default_factory=dict)
    opset: int = 20

    def write(self, folder: Path) -> Path:
        text = f'<ir_version: 9, opset_import: ["": {self.opset}]> g {self.graph}'
        model = onnx.parser.parse_model(text)
        model.graph.initializer.extend(numpy_helper.from_array(np.array(v), n) for n, v in self.constants.items())
        path = folder / "m.onnx"
        path.write_bytes(model.SerializeToString())
        assert path.stat().st_size < 2000
        return path


SUM = "r = ReduceSum <keepdims = 0> (b) y = Add (x, r)"


def doubling(op_type: str, start: str, times: int) -> str:
    """Return nodes that join `start` with itself again and again."""
    names = [start, *(f"k{i}" for i in range(times - 1)), "b"]
    return " ".join(f"{new} = {op_type} ({old}, {old})" for old, new in itertools.pairwise(names))


X = "(float[1, 4] x) => (float[1, 4] y)"
BODY = "b (int64 i, bool c, float[{dims}] v) => (bool c2, float[{dims}] v2) {{ c2 = Identity (c) {nodes} }}"
GROWING = BODY.format(dims="1, n", nodes="v2 = Concat <axis = 1> (v, v)")
SIN = BODY.format(dims="1, 4", nodes="v2 = Sin (v)")

GREEDY = {
    "a constant": Case(f"{X} {{ b = ConstantOfShape (s) {SUM} }}", "ConstantOfShape", {"s": [30_000, 30_000]}),
    "more than can be counted": Case(f"{X} {{ b = ConstantOfShape (s) {SUM} }}", "ConstantOfShape", {"s": [2**31] * 2}),
    "an input that is repeated": Case(f"{X} {{ b = Expand (x, s) {SUM} }}", "Expand", {"s": [600_000_000, 4]}),
    "an input that is padded": Case(f"{X} {{ b = Pad (x, p) {SUM} }}", "Pad", {"p": [0, 0, 0, 2_000_000_000]}),
    "tiles": Case(f"{X} {{ b = Tile (x, p) {SUM} }}", "Tile", {"p": [1, 1_000_000_000]}),
    "noise": Case(f"{X} {{ b = RandomNormal <shape = [30000, 30000]> () {SUM} }}", "RandomNormal"),
    "strings that double": Case(
        "(float[1, 4] x) => (float[1, 4] y, string[1, 4] b) { s = Cast <to = 8> (x) "
        + doubling("StringConcat", "s", 32)
        + " y = Identity (x) }",
        "StringConcat",
    ),
    "rows that double": Case(f"{X} {{ {doubling('Concat <axis = 1>', 'x', 30)} {SUM} }}", "Concat"),
    "rows that double in a loop": Case(
        f"{X} {{ b = Loop <body = {GROWING}> (m, t, x) {SUM} }}", "Concat", {"m": 40, "t": True}
    ),
}

ENDLESS = {
    "a loop": Case(f"{X} {{ y = Loop <body = {SIN}> (, t, x) }}", "Loop", {"t": True}),
    "a loop of 2**63 rounds": Case(f"{X} {{ y = Loop <body = {SIN}> (m, t, x) }}", "Loop", {"m": 2**63 - 1, "t": True}),
    "as many rounds as an input says": Case(
        f"{X} {{ a = Abs (x) q = ReduceMax <keepdims = 0> (a) p = Mul (q, big) o = Add (p, big) m = Cast <to = 7> (o) "
        f"y = Loop <body = {SIN}> (m, t, x) }}",
        "Loop",
        {"big": np.float32(1e12), "t": True},
    ),
    "a condition in a loop": Case(
        f"{X} {{ y = Loop <body = "
        + BODY.format(
            dims="1, 4",
            nodes="s = ReduceSum <keepdims = 0> (v) p = Greater (s, zero) v2 = If (p) <then_branch = "
            "th () => (float[1, 4] a) { a = Sin (v) }, else_branch = el () => (float[1, 4] e) { e = Cos (v) }>",
        )
        + "> (, t, x) }",
        "Loop|If",  # the time may be up inside the If
        {"zero": np.float32(0), "t": True},
    ),
}


def refused(path: Path, limits: Limits, way: str) -> BuilderError:
    with pytest.raises(BuilderError) as raised:
        publish(path, path.with_name("repository"), options=PublishOptions(limits=limits, **WAYS[way]))
    assert tree(path.with_name("repository")) == {}
    return raised.value


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", GREEDY)
def test_a_file_that_wants_much_memory_is_refused_at_the_node(tmp_path: Path, name: str, way: str) -> None:
    error = refused(GREEDY[name].write(tmp_path), LITTLE, way)
    assert isinstance(error, OutOfMemoryError | ModelError)
    if isinstance(error, OutOfMemoryError):
        assert f"node {GREEDY[name].node}" in error.what
        assert "--prove-memory" in error.fix


@contextmanager
def stopped_at_work(stop: Callable[[], None]) -> Iterator[None]:
    """Let the time be up once this process has computed for a while in the block, in place of `bounded.stoppable`.

    A limit that is short enough to wait for may be reached before ONNX Runtime is at the node, on a busy machine.
    """
    is_over = threading.Event()

    def watch(until: float) -> None:
        while not is_over.wait(0.01):
            if time.process_time() > until:
                assert inside._inside is not None
                inside._inside.board.postpone(time.monotonic())

    watching = threading.Thread(target=watch, args=[time.process_time() + 0.3])
    with inside.stoppable(stop):
        watching.start()
        try:
            yield
        finally:
            is_over.set()
            watching.join()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ENDLESS)
def test_a_file_that_never_ends_is_refused_at_the_node(
    tmp_path: Path, name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "stoppable", stopped_at_work)
    monkeypatch.setattr(running, "GRACE_S", 250.0)
    error = refused(ENDLESS[name].write(tmp_path), TIMED, way)
    assert isinstance(error, OutOfTimeError | ModelError)
    if way != "default":
        assert re.search(f"node ({ENDLESS[name].node})", error.what)
        assert "--prove-timeout 10m" in error.fix


@pytest.mark.parametrize("name", GREEDY)
def test_inspecting_a_file_that_wants_much_memory_ends(tmp_path: Path, name: str) -> None:
    found = api.inspect(GREEDY[name].write(tmp_path), limits=LITTLE)
    assert found.nodes > 0


@pytest.mark.parametrize("way", WAYS)
def test_a_constant_of_gigabytes_is_refused_at_the_node(tmp_path: Path, way: str) -> None:
    error = refused(GREEDY["a constant"].write(tmp_path), LITTLE, way)
    assert isinstance(error, OutOfMemoryError)
    assert IS_OLD_RUNTIME or "node ConstantOfShape" in error.what  # ONNX Runtime 1.23 does not name the node


def test_a_file_within_the_limits_is_published(tmp_path: Path) -> None:
    case = Case(f"{X} {{ b = ConstantOfShape (s) {SUM} }}", "", {"s": [3_000, 3_000]})
    assert publish(case.write(tmp_path), tmp_path / "r", options=PublishOptions(limits=LITTLE)).version.created


def test_a_published_version_is_verified_within_limits_too(tmp_path: Path) -> None:
    case = Case(f"{X} {{ b = Expand (x, s) {SUM} }}", "", {"s": [20_000_000, 4]})
    publish(case.write(tmp_path), tmp_path / "r", options=PublishOptions(is_static=True, effort="off"))
    with pytest.raises(OutOfMemoryError, match="node Expand"):
        api.verify("m", tmp_path / "r", limits=Limits(prove_memory=60_000_000))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("publish", "--static"), ("publish", "--per-sample"), ("inspect",)])
def test_ctrl_c_ends_an_endless_loop_and_leaves_no_process(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    command, *options = arguments
    path = ENDLESS["a loop"].write(tmp_path)
    program = subprocess.Popen(
        [sys.executable, "-m", "builder", command, path, *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    while not children.read_text():
        time.sleep(0.01)
    time.sleep(1)
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=200)
    assert program.returncode == 130
    assert errors.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in errors
    assert eventually(lambda: is_gone(program.pid))


def is_gone(group: int) -> bool:
    """Return whether no process of a group is left; a killed one takes a moment to end."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
