"""What a tuning did and found, as a table and as lines of text."""

import re
from collections.abc import Iterator

from builder.tuning.measurement import Configuration, Measurement
from builder.tuning.search import Found, Goal, Result, Shared, Step, is_disturbed
from builder.tuning.wording import (
    NO_FIGURE,
    count,
    figure,
    say_changes,
    say_configuration,
    say_gains,
    say_load,
    say_ms,
    say_throughput,
)

HEADS = ("run", "settings", "load", "predicted", "rows/s", "p99, ms", "batch", "verdict")
"""`predicted` is the throughput, in rows/s, and `batch` the mean number of rows in one."""


SHARED_HEADS = ("model", "settings", "rows/s before", "after", "p99 before, ms", "after")
"""The heads of the table of several models."""


def to_shared_rows(shared: Shared) -> Iterator[tuple[str, ...]]:
    """Yield a row for each model that shared a server: what it gave with its old settings, and with its new ones."""
    for name, after in shared.after.items():
        before = shared.before.get(name)
        now = after.configuration if before is None else before.configuration
        yield (
            name,
            say_changes(after.configuration, now),
            say_throughput(None if before is None else before.throughput),
            say_throughput(after.throughput),
            say_ms(None if before is None else before.p99_s).replace(" ms", ""),
            say_ms(after.p99_s).replace(" ms", ""),
        )


def to_rows(found: Found, goal: Goal, current: Configuration) -> Iterator[tuple[str, ...]]:
    """Yield a row of the table for each run."""
    for step in found.steps:
        if step.measurement is not None:
            verdict = say_verdict(step, goal, found.best)
            yield (*_row(step, step.measurement, current), verdict)


def _row(step: Step, measured: Measurement, current: Configuration) -> tuple[str, ...]:
    is_current = step.configuration == current
    return (
        str(step.number),
        "current settings" if is_current else say_changes(step.configuration, current),
        say_load(step.load),
        NO_FIGURE if step.predicted is None else figure(step.predicted.throughput),
        say_throughput(measured.throughput).replace("± ", "±"),
        _p99(measured),
        figure(measured.mean_batch) if measured.batches or measured.mean_batch else NO_FIGURE,
    )


def _p99(measured: Measurement) -> str:
    """Return p99 and its upper bound, which is what has to keep the limit: `12.3 (≤13.1)`."""
    if measured.p99_s is None:
        return NO_FIGURE
    return f"{figure(1e3 * measured.p99_s.value)} (≤{figure(1e3 * measured.p99_s.high)})"


def say_verdict(step: Step, goal: Goal, best: Result | None = None) -> str:
    """Return what a run showed about a configuration, in a few words."""
    measured = step.measurement
    if measured is None:
        return ""
    if measured.error:
        return measured.error
    if measured.wrong:
        return f"out: {count(measured.wrong, 'wrong answer')}"
    if measured.failed or measured.unchecked:
        failed = measured.failed
        return count(failed, "failed request") if failed else count(measured.unchecked, "unchecked answer")
    return f"{_say_shown(step, measured, goal, best)}{' (disturbed)' if is_disturbed(measured) else ''}"


def _say_shown(step: Step, measured: Measurement, goal: Goal, best: Result | None) -> str:
    if step.purpose == "calibration":
        return "to learn from"
    miss = _say_miss(measured, goal) if step.keeps is False else ""
    is_best = best is not None and step.trial == best.trial and (not miss or (best.keeps and miss == _OPEN))
    return "best" if is_best else miss or "keeps the limit"


_OPEN = "may miss the limit"
"""What a run by itself does not show, all runs of the same settings may show together."""


def _say_miss(measured: Measurement, goal: Goal) -> str:
    """Return why a run does not show that the limit is kept."""
    p99_s, limit_s = measured.p99_s, goal.max_p99_s
    if p99_s is None:
        return "too few requests"
    if p99_s.high <= limit_s:
        return "falls behind the rate"
    return "misses the limit" if p99_s.value > limit_s else _OPEN


def conclude(found: Found, goal: Goal, current: Configuration) -> Iterator[str]:
    """Yield the result in lines: the verdict, the settings to use, what is as good, and what limits the result."""
    yield f"{found.verdict}: {found.why}"
    if found.best is not None:
        is_current = found.best.configuration == current
        settings = "the current settings" if is_current else say_configuration(found.best.configuration)
        yield f"best: {settings}, {say_load(found.best.load)}: {say_figures(found.best, goal)}"
    if found.baseline is not None and (found.best is None or found.baseline.configuration != found.best.configuration):
        load = say_load(found.baseline.load)
        yield f"current: {say_configuration(current)}, {load}: {say_figures(found.baseline, goal)}"
    if found.gain is not None and found.verdict == "better":
        of_p99 = goal.rate is not None
        yield f"gain: {'' if of_p99 else 'throughput '}{say_gains(found.gain, of_p99=of_p99)}"
    if found.nearest is not None and found.nearest != found.baseline:
        where = f"{say_configuration(found.nearest.configuration)}, {say_load(found.nearest.load)}"
        yield f"nearest: {where}: {say_figures(found.nearest, goal)}"
    yield from _others(found, current)


def _others(found: Found, current: Configuration) -> Iterator[str]:
    for tie in found.ties:
        yield f"as good: {say_changes(tie.configuration, current)}, {say_load(tie.load)}: {_short(tie)}"
    yield from (f"note: {note}" for note in found.notes)


def gather_notes(found: Found) -> tuple[str, ...]:
    """Return the notes of a tuning: those on all of it, and those on its runs, of each kind only one.

    For example: `run 3: other programs took 23% of the machine; the same in runs 8, 9`.
    """
    kinds: dict[str, list[tuple[int, str]]] = {}
    for step in found.steps:
        for note in step.measurement.notes if step.measurement else ():
            kinds.setdefault(_FIGURES.sub("#", note), []).append((step.number, note))
    said = {note for named in kinds.values() for _, note in named}
    on_all = [note for note in found.notes if note not in said]
    is_said = any(note.startswith(_OTHERS) for note in on_all)  # by the search, which made these runs again
    on_runs = [_say_once(named) for kind, named in kinds.items() if not (is_said and kind.startswith(_OTHERS))]
    return tuple(dict.fromkeys((*_join_disturbed(on_all), *on_runs)))


_OTHERS = "other programs took"
_FIGURES = re.compile(r"\d[\d.,]*")


_DISTURBED = re.compile(r"other programs took (\d+)% of the machine during run (\d+)")


def _join_disturbed(notes: list[str]) -> Iterator[str]:
    """Say for all runs at once that other programs were busy during them."""
    found = [match for note in notes if (match := _DISTURBED.fullmatch(note))]
    yield from (note for note in notes if len(found) < 2 or not _DISTURBED.fullmatch(note))
    if len(found) > 1:
        most = max(int(match[1]) for match in found)
        yield f"other programs took up to {most}% of the machine during runs {', '.join(match[2] for match in found)}"


def _say_once(named: list[tuple[int, str]]) -> str:
    number, note = named[0]
    others = sorted({other for other, _ in named} - {number})
    runs = f"{'run' if len(others) == 1 else 'runs'} {', '.join(map(str, others))}"
    return f"run {number}: {note}; the same in {runs}" if others else f"run {number}: {note}"


def say_figures(result: Result, goal: Goal) -> str:
    """Return what was measured of a configuration, beside the limit."""
    limit = f"limit {figure(1e3 * goal.max_p99_s)} ms"
    return f"{say_throughput(result.throughput)} rows/s, p99 {say_ms(result.p99_s)}, {limit}"


def _short(result: Result) -> str:
    return f"{say_throughput(result.throughput)} rows/s, p99 {say_ms(result.p99_s)}"
