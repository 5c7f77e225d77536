"""Which ends of a process count as a death: with processes that look like Triton and its stubs."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.serving import eventually

from builder.server import watching
from builder.server.stubs import Stub, children_of
from builder.server.watching import Watch, how_it_ended

SERVER = """
import subprocess, sys
stubs = []
for line in sys.stdin:
    order, *rest = line.split()
    if order == "start":
        path, instance = rest
        command = ["stub", path, "region", "1", "1", "1", "python", "1", instance, "backend"]
        stubs.append(subprocess.Popen(command, executable=sys.executable, cwd=sys.argv[1]))
        print(stubs[-1].pid, flush=True)
    elif order == "reap":
        print([stub.wait() for stub in stubs], flush=True)
"""
"""Starts stubs and reaps them when it is told to, as Triton does when it unloads a model."""


class FakeTriton:
    """A process that starts stubs, seen as a `TritonProcess`."""

    def __init__(self, folder: Path) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self.log_activity, self.wake = socket.socketpair()

    def tell(self, order: str) -> str:
        """Give an order and return its answer."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(order + "\n")
        self._popen.stdin.flush()
        return self._popen.stdout.readline()

    def start_stub(self, path: str = "repository/double/1/model.onnx", instance: str = "double_0_0") -> int:
        pid = int(self.tell(f"start {path} {instance}"))
        assert eventually(lambda: any(stub.pid == pid and stub.instance for stub in children_of(self.pid)))
        return pid

    def poll(self) -> int | None:
        return self._popen.poll()

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.communicate()
        self.log_activity.close()
        self.wake.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeTriton]:
    for name in ("repository", "elsewhere"):
        script = tmp_path / name / "double" / "1" / "model.onnx"
        script.parent.mkdir(parents=True)
        script.write_text("import time, sys; time.sleep(600)")
    (tmp_path / "repository" / "double" / "1" / "exits.onnx").write_text("import os; os._exit(3)")
    fake = FakeTriton(tmp_path)
    yield fake
    fake.end()


def watch(server: Any, *, ready: bool = True) -> Watch:
    return Watch(server, lambda stub: ready)


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "GRACE_S", 0.2)


def test_the_stubs_of_a_server_are_found_with_their_names(server: FakeTriton) -> None:
    pid, other = server.start_stub(), server.start_stub("elsewhere/double/1/model.onnx", "override_0")
    stubs = sorted(children_of(server.pid), key=lambda stub: stub.pid)
    assert stubs == [Stub(pid, None, "double_0_0", "double", "1"), Stub(other, None, "override_0")]


def test_a_killed_stub_is_a_death_with_its_name_and_signal(server: FakeTriton) -> None:
    pid = server.start_stub()
    watched = watch(server)
    assert watched.dead_stub() is None
    os.kill(pid, signal.SIGABRT)
    assert watched.wait() == Stub(pid, -signal.SIGABRT, "double_0_0", "double", "1")
    assert watched.dead_stub() == Stub(pid, -signal.SIGABRT, "double_0_0", "double", "1")


def test_a_stub_that_dies_before_anybody_waits_has_its_name_if_it_was_learned_before(server: FakeTriton) -> None:
    pid = server.start_stub()
    watched = watch(server)
    watched.learn_stubs()
    os.kill(pid, signal.SIGKILL)
    assert watched.wait() == Stub(pid, -signal.SIGKILL, "double_0_0", "double", "1")


def test_a_stub_that_exits_by_itself_is_a_death_too(server: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = int(server.tell("start repository/double/1/exits.onnx double_0_0"))
    assert eventually(lambda: [stub.status for stub in children_of(server.pid)] == [3])
    monkeypatch.setattr(watching, "PATIENCE_S", 0.3)
    assert watch(server).wait() == Stub(pid, 3)  # it was never seen alive, so its names are not known


def test_a_stub_that_was_started_while_waiting_is_found_by_the_log(server: FakeTriton) -> None:
    watched = watch(server)
    with ThreadPoolExecutor() as pool:
        death = pool.submit(watched.wait)
        pid = server.start_stub()
        server.wake.send(b".")
        assert eventually(lambda: pid in watched._living)
        os.kill(pid, signal.SIGKILL)
        assert death.result(timeout=60) == Stub(pid, -signal.SIGKILL, "double_0_0", "double", "1")


def test_a_stub_that_has_just_died_is_noticed_however_slowly_this_process_runs(
    server: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = server.start_stub()
    watched = watch(server)
    watched.learn_stubs()
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: [stub.status for stub in children_of(server.pid)] == [-signal.SIGKILL])
    clock = itertools.count(0, 0.6 * watching.GRACE_S)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert watched.dead_stub() == Stub(pid, -signal.SIGKILL, "double_0_0", "double", "1")


def test_a_stub_that_is_reaped_is_no_death(server: FakeTriton) -> None:
    pid = server.start_stub()
    watched = watch(server)
    assert watched.dead_stub() is None
    os.kill(pid, signal.SIGTERM)
    assert server.tell("reap") == f"[{-signal.SIGTERM}]\n"
    assert watched.dead_stub() is None
    server.end()
    assert watched.wait() is None


def test_a_stub_whose_model_is_not_ready_is_left_to_triton_for_a_while(
    server: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died while its model was loading or unloading, which Triton itself notices, and reports."""
    pid = server.start_stub()
    watched = watch(server, ready=False)
    assert watched.dead_stub() is None
    monkeypatch.setattr(watching, "PATIENCE_S", float("inf"))
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: [stub.status for stub in children_of(server.pid)] == [-signal.SIGKILL])
    assert watched.dead_stub() is None
    monkeypatch.setattr(watching, "PATIENCE_S", 0.3)
    assert watched.wait() == Stub(pid, -signal.SIGKILL, "double_0_0", "double", "1")


def test_a_death_is_noticed_where_a_sandbox_allows_no_pidfd(
    server: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refused)
    watched = watch(server)
    with ThreadPoolExecutor() as pool:
        pid = server.start_stub()
        death = pool.submit(watched.wait)
        assert eventually(lambda: pid in watched._living)
        os.kill(pid, signal.SIGKILL)
        assert death.result(timeout=60) == Stub(pid, -signal.SIGKILL, "double_0_0", "double", "1")


def test_the_end_of_triton_is_noticed(server: FakeTriton) -> None:
    server.start_stub()
    os.kill(server.pid, signal.SIGKILL)
    assert watch(server).wait() is None


def test_a_watch_leaves_no_file_open(server: FakeTriton) -> None:
    pid = server.start_stub()
    before = len(list(Path("/proc/self/fd").iterdir()))
    watched = watch(server)
    assert watched.dead_stub() is None
    os.kill(pid, signal.SIGKILL)
    assert watched.wait() is not None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_death_is_told_in_words() -> None:
    assert how_it_ended(3) == "ended with exit code 3"
    assert how_it_ended(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert how_it_ended(-signal.SIGKILL) == "was killed by SIGKILL (Linux also sends it when memory runs out)"
    assert how_it_ended(-40) == "was killed by signal 40"
