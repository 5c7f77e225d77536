"""The stubs of a Triton: the processes that run its models, one for each instance.

Triton reaps a stub when it unloads the model. A stub that ends in another way stays a zombie, and Triton goes on
calling its model ready **[seen]**.

Source: proc(5), /proc/PID/stat and /proc/PID/cmdline; triton-inference-server/python_backend, src/stub_launcher.cc.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from builder.server import runtime

_PARENT, _EXIT_CODE = 1, 49
"""Positions in /proc/PID/stat, counted from the state, which is its third field."""


@dataclass(frozen=True, slots=True)
class Stub:
    """A child process of `tritonserver`.

    Attributes:
        pid: Its process id.
        status: How it ended, as a return code of `subprocess`: negative for a signal. None while it runs.
        instance: The instance that it runs, such as `digits_0_0`; empty if it was never seen alive.
        model: The model's name, if the model is in the repository.
        version: The model's version, if the model is in the repository.
    """

    pid: int
    status: int | None
    instance: str = ""
    model: str = ""
    version: str = ""


def children_of(server: int) -> list[Stub]:
    """Return the child processes of a `tritonserver`, living ones and zombies."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [stub for pid in pids for stub in _read(pid, parent=server)]


def _read(pid: int, *, parent: int) -> Iterator[Stub]:
    """Yield the process if it is a child of `parent`, and has not vanished."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if int(fields[_PARENT - 1]) != parent:
            return
        if state in (b"Z", b"X"):
            yield Stub(pid, os.waitstatus_to_exitcode(int(fields[_EXIT_CODE - 1])))
        else:
            yield _named(Stub(pid, None), Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return


def _named(stub: Stub, command: bytes) -> Stub:
    """Take the names from a command line: `STUB MODEL_FILE REGION SIZE GROWTH PARENT LIBRARY HANDLE INSTANCE …`."""
    arguments = os.fsdecode(command).split("\0")
    if len(arguments) < 9:  # it is still the shell that becomes the stub
        return stub
    root, *rest = arguments[1].split("/")
    named = replace(stub, instance=arguments[8])
    return replace(named, model=rest[0], version=rest[1]) if root == runtime.REPOSITORY and len(rest) > 2 else named
