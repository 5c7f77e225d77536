"""The first runs: how long batches of each size take, by the threads or the engine that an instance has."""

from collections.abc import Iterator
from dataclasses import replace

from builder.tuning.measurement import Configuration, Load
from builder.tuning.search.pooling import Trial
from builder.tuning.search.space import Space
from builder.tuning.simulation import Engine, engine_of
from builder.tuning.wording import count

_LARGEST_ALONE = 64
"""The largest batch that is measured by itself. Of larger ones, the time is extrapolated."""


def calibrations(space: Space, *, several: bool) -> Iterator[tuple[Trial, str]]:
    """Yield the runs that show how long batches take: one user sends requests of all sizes, one after the other.

    Args:
        space: The configurations.
        several: Whether more than one run may be spent on this.

    Yields:
        The configurations and loads, and why each is measured.
    """
    load = Load.of_all_sizes(min(space.largest_batch, _LARGEST_ALONE))
    largest = load.rows[-1][0]
    batches = f"batches of 1 to {largest} rows take" if largest > 1 else "one request takes"
    alone = _alone(space)
    for configuration in alone if several else alone[:1]:
        threads = f" with {count(configuration.threads, 'thread')}" if configuration.threads else ""
        yield (configuration, load), f"how long {batches}{threads}"


def _alone(space: Space) -> list[Configuration]:
    """Return the configurations of one instance whose batches are timed.

    Of several numbers of threads, these are the most and the fewest, and what is between them is interpolated. Of the
    ways to run a plan, they are the first three.
    """
    batch = space.current.max_batch_size and space.largest_batch
    usual = replace(space.current, instances=1, max_batch_size=batch, preferred=(), delay_us=0)
    engines: dict[Engine, Configuration] = {}
    for one in space.configurations:
        if one.instances == 1:
            alone = replace(usual, threads=one.threads, profiles=one.profiles, cuda_graphs=one.cuda_graphs)
            engines.setdefault(engine_of(one, space.cores), alone)
    if len({engine[1:] for engine in engines}) > 1:
        return list(engines.values())[:3]
    by_threads = sorted(engines, key=lambda engine: -(engine[0] or 0))
    return [engines[engine] for engine in dict.fromkeys((by_threads[0], by_threads[-1]))]
