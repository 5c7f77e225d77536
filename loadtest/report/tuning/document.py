"""Read the tune.json of a tuning, as far as the page shows it; the file may have been written by anybody."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from loadtest.errors import SettingsError, reason
from loadtest.files import read_json
from loadtest.printable import counted

SCHEMA = 1
_MOST_SIZES = 3
_OPEN = "may miss the limit"
_MOST_OTHERS = 0.10
"""Above this share of the machine, what other programs took disturbs a run."""

_FIX = "name the tune.json of a tuning, which `python -m builder tune --report-dir FOLDER` writes"


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval; that of a gain is the 90 % one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        number: Which one, from 1.
        settings: What was tried, in words.
        load: Under which load, in words.
        why: Why just this was tried.
        throughput: Rows answered each second; None if there is no figure.
        p99_ms: In milliseconds; None if there is no figure.
        predicted: Throughput and p99 in milliseconds that were expected; None if nothing was.
        mean_batch: The mean number of rows in a batch.
        so_far: Throughput and p99 in milliseconds of the best settings so far; None if none kept the limit.
        kind: `learning`, `current`, `best`, `kept`, `missed` or `out`.
        verdict: What the run showed, in words.
    """

    number: int
    settings: str
    load: str
    why: str
    throughput: Interval | None
    p99_ms: Interval | None
    predicted: tuple[float, float] | None
    mean_batch: float
    so_far: tuple[float, float] | None
    kind: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Result:
    """What all runs of one configuration under one load say together: `what` it is, and its figures."""

    what: str
    settings: str
    load: str
    throughput: Interval
    p99_ms: Interval
    runs: int


@dataclass(frozen=True, slots=True)
class Document:
    """A tuning.

    Attributes:
        name: The model.
        verdict: What came out; empty if the tuning was not over.
        why: The same as a sentence.
        limit_ms: The limit of p99.
        is_rate: Whether a rate was given, so that the lowest p99 is looked for.
        facts: Names and values of what the figures hold for.
        runs: In order.
        results: What is best, what is there now, and what is as good.
        notes: What a reader must know.
        diff: What the best settings change in config.pbtxt.
        applied: What was written back, in words; empty if nothing was.
    """

    name: str
    verdict: str
    why: str
    limit_ms: float
    is_rate: bool
    facts: tuple[tuple[str, str], ...]
    runs: tuple[Run, ...]
    results: tuple[Result, ...]
    notes: tuple[str, ...]
    diff: str
    applied: str


def read_document(path: Path) -> Document:
    """Read a tune.json.

    Raises:
        SettingsError: The file is something else, or is damaged.
    """
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", _FIX) from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA or "steps" not in values:
        raise SettingsError(path, f"the file is not a tuning of schema {SCHEMA}", _FIX)
    try:
        return _document(values)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SettingsError(path, f"the tuning in this file is damaged: {error!r}", _FIX) from error


def _document(values: Mapping[str, Any]) -> Document:
    found, goal, applied = values["found"], values["goal"], values["applied"]
    notes = [*values["fixed"], *values["notes"], *(found["notes"] if found else ())]
    return Document(
        name=str(values["name"]),
        verdict=str(found["verdict"]) if found else "",
        why=str(found["why"]) if found else "",
        limit_ms=_number(1000 * _number(goal["max_p99_s"])),
        is_rate=goal["rate"] is not None,
        facts=tuple(_facts(values)),
        runs=tuple(_run(step, values) for step in values["steps"] if step["measurement"] is not None),
        results=tuple(_results(found)) if found else (),
        notes=tuple(map(str, notes)),
        diff=str(values["config_diff"]),
        applied=str(applied["why"]) if applied and applied["is_changed"] else "",
    )


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    goal, machine = values["goal"], values["machine"]
    load = say_load(goal) if goal["users"] or goal["rate"] else "part of the answer"
    memory = f", {_number(machine['memory']) / 1e9:.0f} GB" if machine["memory"] else ""
    virtual = ", virtual" if machine["virtual"] else ""
    software = ", ".join(f"{name} {version}" for name, version in sorted(values["software"].items()))
    facts = [
        ("model", f"{values['name']} version {values['model']['version']}"),
        ("limit", f"p99 of {1000 * _number(goal['max_p99_s']):g} ms"),
        ("load", load),
        ("rows per request", ", ".join(f"{int(rows)} (weight {weight:g})" for rows, weight in goal["rows"])),
        ("each run", f"{_number(values['stage_time_s']):g} s over {values['protocol']}"),
        ("server", values["server"] or "started for the tuning, on this machine"),
        ("machine", f"{machine['cpu'] or 'CPU not known'}, {counted(machine['cores'], 'core')}{memory}{virtual}"),
        ("kernel", machine["kernel"]),
        ("software", software),
        ("began", values["started"]),
        ("ended", values["finished"] or "not yet"),
    ]
    return [(name, str(value)) for name, value in facts if value]


def _run(step: Mapping[str, Any], values: Mapping[str, Any]) -> Run:
    measured, predicted, best = step["measurement"], step["predicted"], step["best"]
    kind, verdict = _judge(step, values)
    return Run(
        number=int(step["number"]),
        settings=_settings(step["configuration"], values["current"]),
        load=say_load(step["load"]),
        why=str(step["why"]),
        throughput=_interval(measured["throughput"]),
        p99_ms=_interval(measured["p99_s"], 1000),
        predicted=predicted and (_number(predicted["throughput"]), _number(1000 * _number(predicted["p99_s"]))),
        so_far=best and (_number(best["throughput"]["value"]), _number(1000 * _number(best["p99_s"]["value"]))),
        mean_batch=_number(measured["mean_batch"]),
        kind=kind,
        verdict=verdict,
    )


def _judge(step: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of a run, and what it showed in words."""
    measured = step["measurement"]
    if measured["error"]:
        return "out", str(measured["error"])
    if measured["wrong"]:
        return "out", f"out: {counted(measured['wrong'], 'wrong answer')}"
    for count, what in (("failed", "failed request"), ("unchecked", "unchecked answer")):
        if measured[count]:
            return "out", counted(measured[count], what)
    kind, verdict = _judge_figures(step, values)
    is_disturbed = _number(measured["others"] or 0) > _MOST_OTHERS
    return kind, f"{verdict}{' (disturbed)' if is_disturbed else ''}"


def _judge_figures(step: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[str, str]:
    measured, best = step["measurement"], (values["found"] or {}).get("best")
    if step["purpose"] == "calibration":
        return "learning", "to learn from"
    miss = "" if step["keeps"] else _say_miss(measured, values["goal"])
    is_best = best and all(best[key] == step[key] for key in ("configuration", "load"))
    if best and is_best and (not miss or (best["keeps"] and miss == _OPEN)):
        return "best", "best"
    if miss:
        return "missed", miss
    return ("current" if step["configuration"] == values["current"] else "kept"), "keeps the limit"


def _say_miss(measured: Mapping[str, Any], goal: Mapping[str, Any]) -> str:
    p99_s, limit_s = measured["p99_s"], _number(goal["max_p99_s"])
    if p99_s is None:
        return "too few requests"
    if _number(p99_s["high"]) <= limit_s:
        return "falls behind the rate"
    return "misses the limit" if _number(p99_s["value"]) > limit_s else _OPEN


def _results(found: Mapping[str, Any]) -> list[Result]:
    best, baseline = found["best"], found["baseline"]
    named = [("best", best), ("current settings", baseline), ("nearest", found["nearest"])]
    if best and baseline and best["configuration"] == baseline["configuration"]:
        named = [("best: the current settings", best)]
    named += [("as good", tie) for tie in found["ties"]]
    return [
        Result(
            what,
            say_configuration(one["configuration"]),
            say_load(one["load"]),
            _known(_interval(one["throughput"])),
            _known(_interval(one["p99_s"], 1000)),
            int(one["runs"]),
        )
        for what, one in named
        if one
    ]


def _known(interval: Interval | None) -> Interval:
    if interval is None:
        raise ValueError("a result has no figure")
    return interval


def _interval(values: Mapping[str, Any] | None, scale: float = 1.0) -> Interval | None:
    if values is None:
        return None
    return Interval(*(_number(scale * _number(values[name])) for name in ("value", "low", "high")))


def _number(value: Any) -> float:
    """Return a figure.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is not a figure")
    return float(value)


# ---- In words, as `tune` itself says it (builder/tuning/wording.py)


def say_configuration(one: Mapping[str, Any]) -> str:
    """Return settings in words, such as `2 instances of 1 thread, batches up to 32, delay 500 µs`."""
    threads = "" if one["threads"] is None else f" of {counted(one['threads'], 'thread')}"
    parts = [f"{counted(one['instances'], 'instance')}{threads}", _say_batches(one)]
    if one["delay_us"]:
        parts.append(f"delay {one['delay_us']:,} µs")
    if one["profiles"]:
        plural = "s" if len(one["profiles"]) > 1 else ""
        parts.append(f"profile{plural} {'/'.join(map(str, one['profiles']))}")
    if one["cuda_graphs"]:
        parts.append("CUDA graphs")
    return ", ".join(parts)


def _say_batches(one: Mapping[str, Any]) -> str:
    if not one["max_batch_size"]:
        return "no batches"
    preferred = one["preferred"]
    if len(preferred) == 1 and not one["delay_us"]:
        return f"batches up to {preferred[0]} (of {one['max_batch_size']})"
    sizes = f", preferred {'/'.join(map(str, preferred))}" if preferred else ""
    return f"batches up to {one['max_batch_size']}{sizes}"


def _settings(one: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    return "current settings" if one == current else say_configuration(one)


def say_load(load: Mapping[str, Any]) -> str:
    """Return a load in words: `16 users`, `300 requests/s`, `16 users with 1 or 4 rows` unless each request has one."""
    rate = load["rate"]
    text = counted(load["users"], "user") if rate is None else f"{_number(rate):,.6g} requests/s"
    *others, last = [str(int(rows)) for rows, _ in load["rows"]]
    rows = f"{', '.join(others)} or {last}" if others else last
    if len(others) >= _MOST_SIZES:
        rows = f"{others[0]} to {last}"
    return text if rows == "1" else f"{text} with {rows} rows"
