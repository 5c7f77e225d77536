"""Let one call of a command fail, or a signal come at one line of it, and say how the command ended."""

import contextlib
import fcntl
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from builder import api, cli
from builder.bounded import fork
from builder.publishing import Publication, install
from builder.repository import Repository
from support.artifacts import scale

CALLS: list[tuple[Any, str]] = [
    *((os, name) for name in ("rename", "mkdir", "unlink", "rmdir", "fsync", "chmod", "open", "close")),
    (Path, "open"),
    (fcntl, "flock"),
]
"""What is called to change a repository, or to read one."""

TRACED = ("builder/repository/", "builder/interrupts.py", "builder/publishing/switching.py", "builder/cli/commands/",
          "builder/cli/finishing.py")  # fmt: skip
"""Where a signal comes."""

COMMANDS = {
    "publish": ("publish", __file__, "--name", "scale"),
    "rollback": ("rollback", "scale", "--to", "1"),
    "prune": ("prune", "scale", "--keep", "1", "--no-other-servers"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def failing(nth: int, error: Callable[[], BaseException], when: str) -> Callable[[], None]:
    """Return what makes the n-th of `CALLS` fail: `before` it takes place, or `after` it took place.

    KeyboardInterrupt is not raised where descriptors are closed: the last ones are closed when a change is complete,
    and Ctrl-C waits then.
    """
    failures = [call for call in CALLS if call[1] != "close" or error is not KeyboardInterrupt]

    def start() -> None:
        calls = count()

        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                is_hit = next(calls) == nth
                if is_hit and when == "before":
                    raise error()
                result = function(*args, **kwargs)
                if is_hit:
                    raise error()
                return result

            return call

        for owner, name in failures:
            setattr(owner, name, wrap(getattr(owner, name)))

    return start


def interrupted(nth: int, number: signal.Signals) -> Callable[[], None]:
    """Return what sends this process a signal at the n-th line that it runs of the code that changes a repository."""

    def start() -> None:
        lines = count()

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if not any(part in frame.f_code.co_filename for part in TRACED):
                return None
            if event == "line" and next(lines) == nth:
                os.kill(os.getpid(), number)
            return trace

        sys.settrace(trace)

    return start


def run(command: str, repository: Path, start: Callable[[], None], *options: str) -> Outcome:
    """Run a command in a child process, with the fault that `start` prepares.

    `publish` installs `scale(3.0)` without proving it, which takes too long to do it for every fault.
    """
    out, err = repository.with_name("out"), repository.with_name("err")
    artifact = scale(3.0)

    def publish(model: Path, root: Path, *, name: str, options: Any, report: Any, **_: Any) -> Publication:
        version = install(Repository(root, report=report), name, artifact, options.config)
        return Publication(name, version, artifact.manifest, version.notes)

    def call(_: Connection) -> None:
        with contextlib.suppress(BaseException):
            for descriptor, file in ((1, out), (2, err)):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w"), "utf-8", line_buffering=True) for n in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            api.publish = publish  # type: ignore[assignment]
            sys.argv = ["builder", *COMMANDS[command], "--repository", str(repository), *options]
            start()
            os._exit(_code_of(cli.main))
        os._exit(70)

    child = fork(call)  # `os.fork` would let it collect, and hang on, sessions of ONNX Runtime that tests left here
    child.check(waits=True)
    child.end()
    assert child.status is not None
    return Outcome(os.waitstatus_to_exitcode(child.status), out.read_text(), err.read_text())


def _code_of(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.settrace(None)
        sys.stdout.flush()
    return 0
