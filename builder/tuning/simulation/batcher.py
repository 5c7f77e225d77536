"""Triton's dynamic batcher, step by step: which requests run together, and when.

Triton has one batcher for all instances of a model. It moves requests from its queue into *payloads*, which wait for a
free instance. The last payload is open: it takes more requests while it waits, until it is full or an instance takes
it. At most two payloads wait for each instance.

Source: triton-inference-server/core at r24.10 (Triton 2.51), src/dynamic_batch_scheduler.cc (`BatcherThread`,
`Enqueue`, `GetDynamicBatch`), src/rate_limiter.cc (`PayloadSlotAvailable`) and src/instance_queue.cc (`Dequeue`).
Newer releases do the same.
"""

import math
from collections import deque

from builder.tuning.measurement import Configuration

_EARLY_S = 1e-9
"""How much earlier than it is due a timer may ring, so that rounding does not set it again and again."""


class Payload:
    """Requests that run together.

    Attributes:
        requests: Their numbers, in order.
        rows: How many rows they have together.
        since: When the first of them came, in seconds.
        taken: Whether an instance has taken it.
    """

    __slots__ = ("requests", "rows", "since", "taken")

    def __init__(self) -> None:
        self.requests: list[int] = []
        self.rows = 0
        self.since = 0.0
        self.taken = False


class Batcher:
    """The queue of one model.

    Args:
        configuration: The configuration of the model.

    Attributes:
        rings_at: When `run` is due although nothing happens, in seconds, because requests will have waited for long
            enough; None if nothing is waited for.
    """

    __slots__ = (
        *("rings_at", "_capacity", "_combines", "_delay", "_largest", "_limit", "_next", "_open", "_payloads"),
        *("_preferred", "_queue", "_queued", "_saturated"),
    )

    def __init__(self, configuration: Configuration) -> None:
        self.rings_at: float | None = None
        self._combines = configuration.max_batch_size > 0
        self._limit = max(1, configuration.max_batch_size)
        self._preferred = sorted(configuration.preferred) or [self._limit]
        self._largest = self._preferred[-1]
        self._delay = configuration.delay_us * 1e-6
        self._capacity = 2 * configuration.instances
        self._queue: deque[tuple[float, int, int]] = deque()
        self._queued = 0
        self._payloads: deque[Payload] = deque()
        self._open = Payload()
        self._saturated = False
        self._next = 0.0

    def add(self, now: float, request: int, rows: int) -> None:
        """Put a request into the queue, and form batches if Triton would: each request may or may not wake it."""
        if not self._combines:
            alone = Payload()
            self._put(alone, now, request, rows)
            self._payloads.append(alone)
            return
        self._queue.append((now, request, rows))
        self._queued += rows
        if self._saturated or self._open.taken or self._queued >= self._next:
            self.run(now)

    def take(self, now: float) -> Payload | None:
        """Give the first payload to an instance that is free; None if there is none.

        With a delay, payloads that waited for longer than it are merged up to `max_batch_size`, whatever the preferred
        sizes are.
        """
        if not self._payloads:
            return None
        payload = self._payloads.popleft()
        payload.taken = True
        while self._delay and self._payloads:
            following = self._payloads[0]
            if now - following.since <= self._delay or payload.rows + following.rows > self._limit:
                break
            following.taken = True
            payload.requests += following.requests
            payload.rows += following.rows
            self._payloads.popleft()
        return payload

    def run(self, now: float) -> None:
        """Form payloads until nothing more can be done now. Triton does so whenever an instance takes a payload."""
        self.rings_at = None
        while self._queue:
            if self._saturated or self._open.taken:
                self._open, self._saturated, self._next = Payload(), False, 0.0
            if len(self._payloads) >= self._capacity:
                return
            count = self._choose(now)
            if count is None:
                return
            fresh = not self._open.requests
            for _ in range(count):
                since, request, rows = self._queue.popleft()
                self._queued -= rows
                self._put(self._open, since, request, rows)
            if fresh and count:
                self._payloads.append(self._open)

    @staticmethod
    def _put(payload: Payload, since: float, request: int, rows: int) -> None:
        if not payload.requests:
            payload.since = since
        payload.requests.append(request)
        payload.rows += rows

    def _choose(self, now: float) -> int | None:
        """Return how many requests join the open payload now; None if they wait for others. This is `GetDynamicBatch`.

        For example, batches may have up to 32 rows, 8 is preferred, and there is no delay. Of twelve requests of one
        row, the first eight are a batch. A request of 16 rows is a batch of its own if it is the first; but it joins an
        open payload of four, because no preferred size was found for them and 20 are not too many.
        """
        held = self._open.rows
        count, rows, preferred, is_full = self._look_ahead(held)
        is_late = self._delay > 0 and now >= self._queue[0][0] + self._delay - _EARLY_S
        if preferred and not is_late:
            if not self._delay:
                self._saturated = True
            return preferred
        if not count:  # the open payload has no room for the next request
            return 0
        if is_full or held + rows >= self._largest:
            self._saturated = True
            return count
        return count if is_late or not self._delay else self._wait(held, rows, count)

    def _wait(self, held: int, rows: int, count: int) -> int | None:
        """Wait for more requests until the first one has waited for the delay, unless the open payload can take these.

        A request that comes meanwhile wakes the batcher only if there are enough for the next preferred size then.
        """
        larger = (size for size in self._preferred if size > held + rows)
        self._next = next(larger, self._preferred[0]) - held
        if self._next < 0:  # an unsigned number in Triton, so nothing ever reaches it
            self._next = math.inf
        if held and held not in self._preferred and not self._saturated:
            return count
        self.rings_at = self._queue[0][0] + self._delay
        return None

    def _look_ahead(self, held: int) -> tuple[int, int, int, bool]:
        """Go through the queue as far as the largest batch, beside the rows that the open payload holds already.

        Returns:
            How many requests fit, their rows, how many of them make a preferred size (0 if none do), and whether the
            batch is full.
        """
        count = rows = best = best_count = 0
        for _, _, more in self._queue:
            if held or count:
                total = held + rows + more
                if total > self._largest and not best:
                    best, best_count = rows, count
                    self._saturated = True
                if total > self._limit:
                    return count, rows, best_count, True
            rows += more
            count += 1
            if held + rows in self._preferred:
                best, best_count = rows, count
        return count, rows, best_count, False
