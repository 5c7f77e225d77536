"""What a tuning measured and found, as `tune.json` has it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timezone
from math import isfinite
from typing import Any

from builder.tuning.keeping.conditions import Conditions
from builder.tuning.measurement import Configuration
from builder.tuning.search import Found, Step
from builder.version import __version__

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One tuning, as `tune.json` has it.

    Attributes:
        name: The model.
        conditions: What the measurements hold for.
        current: The configuration in config.pbtxt.
        runs: The most runs that it may make.
        started: When it began, in UTC, as in `2026-11-27T15:00:00+00:00`.
        finished: When it was over; None while it goes on, or if it was interrupted.
        steps: The runs so far, in order.
        found: What came out; None before the end.
        config_diff: What the best configuration changes in config.pbtxt, as a unified diff; empty if nothing.
        applied: What was written back, as JSON; None if nothing was.
        notes: What a reader must know about the server and about earlier records; one sentence each.
    """

    name: str
    conditions: Conditions
    current: Configuration
    runs: int
    started: str
    finished: str | None = None
    steps: tuple[Step, ...] = ()
    found: Found | None = None
    config_diff: str = ""
    applied: Any = None
    notes: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return the record as JSON: the fields of all dataclasses by their names, the conditions at the top."""
        found: Any = as_document(self.found)
        if found is not None:
            del found["steps"]  # they are there already
        return {
            "schema": SCHEMA,
            "builder": __version__,
            "name": self.name,
            "started": self.started,
            "finished": self.finished,
            **as_document(self.conditions),
            "current": as_document(self.current),
            "runs": self.runs,
            "steps": as_document(self.steps),
            "found": found,
            "config_diff": self.config_diff,
            "applied": as_document(self.applied),
            "notes": as_document(self.notes),
        }


def as_document(value: Any) -> Any:
    """Return a value as JSON has it; a number that JSON does not have becomes null."""
    if is_dataclass(value):
        return {each.name: as_document(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_document(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_document(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def now() -> str:
    """Return the time as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
