"""Whether p99 is within a limit, with confidence.

That p99 is within 20 ms means that at most 1 % of the requests are late: they take longer than 20 ms, or get no answer.
So of each window only two counts are needed, and no histogram. If fewer requests are late than chance explains, p99 is
within the limit; if more are, the limit was missed; in between it is undecided. Comparing the limit with the confidence
interval of p99 between order statistics comes to the same.

For example, if p99 is exactly the limit, about 100 of 10,000 requests are late, with a standard deviation of
sqrt(10000 * 0.01 * 0.99) = 9.95. With 99 % confidence that is 100 ± 2.576 * 9.95 = 100 ± 25.6. So 74 late requests are
within the limit, 126 have missed it, and 110 are undecided.

Requests that wait in one queue are late together, so 10,000 of them say less than 10,000 independent ones would. How
much less, the windows tell: if the counts of late requests have 4 times the variance that chance gives (Pearson's
dispersion), the 10,000 requests are worth 2,500, and the margin is twice as wide.
"""

import math
from collections.abc import Sequence
from enum import Enum

LATE_SHARE = 0.01
"""The share of requests that may be later than p99."""

FEWEST_WINDOWS = 3
"""With fewer windows, nothing is known about their dispersion."""

_Z = 2.576
"""The normal distribution's quantile for a two-sided interval of 99 %. Stages are judged after every window, which
gives chance many occasions; so 95 % would not be enough."""

Counts = tuple[int, int]
"""Of one window: late requests, and all requests."""


class Verdict(str, Enum):
    """What a stage says about its load."""

    WITHIN = "within"
    MISSED = "missed"
    UNDECIDED = "undecided"


def judge(windows: Sequence[Counts]) -> Verdict:
    """Return whether p99 was within the limit in these windows, which all had the same load."""
    late, requests = _sum(windows)
    if len(windows) < FEWEST_WINDOWS or not requests:
        return Verdict.UNDECIDED
    surplus = late / requests - LATE_SHARE
    if abs(surplus) < find_margin(windows):
        return Verdict.UNDECIDED
    return Verdict.MISSED if surplus > 0 else Verdict.WITHIN


def find_margin(windows: Sequence[Counts]) -> float:
    """Return how far the share of late requests may be from 1 % by chance alone; infinite without a request."""
    _, requests = _sum(windows)
    if not requests:
        return math.inf
    return _Z * math.sqrt(find_dispersion(windows) * LATE_SHARE * (1 - LATE_SHARE) / requests)


def find_dispersion(windows: Sequence[Counts]) -> float:
    """Return how many times the variance of independent requests the counts of late ones have, but at least 1.

    With 100 requests each, windows of 0, 4 and 8 late requests have a share of 0.04. By chance, the variance of each
    would be 100 * 0.04 * 0.96 = 3.84. It is (16 + 0 + 16) / 2 = 16, so the dispersion is 16 / 3.84 = 4.2.

    Source: https://en.wikipedia.org/wiki/Overdispersion
    """
    late, requests = _sum(windows)
    if not 0 < late < requests or len(windows) < 2:
        return 1.0
    share = late / requests
    squares = sum((k - n * share) ** 2 / (n * share * (1 - share)) for k, n in windows if n)
    return max(squares / (len(windows) - 1), 1.0)


def _sum(windows: Sequence[Counts]) -> Counts:
    return sum(late for late, _ in windows), sum(requests for _, requests in windows)


def describe_doubt(verdict: Verdict, requests: int) -> str:
    """Return why a verdict is not certain, as the end of a sentence; empty if it is."""
    if verdict is not Verdict.UNDECIDED:
        return ""
    return ", too close to call" if requests >= FEWEST_REQUESTS else ", too few requests to be sure"


FEWEST_REQUESTS = math.ceil(_Z**2 * (1 - LATE_SHARE) / LATE_SHARE)
"""With fewer requests than this, p99 cannot be known to be within a limit, even if no request is late."""
