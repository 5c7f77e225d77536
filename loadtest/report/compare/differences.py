"""What differs between the runs of two sides besides their figures, and what makes a run doubtful."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.report.compare.runs import Run

_MAY_DIFFER = ("limits.", "seed", "server", "stage_time_s", "started", "version asked for", "answered by", "warm_up_s")
"""What two runs of the same load may differ in. Any other difference makes them different tests."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that is not the same in all runs.

    Attributes:
        name: As in the result, such as `limits.max_p99_ms`.
        values: Its values on either side, several if the runs of a side differ.
        spoils: Whether the figures are then of different tests.
    """

    name: str
    values: tuple[tuple[str, ...], tuple[str, ...]]
    spoils: bool


def find_differences(sides: Sequence[Sequence[Run]]) -> list[Difference]:
    """Return the settings that differ between any two runs, those that spoil the comparison first."""
    described = [[_describe(run) for run in side] for side in sides]
    names = dict.fromkeys(name for side in described for run in side for name in run)
    found = []
    for name in names:
        first, second = (tuple(dict.fromkeys(run.get(name, "not given") for run in side)) for side in described)
        if len({*first, *second}) > 1 and name != "started":
            found.append(Difference(name, (first, second), not name.startswith(_MAY_DIFFER)))
    return sorted(found, key=lambda difference: not difference.spoils)


def _describe(run: Run) -> dict[str, str]:
    """Return each setting of a run as text."""
    asked = {
        **run.asked,
        "models": run.models,
        "version asked for": list(run.versions),
        "answered by": list(run.answered_by),
        "requests in flight at most": sorted({stage.users for stage in run.stages if stage.is_open_loop}),
    }
    return dict(_flat("", asked))


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and not prefix:
            yield from _flat(f"{name}.", value)
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def find_doubts(sides: Sequence[Sequence[Run]]) -> list[str]:
    """Return why figures of single runs are doubtful: a run did not pass, or its client was the bottleneck."""
    return [
        f"{'AB'[number]} ({run.label}) {doubt}"
        for number, side in enumerate(sides)
        for run in side
        for doubt in _doubts(run)
    ]


def _doubts(run: Run) -> Iterator[str]:
    if not run.complete:
        yield "did not run to its end"
    if run.reasons:
        yield f"did not pass: {'; '.join(run.reasons)}"
    saturated = [stage.name for stage in run.stages if stage.saturated]
    if saturated:
        yield f"measured its load generator, not the server, in: {', '.join(saturated)}"
