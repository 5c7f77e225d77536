"""Find the best configuration in few runs: what to try next, and when to stop."""

from collections.abc import Callable, Sequence

from builder.tuning.found import Found, Step
from builder.tuning.goal import Goal
from builder.tuning.measurement import Bench, Measurement
from builder.tuning.space import Space


def search(
    bench: Bench,
    space: Space,
    goal: Goal,
    *,
    runs: int = 10,
    done: Sequence[Measurement] = (),
    observed: Callable[[Step], None] = lambda step: None,
) -> Found:
    """Find the best configuration of a space.

    The first runs show how long batches take and how instances share the cores. From them, a simulation predicts every
    configuration under every load. Each further run goes where the expected gain is largest, and corrects the
    predictions. The last ones repeat the current configuration and the best one in turn.

    Args:
        bench: What measures: a server, or a simulation of one.
        space: The configurations; the current one is the baseline.
        goal: The limit, the load, and what is better.
        runs: The most runs, all together: 4 or more.
        done: The measurements of an interrupted tuning, in order. They count as runs, and are not made again.
        observed: Called before and after each run.

    Raises:
        BuilderError: The bench ended the tuning.
    """
    raise NotImplementedError
