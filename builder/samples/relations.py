"""Find other sizes of a model's dynamic axes, near sizes that work, and keep the relations between the axes.

Nothing in a file or a module says how its axes depend on each other: a mask may have to be one longer than the past,
an image a multiple of 32, a mask of frames as long as a convolution makes the sound. So sizes are tried, and what the
model says when it fails is read: in `Attempting to broadcast an axis by a dimension other than 1. 15 by 16`, an axis of
size 16 is to have 15. Every suggestion is tried too, so that a number which was misread costs a run and nothing else.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain

from builder.samples.sizes import Sizes

WhyNot = Callable[[Sizes], str | None]
"""Runs the model at these sizes. Returns why it fails, as far as that is known, or None if it works."""

FRACTIONS = ((1, 2), (3, 2), (2, 1))
"""The other sizes to look for: half, one and a half times and twice the given ones."""

MOST_MENDED = 5
"""How often sizes are changed and tried again, following what the model says."""

MOST_TRIES = 60
"""How many runs to make for all other sizes together."""

MOST_NUMBERS = 40
"""How many of the numbers in a message are looked at: the first ones are about shapes."""

LARGEST_UNIT = 64
"""Sizes are rounded to multiples of a power of two of at most this: networks halve their input up to six times."""


def mended(
    sizes: Sizes, why_not: WhyNot, *, kept: Collection[str] = (), avoided: Collection[Sizes] = ()
) -> Sizes | None:
    """Return these sizes if the model works at them, or near ones that follow what it says; None if neither works.

    Example: `past` and `total` are 14 and 16 in a model whose mask has a place for the past and for one new token. It
    fails with "15 by 16", and so the result is 14 and 15.

    Args:
        sizes: The sizes to start from.
        why_not: Runs the model.
        kept: The names whose sizes stay as they are.
        avoided: Sizes that are not wanted, because they are known already.
    """
    waiting, tried = [dict(sizes)], [dict(each) for each in avoided]
    for _ in range(1 + MOST_MENDED):
        current = next((each for each in waiting if each not in tried), None)
        if current is None:
            return None
        tried.append(current)
        why = why_not(current)
        if why is None:
            return current
        waiting = [*(each for each in waiting if each not in tried), *_suggested(current, why, kept)]
    return None


def other_sizes(given: Sizes, why_not: WhyNot, *, kept: Collection[str] = ()) -> Iterator[Sizes]:
    """Yield up to three other choices of sizes at which a model works: near half, 3/2 and twice the given ones.

    Args:
        given: Sizes at which it works.
        why_not: Runs the model.
        kept: The names whose sizes stay as they are.
    """
    return (found for _, found in searched_sizes(given, why_not, kept=kept) if found is not None)


def searched_sizes(
    given: Sizes, why_not: WhyNot, *, kept: Collection[str] = ()
) -> Iterator[tuple[Sizes, Sizes | None]]:
    """Yield the sizes that `other_sizes` looks for, and those near them at which the model works, or None.

    The same sizes are not found twice.
    """
    known: list[Sizes] = [dict(given)]
    free = [name for name in given if name not in kept]
    tries = 0

    def limited(sizes: Sizes) -> str | None:
        nonlocal tries
        tries += 1
        return why_not(sizes) if tries <= MOST_TRIES else ""

    for fraction in FRACTIONS if free else ():
        found = None
        for attempt, moved in _attempts(given, free, fraction):
            fixed = {*kept, *moved} if len(moved) < len(free) else kept
            found = mended(attempt, limited, kept=fixed, avoided=known)
            if found is not None:
                known.append(found)
                break
        yield {**given, **{name: _scaled(given[name], fraction, 1) for name in free}}, found


def never_varied(given: Sizes, found: Iterable[Sizes]) -> list[str]:
    """Return the names that have their given size in all of these."""
    others = list(found)
    return [name for name, size in given.items() if all(each[name] == size for each in others)]


def _attempts(given: Sizes, free: Sequence[str], fraction: tuple[int, int]) -> Iterator[tuple[Sizes, Sequence[str]]]:
    """Yield sizes to try, and the names that were changed: all in proportion, all by as much, and one at a time.

    Each is tried as it comes and then rounded to multiples, since 3/2 of 224 is no multiple of 32.
    """
    every = {name: _scaled(given[name], fraction, 1) for name in free}
    in_units = {name: _scaled(given[name], fraction, _unit(given[name])) for name in free}
    step = min(abs(every[name] - given[name]) for name in free)
    sign = 1 if fraction[0] > fraction[1] else -1
    shifted = {name: max(1, given[name] + sign * step) for name in free}
    alone = ([{name: every[name]}, {name: in_units[name]}] for name in free) if len(free) > 1 else ()
    for changed in chain((every, in_units, shifted), *alone):
        yield {**given, **changed}, list(changed)


def _scaled(size: int, fraction: tuple[int, int], unit: int) -> int:
    """Return a fraction of a size, rounded down to a multiple of `unit`, but to a larger one if it has to grow."""
    numerator, denominator = fraction
    wanted = size * numerator // denominator
    if wanted == size and numerator > denominator:
        wanted = size + 2  # 3/2 of 1 would be 1 again, and 2 is twice as much
    rounded = wanted // unit * unit
    if rounded == size != wanted:
        rounded += unit if wanted > size else -unit
    return max(min(unit, size), rounded)


def _unit(size: int) -> int:
    """Return the largest power of two, up to a limit, that divides a size and is less than it."""
    unit = min(size & -size, LARGEST_UNIT)
    return unit if unit < size else max(1, size // 2)


# ---------------------------------------------------------------- what a model says


def _suggested(sizes: Sizes, why: str, kept: Collection[str]) -> Iterator[dict[str, int]]:
    """Yield sizes in which one axis has a number that the message names beside its own, the nearest first.

    An axis of size 1 would fit any other, and so it shows no relation.
    """
    numbers = _numbers(why)
    found: list[tuple[int, str, int]] = []
    for name, size in sizes.items():
        places = [place for place, number in enumerate(numbers) if number == size and name not in kept]
        for place in places:
            near = ((abs(place - other), number) for other, number in enumerate(numbers))
            found += [(distance, name, number) for distance, number in near if number not in (1, size)]
    for _, name, number in sorted(found, key=lambda each: each[0]):
        yield {**sizes, name: number}


def _numbers(why: str) -> list[int]:
    """Return the positive numbers in a message that may be sizes, in order; not those of files, lines and names.

    A reshape tells how many elements there are in all, and not which axis is to blame.
    """
    text = why.rpartition("Status Message:")[2]
    if "reshape" in text.lower() or "is invalid for input of size" in text:
        return []
    text = re.sub(r"\S+\.(?:h|cc|cpp|cu|py):\d+", " ", text)
    text = re.sub(r"(?<=\d)x(?=\d)", " by ", text)
    found = (int(digits) for digits in re.findall(r"(?<![\w.])\d{1,9}(?![\w.]*\w)", text))
    return [number for number in found if number > 0][:MOST_NUMBERS]
