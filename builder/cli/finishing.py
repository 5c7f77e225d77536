"""Let a command report the result of its change and exit with 0, whatever happens once the change is complete."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from builder import interrupts
from builder.cli.output import UnwrittenError, print_message, report


@contextmanager
def finishing() -> Iterator[None]:
    """Run a block that changes a repository and prints what it did.

    Until the change is complete, Ctrl-C ends the block as usual. After that the block ends by itself, and a note says
    that the signal came too late. A result that stdout does not take is printed to stderr instead.
    """
    with interrupts.told() as dropped:
        try:
            yield
        except UnwrittenError as lost:
            report("note", f"the command succeeded, but its result could not be written to stdout: {lost.what}")
            print_message(lost.text)
        interrupts.ignore_afterwards()
    for number in dict.fromkeys(dropped):
        report("note", f"{signal.Signals(number).name} came too late to stop this command: the change was complete")
