"""The simulated batcher forms the batches that Triton's forms, as its sources say."""

import pytest

from builder.tuning.measurement import Configuration
from builder.tuning.simulation.batcher import Batcher


def batcher(*, instances: int = 1, largest: int = 32, preferred: tuple[int, ...] = (), delay_us: int = 0) -> Batcher:
    return Batcher(Configuration(instances, 1, largest, preferred, delay_us))


def waiting(one: Batcher, rows: list[int], *, at: float = 0.0) -> list[list[int]]:
    """Add requests while no instance is free, then take all payloads; return the rows of the requests in each."""
    for request, some in enumerate(rows):
        one.add(at, request, some)
    taken = []
    while (payload := one.take(at)) is not None:
        taken.append([rows[request] for request in payload.requests])
        assert payload.rows == sum(taken[-1])
        one.run(at)
    return taken


@pytest.mark.parametrize(
    ("largest", "preferred", "rows", "batches"),
    [
        (32, (), [1] * 5, [[1] * 5]),  # the open payload grows while it waits
        (4, (), [1] * 10, [[1] * 4, [1] * 4, [1] * 2]),
        (32, (4,), [1] * 10, [[1] * 4, [1] * 4, [1] * 2]),  # without a delay, a preferred size is a cap
        (32, (4, 8), [1] * 10, [[1] * 4, [1] * 4, [1] * 2]),  # the payload is full as soon as it has a preferred size
        (32, (1,), [1] * 3, [[1], [1], [1]]),
        (32, (8,), [5, 5, 5], [[5, 5], [5]]),  # the open payload has no preferred size yet, and 10 are not too many
        (32, (8,), [16, 1], [[16], [1]]),  # a request may be larger than the preferred size
        (32, (8,), [4, 16], [[4, 16]]),  # no size was found for the open payload, and 20 are not too many
        (32, (), [20, 20, 4], [[20], [20, 4]]),
        (1, (), [1, 1], [[1], [1]]),
        (0, (), [1, 1, 1], [[1], [1], [1]]),
    ],
)
def test_requests_that_wait_without_a_delay(
    largest: int, preferred: tuple[int, ...], rows: list[int], batches: list[list[int]]
) -> None:
    assert waiting(batcher(largest=largest, preferred=preferred), rows) == batches


def test_the_largest_preferred_size_that_is_there_is_taken() -> None:
    """Two payloads wait, of four requests and of one; the other 15 requests stay in the queue until one is taken."""
    one = batcher(preferred=(4, 8))
    for request in range(20):
        one.add(0.0, request, 1)
    sizes = []
    while (payload := one.take(0.0)) is not None:
        sizes.append(payload.rows)
        one.run(0.0)
    assert sizes == [4, 8, 8]


def test_a_request_waits_for_others_until_the_delay_is_over() -> None:
    one = batcher(delay_us=1000)
    one.add(0.0, 0, 1)
    assert one.take(0.0) is None
    assert one.rings_at == pytest.approx(0.001)
    one.add(0.0004, 1, 1)
    one.run(0.001)
    payload = one.take(0.001)
    assert payload is not None
    assert payload.requests == [0, 1]


def test_a_preferred_size_ends_the_wait() -> None:
    one = batcher(preferred=(2,), delay_us=1000)
    one.add(0.0, 0, 1)
    one.add(0.0002, 1, 1)
    payload = one.take(0.0002)
    assert payload is not None
    assert payload.requests == [0, 1]


def test_with_a_delay_payloads_that_waited_are_merged_beyond_the_preferred_size() -> None:
    one = batcher(preferred=(2,), delay_us=100)
    for request in range(6):
        one.add(0.0, request, 1)
    first = one.take(0.001)
    assert first is not None
    assert first.rows > 2
    capped = batcher(preferred=(2,))
    for request in range(6):
        capped.add(0.0, request, 1)
    first = capped.take(0.001)
    assert first is not None
    assert first.rows == 2


def test_two_payloads_wait_for_each_instance() -> None:
    for instances in (1, 2):
        one = batcher(instances=instances, largest=1)
        for request in range(10):
            one.add(0.0, request, 1)
        taken = []
        while (payload := one.take(0.0)) is not None:
            taken.append(payload.requests)
        assert taken == [[request] for request in range(2 * instances)]
