"""Let a command tell the result of its change, whatever signals come once the change is complete."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from builder import interrupts
from builder.cli.output import report


@contextmanager
def finishing() -> Iterator[None]:
    """Run a block that changes a repository and prints what it did.

    Until the change is complete, Ctrl-C ends the block as usual. After that the block ends by itself, and a note says
    that the signal came too late.
    """
    with interrupts.told() as dropped:
        yield
    for number in dict.fromkeys(dropped):
        report("note", f"{signal.Signals(number).name} came too late to stop this command: the change was complete")
