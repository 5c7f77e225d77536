"""Work in a child process: what comes back from it, and how it ends when it takes more than it may."""

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from support import bounded_work
from support.bounded_work import take_too_long
from support.serving import eventually

from builder import bounded
from builder.bounded import LimitError, Limits, OutOfMemoryError, OutOfTimeError, during, focus, fork
from builder.bounded.limits import Bounds
from builder.errors import BuilderError, HostError, ModelError, VerificationError
from builder.progress import Report, silent

MODEL = Path("m.onnx")
SOON = Limits(prove_timeout=0.2, prove_memory=300_000_000)
PLENTY = Limits(prove_timeout=60.0, prove_memory=300_000_000)


def run(work: Callable[[], Any], limits: Limits = PLENTY, *, report: Report = silent, has_gpu: bool = False) -> Any:
    return bounded.run(lambda _: work(), where=MODEL, limits=limits, report=report, has_gpu=has_gpu)


def fail(error: BaseException) -> NoReturn:
    raise error


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended and whose parent has not noticed yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int]) -> None:
    assert eventually(lambda: not any(map(is_running, pids)))


# ---------------------------------------------------------------- what comes back


def test_the_result_comes_from_another_process() -> None:
    array, pid = run(lambda: (np.arange(5), os.getpid()))
    assert array.tolist() == [0, 1, 2, 3, 4]
    assert pid != os.getpid()


def test_a_large_result_comes_back_whole() -> None:
    large, small, again = bytes(range(256)) * 100_000, b"small", b"x" * 2_000_000
    found = run(lambda: {"a": large, "b": [small, again]})
    assert found == {"a": large, "b": [small, again]}
    assert isinstance(found["a"], memoryview), "it was not copied once more"


def test_reports_are_made_in_this_process_before_the_work_goes_on() -> None:
    pids, events = list[int](), list[str]()

    def work(report: Report) -> list[str]:
        report("load", "first")
        report("verify", "second")
        return [str(os.getpid())]

    def report(step: str, what: str) -> None:
        pids.append(os.getpid())
        events.append(f"{step} {what}")

    (child,) = bounded.run(work, where=MODEL, limits=PLENTY, report=report)
    assert events == ["load first", "verify second"]
    assert set(pids) == {os.getpid()} != {int(child)}


def test_what_a_report_raises_ends_the_work() -> None:
    pids = list[int]()

    def report(step: str, what: str) -> None:
        pids.append(int(what))
        raise KeyboardInterrupt

    def work(report: Report) -> None:
        report("load", str(os.getpid()))
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        bounded.run(work, where=MODEL, limits=PLENTY, report=report)
    assert not is_running(pids[0])


@pytest.mark.parametrize("kind", [BuilderError, ModelError, VerificationError, HostError, OutOfTimeError])
@pytest.mark.parametrize("is_about_batch", [True, False])
def test_an_error_for_the_user_comes_back_as_it_is(kind: type[BuilderError], is_about_batch: bool) -> None:
    with pytest.raises(BuilderError) as raised:
        run(lambda: fail(kind("node x", "it is broken", "mend it", is_about_batch=is_about_batch)))
    error = raised.value
    assert (type(error), error.where, error.what, error.fix) == (kind, "node x", "it is broken", "mend it")
    assert error.is_about_batch is is_about_batch
    assert str(error) == "node x: it is broken\nfix: mend it"


def test_a_bug_comes_back_with_the_traceback_of_the_child() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        run(lambda: fail(ZeroDivisionError("by zero")))
    assert 'test_running.py", line' in str(raised.value.__cause__)


def test_an_error_that_cannot_be_pickled_comes_back_as_text() -> None:
    class Local(Exception):  # noqa: N818 - any name will do
        pass

    with pytest.raises(RuntimeError, match="Local: no name"):
        run(lambda: fail(Local("no name")))


def test_a_result_that_cannot_be_pickled_is_a_bug() -> None:
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        run(lambda: lambda: None)


def test_work_within_work_runs_in_the_same_child() -> None:
    outer, inner = run(lambda: (os.getpid(), run(os.getpid)))
    assert outer == inner


def test_work_on_a_gpu_stays_in_a_process_that_uses_one_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.bounded.running._has_cuda", lambda: True)
    assert run(os.getpid, has_gpu=True) == os.getpid()
    assert run(os.getpid) != os.getpid()


def test_any_limit_of_memory_can_be_asked_for() -> None:
    assert run(lambda: 3, Limits(prove_memory=10**30)) == 3


def test_a_program_that_leaves_its_children_to_the_system_gets_the_result_too() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert run(lambda: 3) == 3
        with pytest.raises(OutOfMemoryError):  # how it ended is not known, and this is the most likely
            run(lambda: os._exit(3))
    finally:
        signal.signal(signal.SIGCHLD, before)


# ---------------------------------------------------------------- programs with threads


@pytest.fixture
def is_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start new processes, as a program with threads does."""
    monkeypatch.setattr("builder.bounded.running.may_fork", lambda: False)


def test_a_process_may_be_forked_while_it_has_one_thread() -> None:
    program = """
import threading
from builder.bounded.forking import may_fork
wait = threading.Event()
first = may_fork()
thread = threading.Thread(target=wait.wait)
thread.start()
second = may_fork()
wait.set()
thread.join()
print(first, second, may_fork())
"""
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}"]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout == "True False True\n"


def test_a_fork_waits_for_ever_for_what_another_thread_held_and_a_new_process_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with bounded_work.LOCK:  # the child has it as it is now, like the locks that threads of libraries hold
        with pytest.raises(OutOfTimeError):
            bounded.run(bounded_work.with_the_lock, where=MODEL, limits=SOON)
        monkeypatch.setattr("builder.bounded.running.may_fork", lambda: False)
        assert bounded.run(bounded_work.with_the_lock, where=MODEL, limits=PLENTY) != os.getpid()


@pytest.mark.usefixtures("is_spawned")
def test_a_new_process_reports_and_returns_as_a_fork_does() -> None:
    events = list[str]()
    child, childs_child, large = bounded.run(
        bounded_work.in_steps, where=MODEL, limits=PLENTY, report=lambda step, what: events.append(f"{step} {what}")
    )
    assert events == ["load first", "verify second"]
    assert len({os.getpid(), child, childs_child}) == 3
    assert isinstance(large, memoryview)
    assert not any(large)


@pytest.mark.usefixtures("is_spawned")
@pytest.mark.parametrize(
    ("work", "error", "what"),
    [
        (bounded_work.divide_by_zero, ZeroDivisionError, "division by zero"),
        (bounded_work.crash, ModelError, r"crashed \(Segmentation fault\), while it crashes"),
        (bounded_work.fill, OutOfMemoryError, r"300\.0 MB"),
        (bounded_work.Unreadable(), ValueError, "no number"),
    ],
)
def test_a_new_process_fails_as_a_fork_does(work: Callable[[Report], Any], error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        bounded.run(work, where=MODEL, limits=PLENTY)


@pytest.mark.usefixtures("is_spawned", "at_once")
def test_a_new_process_that_takes_too_long_is_ended() -> None:
    with pytest.raises(OutOfTimeError, match="it was stopped after 1m, while it waits"):
        bounded.run(bounded_work.wait, where=MODEL, limits=PLENTY)


# ---------------------------------------------------------------- limits


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the child no time to stop by itself."""
    monkeypatch.setattr("builder.bounded.running.GRACE_S", 0.0)


@pytest.fixture
def patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the child as much time to stop by itself as it needs on any machine."""
    monkeypatch.setattr("builder.bounded.running.GRACE_S", 250.0)


@pytest.mark.slow
def test_work_that_takes_too_long_is_ended() -> None:
    with pytest.raises(OutOfTimeError, match=r"^m\.onnx: it was stopped after 0\.2s"):
        run(lambda: time.sleep(600), SOON)


@pytest.mark.usefixtures("patiently")
def test_the_error_for_work_that_takes_too_long_says_what_it_was_doing() -> None:
    def work() -> None:
        with during("it counts sheep"):
            focus(str, "sheep 7")
            take_too_long()

    with pytest.raises(
        OutOfTimeError, match=r"^m.onnx: it was stopped after 1m, while it counts sheep, at sheep 7"
    ) as e:
        run(work)
    assert e.value.exit_code == 6
    assert "--prove-timeout 10m" in e.value.fix


def test_the_fix_of_no_time_at_all_is_some_time() -> None:
    error = Bounds.of(Path("m.onnx"), Limits(prove_timeout=0)).out_of_time(0, "")
    assert error.fix.startswith("allow more time with --prove-timeout 1s")


@pytest.mark.usefixtures("patiently")
def test_what_can_be_stopped_is_stopped_before_the_process_is_killed() -> None:
    def work() -> str:
        stopped = list[bool]()
        with during("it waits"), bounded.stoppable(lambda: stopped.append(True)):
            while not stopped:
                time.sleep(0.001)
            return str(bounded.out_of_time("node Loop 'a'"))

    assert "it was stopped after 0.2s, while it waits, at node Loop 'a'" in run(work, SOON)


def test_time_that_does_not_count_is_not_limited() -> None:
    def work() -> tuple[float, float]:
        now = time.monotonic()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(time, "monotonic", lambda: now)
            before = bounded.time_left()
            with bounded.untimed():
                now += 1000
            return before, bounded.time_left()

    before, after = run(work)
    assert after == pytest.approx(before)


@pytest.mark.parametrize(
    ("limits", "all_sizes", "seconds"),
    [(Limits(), False, 720), (Limits(), True, 7200), (Limits(prove_timeout=500.0), True, 500)],
)
def test_a_large_model_may_take_longer_unless_the_time_was_given(limits: Limits, all_sizes: bool, seconds: int) -> None:
    def work() -> float:
        bounded.expect(200_000_000, all_sizes=all_sizes)
        return bounded.time_left()

    assert run(work, limits) == pytest.approx(seconds, abs=100)


def test_memory_that_the_system_refuses_is_an_error_that_says_what_wanted_it() -> None:
    def work() -> None:
        with during("it is read"), during("it is unpacked"):
            np.ones(1_000_000_000, np.uint8)

    with pytest.raises(OutOfMemoryError, match=r"needs more than the 300.0 MB .*, while it is read and it is unpacked"):
        run(work)


def test_the_system_refuses_memory_first_where_the_parent_had_more_before() -> None:
    """A child gets what its parent has freed without asking the system for it; only what is refused has a node."""

    def fill() -> None:
        kept = []
        with during("it is read"):
            focus(str, "node 7")
            while True:
                kept.append(bytes(1000))

    def free_and_run(pipe: Connection) -> None:
        freed = [bytes(1000) for _ in range(400_000)]
        last = bytes(1000)  # so that the memory stays with the process
        del freed
        ctypes.CDLL(None).malloc_trim(0)
        with pytest.raises(OutOfMemoryError) as raised:
            run(fill)
        pipe.send((str(raised.value), len(last)))

    parent = fork(free_and_run)  # a process of its own: other tests look at how much memory theirs uses
    assert ", while it is read, at node 7\n" in parent.pipe.recv()[0]
    parent.end()


def fill_and_wait() -> None:
    kept = np.ones(900_000_000, np.uint8)
    time.sleep(60)
    del kept


def test_memory_that_is_used_is_limited_where_the_system_does_not() -> None:
    with pytest.raises(OutOfMemoryError, match=r"300\.0 MB"):
        run(fill_and_wait, has_gpu=True)


def test_memory_of_a_childs_child_counts_too() -> None:
    def work() -> None:
        forked = fork(lambda pipe: fill_and_wait())
        forked.check(waits=True)

    with pytest.raises(OutOfMemoryError, match=r"300\.0 MB"):
        run(work, has_gpu=True)


def test_memory_that_was_there_before_does_not_count() -> None:
    before = np.ones(400_000_000, np.uint8)
    assert run(lambda: int(before[::4096].sum())) == 97657


def test_the_fix_for_too_little_memory_names_what_this_machine_can_give() -> None:
    with pytest.raises(OutOfMemoryError) as limited:
        run(lambda: np.ones(1 << 40, np.uint8), Limits(prove_memory=1_000_000))
    assert "--prove-memory" in limited.value.fix
    with pytest.raises(OutOfMemoryError) as unlimited:
        run(lambda: np.ones(1 << 50, np.uint8), Limits())
    assert "--prove-memory" not in unlimited.value.fix


def test_the_memory_that_is_left_becomes_less() -> None:
    def work() -> tuple[int, int]:
        before = bounded.memory_left()
        kept = np.ones(100_000_000, np.uint8)
        return before, before - bounded.memory_left() - len(kept)

    before, more = run(work)
    assert before == pytest.approx(300_000_000, rel=0.05)
    assert abs(more) < 10_000_000


@pytest.mark.parametrize(("number", "name"), [(signal.SIGSEGV, "Segmentation fault"), (signal.SIGABRT, "Aborted")])
def test_a_crash_is_an_error_of_the_model(number: signal.Signals, name: str) -> None:
    def work() -> None:
        faulthandler.disable()
        with during("ONNX Runtime opens it"):
            os.kill(os.getpid(), number)

    with pytest.raises(ModelError, match=rf"crashed \({name}\), while ONNX Runtime opens it"):
        run(work)


def test_a_child_that_the_system_killed_had_no_memory() -> None:
    with pytest.raises(OutOfMemoryError, match="the system killed it"):
        run(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_file_that_nests_too_deep_is_an_error_of_the_model() -> None:
    def descend(depth: int) -> int:
        return descend(depth + 1)

    with pytest.raises(ModelError, match="nests deeper"):
        run(lambda: descend(0))


@pytest.mark.usefixtures("at_once")
def test_an_error_that_was_found_before_is_raised_when_the_rest_takes_too_long() -> None:
    def work(report: Report) -> None:
        with bounded.fall_back(ModelError("m.onnx", "it mixes its samples", "publish it with --static")):
            report("verify", "the parent has read what was sent before")
            take_too_long()

    with pytest.raises(ModelError, match="it mixes its samples"):
        bounded.run(work, where=MODEL, limits=PLENTY)


@pytest.mark.usefixtures("at_once")
def test_an_error_that_was_dealt_with_is_not_raised() -> None:
    def work() -> None:
        with bounded.fall_back(ModelError("m.onnx", "it mixes its samples", "publish it with --static")):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(LimitError):
        run(work)


def test_outside_of_a_child_nothing_is_limited() -> None:
    with during("reading"), bounded.stoppable(lambda: None), bounded.untimed():
        bounded.expect(1)
    assert bounded.time_left() == float("inf")
    assert bounded.out_of_time() is None
    assert "there is not enough memory" in bounded.out_of_memory(MODEL, "node x").what


# ---------------------------------------------------------------- the end of the parent

SCRIPT = f"""
import sys, threading
sys.path[:0] = {sys.path!r}
from pathlib import Path
from builder import bounded
from support import bounded_work
from support.bounded_work import take_too_long
from support.serving import eventually

if sys.argv[1] == "new":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
bounded.run(bounded_work.print_and_sleep, where=Path("m.onnx"), limits=bounded.Limits())
"""


@pytest.mark.parametrize("kind", ["forked", "new"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_no_process_is_left_when_the_program_ends(number: signal.Signals, kind: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    pids = [int(pid) for pid in program.stdout.readline().split()]
    assert len(pids) == 2
    program.send_signal(number)
    _, errors = program.communicate(timeout=120)
    assert program.returncode == -number
    assert errors.count("Traceback") == (number == signal.SIGINT), "the children print none of their own"
    wait_until_gone(pids)


@pytest.mark.parametrize("kind", ["forked", "new"])
def test_ctrl_c_for_the_whole_group_ends_it_as_well(kind: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    pids = [int(pid) for pid in program.stdout.readline().split()]
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=120)
    assert program.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    wait_until_gone(pids)


# ---------------------------------------------------------------- garbage of the parent

GARBAGE = f"""
import gc, os, sys
sys.path[:0] = {sys.path!r}
import onnxruntime
from onnx import parser
from builder.bounded import Forked, fork
from multiprocessing import Pipe

def collect(pipe):
    gc.collect()
    pipe.send("collected")

def fork_plainly(serve):
    ours, theirs = Pipe()
    if not (pid := os.fork()):
        gc.enable()
        serve(theirs)
        os._exit(0)
    theirs.close()
    return Forked(pid, ours, os.getpid())

text = '<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) {{ y = Relu (x) }}'
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 4
gc.disable()
cycle = [onnxruntime.InferenceSession(parser.parse_model(text).SerializeToString(), options)]
cycle.append(cycle)
del cycle
gc.enable()
child = (fork if sys.argv[1] == "fork" else fork_plainly)(collect)
try:
    print(child.pipe.recv() if child.pipe.poll(float(sys.argv[2])) else "it hangs", gc.isenabled())
except EOFError:
    print("it crashed")
child.end()
os._exit(0)
"""


def collected(way: str, seconds: float) -> str:
    command = [sys.executable, "-c", GARBAGE, way, str(seconds)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def test_a_child_leaves_the_garbage_of_its_parent_alone() -> None:
    """ONNX Runtime joins the threads of a session that is deleted, and the child does not have them."""
    assert collected("fork", 200) == "collected True"


def test_the_garbage_of_a_parent_would_end_a_child() -> None:
    assert collected("os.fork", 2) in ("it crashed", "it hangs True")
