"""Run work on a file in a child process, and end the child when it takes more than it may."""

import gc
import os
import pickle
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from builder.bounded import inside
from builder.bounded.board import Board
from builder.bounded.forking import Forked, fork, may_fork, silence_stderr
from builder.bounded.limits import Bounds, Limits
from builder.bounded.memory import data_bytes, used_bytes
from builder.bounded.parcel import Parcel
from builder.bounded.spawning import spawn
from builder.errors import BuilderError
from builder.progress import Report, silent

POLL_S = 0.05
"""How often to look at the child."""

GRACE_S = 2.0
"""How much longer than its time the child may take, to stop by itself and say at which node."""

SESSIONS = 4
"""How many sessions of ONNX Runtime are open at the same time."""

STACK_BYTES = 8 << 20
"""What the stack of each of their threads, one for each processor, counts as, although it hardly uses any of it."""

THRESHOLDS = (7_000, 10, 10)
"""How often to collect garbage in the child: ten times less than usual, because a model is many objects that stay."""

Result = TypeVar("Result")


class RemoteError(Exception):
    """The traceback of an error that was raised in the child; it is the cause of the same error here."""

    def __str__(self) -> str:
        """Return the traceback, set off from that of this process."""
        return f'\n"""\n{self.args[0]}"""'


def run(
    work: Callable[[Report], Result],
    *,
    where: Path,
    limits: Limits,
    report: Report = silent,
    has_gpu: bool = False,
    is_fresh: bool = False,
) -> Result:
    """Return what `work` returns, called in a child process: a fork, or in a program with threads a new process.

    It is called directly inside of such a process, and where it uses CUDA and this process does so already: a child
    could not use it then.

    The work is pickled if the process is new. What it returns, and what it raises, is always pickled; bytes of a
    megabyte or more come back as a memoryview, so that they are not copied again. What it reports is reported here,
    before it goes on.

    Args:
        work: The work, called with the function that it reports to.
        where: The file that it works on, for errors.
        limits: How much time and memory it may take.
        report: Called with each step and what it found.
        has_gpu: Whether it uses CUDA, which reserves more private memory than there is. Only what it really uses is
            limited then.
        is_fresh: Start a new process in any case, for libraries whose threads a fork would lack.

    Raises:
        OutOfTimeError: It took longer than it may.
        OutOfMemoryError: It needed more memory than it may use.
        ModelError: It crashed, or the file nests deeper than Python can follow.
    """
    if inside.is_inside() or (has_gpu and _has_cuda()):
        return work(report)
    bounds = Bounds.of(where, limits)
    # The child makes its temporary files in this folder, so that none is left when it crashes or is killed.
    with (
        tempfile.TemporaryDirectory(prefix="builder-", ignore_cleanup_errors=True) as folder,
        closing(Board(bounds.seconds)) as board,
        closing(Parcel()) as parcel,
    ):
        child = _start(work, bounds, board, parcel, has_gpu, is_fresh, folder)
        before = used_bytes(os.getpid(), with_children=False) if has_gpu else data_bytes()
        try:
            result: Result = parcel.unpack(_Attendance(child, bounds, board, before, report).wait())
            return result
        finally:
            child.end()


def _start(
    work: Callable[[Report], Any],
    bounds: Bounds,
    board: Board,
    parcel: Parcel,
    has_gpu: bool,
    is_fresh: bool,
    folder: str,
) -> Forked:
    if may_fork() and not is_fresh:
        return fork(partial(_work, work, bounds, board, parcel, has_gpu, folder))
    # Pickled by itself, so that what goes wrong when it is read is reported like any other error of the work.
    pickled = partial(_unpickled, pickle.dumps(work))
    return spawn(partial(_work, pickled, bounds, board, parcel, has_gpu, folder), (board.fileno(), parcel.fileno()))


def _stack_bytes() -> int:
    return SESSIONS * (os.cpu_count() or 1) * STACK_BYTES


def _has_cuda() -> bool:
    """Return whether this process has loaded the driver of the GPU, as it does when it first uses it."""
    return "/libcuda.so" in Path("/proc/self/maps").read_text()


# ---------------------------------------------------------------------- in the parent


class _Attendance:
    """Waits for a child, and ends it when it takes more than it may."""

    def __init__(self, child: Forked, bounds: Bounds, board: Board, before: int, report: Report) -> None:
        self._child = child
        self._bounds = bounds
        self._board = board
        self._report = report
        self._fall_back: BuilderError | None = None
        self._looked = time.monotonic()
        # As much as `_limit` lets it ask for, so that the system refuses it before: then the error can name the node.
        self._most = bounds.memory + _stack_bytes() + before

    def wait(self) -> int:
        """Return when the work is done, with the place of the result in the parcel.

        Raises:
            BuilderError: It failed, or took more than it may.
        """
        pipe = self._child.pipe
        while True:
            try:
                message = pipe.recv() if pipe.poll(POLL_S) else None
            except (EOFError, ConnectionError):
                self._child.check(waits=True)
                raise self._failed(self._bounds.crashed(self._child.status, self._board.text)) from None
            match message:
                case None:
                    pass
                case "done", start:
                    return int(start)
                case "report", (step, what):
                    self._report(step, what)
                    pipe.send(None)
                case "fall back", error:
                    self._fall_back = error
                case "raised", (error, text):
                    raise error from RemoteError(text)
            self._look()

    def _look(self) -> None:
        """Compare what the child takes with what it may."""
        now = time.monotonic()
        if now < self._looked + POLL_S:
            return
        self._looked = now
        if now > self._board.deadline + GRACE_S:
            raise self._failed(self._bounds.out_of_time(self._board.seconds, self._board.text))
        if used_bytes(self._child.pid) > self._most:
            raise self._failed(self._bounds.out_of_memory(self._board.text))
        if self._child.check() and not self._child.pipe.poll():
            raise self._failed(self._bounds.crashed(self._child.status, self._board.text))

    def _failed(self, error: BuilderError) -> BuilderError:
        return self._fall_back or error


# ---------------------------------------------------------------------- in the child


def _work(
    work: Callable[[Report], Any],
    bounds: Bounds,
    board: Board,
    parcel: Parcel,
    has_gpu: bool,
    folder: str,
    pipe: Connection,
) -> None:
    """Do the work, and send what came of it."""
    tempfile.tempdir = folder
    if not has_gpu:
        silence_stderr()
    gc.set_threshold(*THRESHOLDS)
    _limit(bounds, has_gpu)
    inside.enter(inside.Inside(bounds, board, lambda error: pipe.send(("fall back", error))))

    def report(step: str, what: str) -> None:
        pipe.send(("report", (step, what)))
        pipe.recv()

    try:
        pipe.send(("done", parcel.pack(work(report))))
    except BaseException as error:
        pipe.send(("raised", _sendable(inside.explained(error), traceback.format_exc())))


def _unpickled(work: bytes, report: Report) -> Any:
    return pickle.loads(work)(report)


def _limit(bounds: Bounds, has_gpu: bool) -> None:
    """Let the system refuse memory beyond the limit, and end this process first when the machine's is used up."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if has_gpu:
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = min(data_bytes() + bounds.memory + _stack_bytes(), sys.maxsize)
    with suppress(ValueError, OSError):
        allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def _sendable(error: BaseException, text: str) -> tuple[BaseException, str]:
    """Return the error and its traceback; an error that cannot be pickled becomes one that has its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except (AttributeError, TypeError, ValueError, pickle.PickleError):
        return RuntimeError(f"{type(error).__name__}: {error}"), text
    return error, text
