"""Latencies as HDR histograms, which can be added up without loss.

Every histogram has the same buckets: each value from 1 µs to 1 h, kept to three significant digits. Adding two
histograms adds the counts of each bucket. So it makes no difference how the values were spread over processes and
windows: the sum is the histogram that one process would have recorded, and so are its percentiles. Averaging the
percentiles of the processes would be wrong.

For example, process A answers in 100, 100, 100 and 900 µs, process B in 200 and 5000 µs:

    bucket (µs)     100   200   900   5000     count      sum (µs)
    A                 3     -     1      -         4          1200
    B                 -     1     -      1         2          5200
    together          3     1     1      1         6          6400

The median of the six values is 100 µs: half of them, three, are in the first bucket. The mean of the two medians
(100 and 200 µs) would have been 150 µs. The mean is the exact sum over the count: 6400 / 6 = 1066.7 µs.

A percentile of too few values is only the highest of them: p99 says what one request in a hundred exceeds, so it takes
a hundred requests. p50 takes 2, p90 takes 10 and p95 takes 20 (`least_count`).
"""

import base64
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
from hdrh.histogram import HdrHistogram

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3
PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}

_EMPTY = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)

_HEADER = struct.Struct(">IIIIQQd")
"""Cookie, bytes that follow, index offset, digits, lowest value, highest value, and conversion ratio."""

_OUTER_HEADER_BYTES, _MOST_BYTES = 8, 1_000_000
_DAMAGE = (HdrCookieException, HdrHistogramSettingsException, HdrLengthException, IndexError, OverflowError, ValueError,
           struct.error, zlib.error)  # fmt: skip


def least_count(percent: int) -> int:
    """Return how many values a percentile takes, so that at least one of them is above it: 2 for 50, 100 for 99."""
    return -(-100 // (100 - percent))


LEAST_FOR_P99 = least_count(99)


class Latencies:
    """Times in microseconds, each kept to three significant digits, and their exact sum."""

    def __init__(self) -> None:
        self._histogram = _EMPTY
        self._total_us = 0

    def record(self, value_us: int, count: int = 1) -> None:
        """Count `value_us`; a time under 1 µs counts as 1 µs, one over an hour as an hour."""
        value_us = min(max(value_us, _LOWEST_US), _HIGHEST_US)
        self._own().record_value(value_us, count)
        self._total_us += value_us * count

    def record_all(self, counts: Mapping[int, int]) -> None:
        """Count each value as often as `counts` says."""
        for value_us, count in counts.items():
            self.record(value_us, count)

    def add(self, other: "Latencies") -> None:
        """Add all values of another, exactly as if they had been recorded here."""
        if other.count:
            self._own().add(other._histogram)
            self._total_us += other._total_us

    def _own(self) -> HdrHistogram:
        """Return the histogram to write to. It takes 190 KB, so those without values share one."""
        if self._histogram is _EMPTY:
            self._histogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        return self._histogram

    @property
    def count(self) -> int:
        """How many values there are."""
        return int(self._histogram.get_total_count())

    @property
    def mean_us(self) -> float:
        """The exact mean, 0 if there is no value."""
        return self._total_us / self.count if self.count else 0.0

    @property
    def max_us(self) -> int:
        """The highest value, 0 if there is none."""
        return int(self._histogram.get_max_value()) if self.count else 0

    def counts(self) -> Iterator[tuple[int, int]]:
        """Yield each recorded value, as the histogram keeps it, and how often it was recorded."""
        histogram = self._histogram
        for index in np.flatnonzero(np.frombuffer(histogram.counts, np.int64)):
            yield int(histogram.get_value_from_index(int(index))), int(histogram.counts[index])

    def percentile_us(self, percent: int, *, unanswered: int = 0) -> float | None:
        """Return the time within which `percent` of 100 requests were answered; None if there were too few requests.

        A request without an answer counts as slower than every answer. If the percentile is one of those, the time is
        infinite: no time is long enough for `percent` of 100 requests.

        Of 200 requests, 197 were answered within 13 ms and 3 got no answer. p99 is the 198th of them in ascending
        order, which has no answer: infinity. With 1 unanswered request, the 198th is an answer: 13 ms.
        """
        requests = self.count + unanswered
        if requests < least_count(percent):
            return None
        return self.at_rank_us(-(-requests * percent // 100))  # rounded up: p99 of 160 is the 159th; 158 are 98.75 %

    def at_rank_us(self, rank: int) -> float:
        """Return the value with a rank in ascending order, from 1 up; infinite if there are not so many values."""
        if rank > self.count:
            return math.inf
        # HdrHistogram's own search goes through the buckets one by one in Python, which takes several times as long.
        histogram = self._histogram
        index = int(np.searchsorted(np.cumsum(np.frombuffer(histogram.counts, np.int64)), max(rank, 1)))
        return int(histogram.get_highest_equivalent_value(histogram.get_value_from_index(index)))

    def count_within(self, limit_us: float) -> int:
        """Return how many values are within a limit, to three digits: those in buckets that end below or at it.

        So 99 of 100 values are within the limit exactly if p99 is, as percentiles are the ends of buckets as well.
        """
        histogram = self._histogram
        if limit_us >= _HIGHEST_US:
            return self.count
        limit = max(int(limit_us), 0)
        is_end = histogram.get_highest_equivalent_value(limit) == limit
        end = histogram.get_counts_array_index(limit) + (1 if is_end else 0)
        return int(np.frombuffer(histogram.counts, np.int64)[:end].sum())

    def summarize(self) -> dict[str, float | None]:
        """Return p50, p90, p95, p99, max and mean of the values; None for what there are too few of."""
        figures = {name: self.percentile_us(percent) for name, percent in PERCENTILES.items()}
        if not self.count:
            return {**figures, "max": None, "mean": None}
        return {**figures, "max": self.max_us, "mean": round(self.mean_us, 1)}

    def to_text(self) -> str:
        """Return HDR's own compressed form: V2, base64."""
        return str(self._histogram.encode().decode("ascii"))

    @staticmethod
    def counts_of_text(text: str) -> dict[int, int]:
        """Return the values of `to_text` and how often each was recorded, whoever wrote the text.

        Raises:
            ValueError: It is something else, such as a histogram with other buckets.
        """
        latencies = Latencies()
        try:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.b64decode(text, validate=True)[_OUTER_HEADER_BYTES:], _MOST_BYTES)
            _, length, offset, *buckets, _ = _HEADER.unpack_from(data)
            is_ours = buckets == [_DIGITS, _LOWEST_US, _HIGHEST_US] and not offset
            if not unpacker.eof or length != len(data) - _HEADER.size or not is_ours:
                raise ValueError("it has other buckets")
            latencies._histogram = HdrHistogram.decode(text.encode("ascii"))
            counts = dict(latencies.counts())
        except _DAMAGE as error:
            raise ValueError(f"this is not a histogram of a load test: {error}") from error
        if any(count < 0 for count in counts.values()):
            raise ValueError("this is not a histogram of a load test: a count is below 0")
        return counts

    def to_message(self) -> tuple[str, int]:
        """Return HDR's own compressed form, and the sum."""
        return self.to_text(), self._total_us

    @classmethod
    def from_message(cls, message: Sequence[Any]) -> "Latencies":
        """Undo `to_message`."""
        latencies = cls()
        histogram = HdrHistogram.decode(message[0].encode("ascii"))
        if histogram.get_total_count():
            latencies._histogram, latencies._total_us = histogram, message[1]
        return latencies
