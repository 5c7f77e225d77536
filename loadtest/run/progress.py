"""Say on the terminal how far a run is: a line at the end of each stage, and now and then within a long one."""

import time

from loadtest.console import print_note, to_ms
from loadtest.run.record import StageRecord
from loadtest.run.windows import Window
from loadtest.scenarios import Plan, describe_seconds
from loadtest.settings import Limits

_EVERY_S = 30.0
"""How long nothing is said within a stage."""


class Progress:
    """Prints how far a run is, on stderr.

    Args:
        plan: What decides about the stages.
        limits: What they must keep.
    """

    def __init__(self, plan: Plan, limits: Limits) -> None:
        self._of = f"of {'' if plan.is_fixed else 'at most '}{plan.most_stages}"
        self._limits = limits
        self._said = time.monotonic()

    def say_ended(self, number: int, record: StageRecord) -> None:
        """Print the figures of a stage that has ended; the first one has the number 1."""
        figures = f"{record.stage.name}: {describe(record.measured)}"
        self._say(number, figures if record.stage.sought_p99_us is None else record.describe(self._limits))

    def say_measured(self, number: int, record: StageRecord, window: Window) -> None:
        """Print the figures of a stage's newest window if nothing was printed for long."""
        if time.monotonic() - self._said >= _EVERY_S:
            measured_s = sum(figures.seconds for figures in record.windows)
            self._say(number, f"{record.stage.name}, after {describe_seconds(measured_s)}: {describe(window)}")

    def _say(self, number: int, figures: str) -> None:
        self._said = time.monotonic()
        print_note(f"stage {number} {self._of}: {figures}")


def describe(window: Window) -> str:
    """Return the figures of a window: `812 rows/s, p50 9.51 ms, p99 18.2 ms, 0 failed, 0 wrong`."""
    total = window.total
    p50, p99 = (total.latency_us.percentile_us(q) for q in (50, 99))
    failed, wrong = total.failures.total(), total.wrong.total()
    return f"{window.rows_per_s:,.0f} rows/s, p50 {to_ms(p50)} ms, p99 {to_ms(p99)} ms, {failed} failed, {wrong} wrong"
