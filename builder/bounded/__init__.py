"""Work on a file that may be hostile: in a child process, within limits of time and memory.

`run` is the whole of it: it starts a child, which does the work, and ends the child when it takes more than it may
(`running`). `limits` says how much that is, and words the errors; `memory` asks the machine. Code that works on the
file may run inside such a child or not. It says what it is doing, so that an error can name it, and how to stop it in
time (`inside`); the parent reads that from memory that both share (`board`). The child is a fork (`forking`), or in a
program with threads a new process (`spawning`). `parcel` brings the result back.
"""

from builder.bounded.forking import Forked, fork, silence_stderr
from builder.bounded.inside import (
    during,
    expect,
    fall_back,
    focus,
    memory_left,
    out_of_memory,
    out_of_time,
    stoppable,
    time_left,
    untimed,
)
from builder.bounded.limits import LimitError, Limits, OutOfMemoryError, OutOfTimeError
from builder.bounded.running import run

__all__ = [
    "Forked",
    "LimitError",
    "Limits",
    "OutOfMemoryError",
    "OutOfTimeError",
    "during",
    "expect",
    "fall_back",
    "focus",
    "fork",
    "memory_left",
    "out_of_memory",
    "out_of_time",
    "run",
    "silence_stderr",
    "stoppable",
    "time_left",
    "untimed",
]
