"""Whether the windows of a stage agree with each other, or get slower and slower."""

from collections.abc import Sequence
from itertools import pairwise

from loadtest.run.windows import Figures, Window

STABLE_WINDOWS = 3
STABLE_RATIO = 1.10


def is_growing(windows: Sequence[Figures]) -> bool:
    """Return whether the mean latency of each of the last two windows is 10 % above that of the window before.

    In an open loop that is too fast for the server, requests may be within a limit now, but will not be later.
    """
    means = [window.mean_us for window in windows[-STABLE_WINDOWS:]]
    return len(means) == STABLE_WINDOWS and all(STABLE_RATIO * a < b for a, b in pairwise(means))


def is_stable(windows: list[Window]) -> bool:
    """Return whether the last three windows agree within 10 % in throughput and mean latency.

    That is, the highest is at most 1.1 times the lowest: 100, 104 and 110 rows/s agree, 100, 104 and 111 do not.

    Source: https://github.com/triton-inference-server/perf_analyzer/blob/main/docs/measurements_metrics.md
    """
    last = windows[-STABLE_WINDOWS:]
    if len(last) < STABLE_WINDOWS or not all(window.requests for window in last):
        return False
    throughputs = [window.rows_per_s for window in last]
    latencies = [window.total.latency_us.mean_us for window in last]
    return all(max(values) <= STABLE_RATIO * min(values) for values in (throughputs, latencies))
