"""Read the result.json of a run, as far as it is compared; the file may have been written by anybody."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.errors import SettingsError, reason
from loadtest.files import read_json
from loadtest.report.bounds import tabulate
from loadtest.report.intervals import Windows
from loadtest.report.result import SCHEMA
from loadtest.run import Latencies

FIGURES = ("throughput_rows_per_s", "mean_us", "p50_us", "p99_us")
_FIX = "name the result.json of a finished run"
_TOO_LARGE = 1e15


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of one run.

    Attributes:
        name: What the report calls it.
        load: Requests per second in an open loop, users in a closed loop.
        is_open_loop: Which of the two it is.
        users: How many users there were; in an open loop, the most requests in flight.
        figures: By name, None where there were too few answers.
        counts: Answers, failures and wrong answers.
        saturated: Whether the load generator was the bottleneck.
        windows: Its windows; neighbours are joined if there are more than 20, so that they depend less on each other.
    """

    name: str
    load: float
    is_open_loop: bool
    users: float
    figures: Mapping[str, float | None]
    counts: Mapping[str, int]
    saturated: bool
    windows: Windows


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        label: Where it was read from.
        asked: What was asked for, the value of `run` in the result without its models.
        models: The weight of each model in the mix, by name.
        versions: The version that each model was asked for; `any` for the server's choice.
        answered_by: The models and versions that answered, as in `digits 2`.
        reasons: Why it did not pass; empty if it did.
        complete: Whether every stage ran to its end.
        stages: In the order in which they ran.
    """

    label: str
    asked: Mapping[str, Any]
    models: Mapping[str, float]
    versions: tuple[str, ...]
    answered_by: tuple[str, ...]
    reasons: tuple[str, ...]
    complete: bool
    stages: tuple[Stage, ...]


def read_run(path: Path) -> Run:
    """Read a result.json.

    Raises:
        SettingsError: The file is something else, or has another schema.
    """
    try:
        result = read_json(path)
    except (OSError, ValueError) as error:
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", _FIX) from error
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise SettingsError(path, f"the file is not a result of schema {SCHEMA}", _FIX)
    try:
        return _run(str(path), result)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise SettingsError(path, f"the result in this file is damaged: {error!r}", _FIX) from error


def _run(label: str, result: Mapping[str, Any]) -> Run:
    versions = [version for stage in result["stages"] for version in stage["versions"] if version["requests"]]
    answered_by = {f"{version['model']} {version['version'] or '(no version named)'}" for version in versions}
    asked, verdict = result["run"], result["verdict"]
    return Run(
        label=label,
        asked={name: value for name, value in asked.items() if name != "models"},
        models=_weights(asked["models"]),
        versions=tuple(str(model["version"] or "any") for model in asked["models"]),
        answered_by=tuple(sorted(answered_by)),
        reasons=_find_reasons(result, verdict),
        complete=verdict["complete"] is True,
        stages=tuple(_stage(stage) for stage in result["stages"]),
    )


def _weights(models: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the weight of each model; one that several versions are asked of is listed with them."""
    names = [str(model["name"]) for model in models]
    weights: dict[str, float] = {}
    for name, model in zip(names, models, strict=True):
        key = f"{name} {model['version'] or 'any'}" if names.count(name) > 1 else name
        weights[key] = weights.get(key, 0.0) + _number(model["weight"])
    return weights


def _find_reasons(result: Mapping[str, Any], verdict: Mapping[str, Any]) -> tuple[str, ...]:
    """Return why a run did not pass, even if it does not say so itself."""
    if reasons := tuple(str(one) for one in verdict["reasons"]):
        return reasons
    if _counts_wrong(result):
        return ("it says that it passed, but it counted wrong answers or errors of its own",)
    return () if verdict["passed"] is True else ("the result does not say why",)


def _counts_wrong(result: Mapping[str, Any]) -> bool:
    """Return whether a run had wrong answers, or failed itself, whatever its verdict says."""
    counted = [result["totals"]["wrong"], result["exceptions"], *(stage["wrong"] for stage in result["stages"])]
    return any(_number(count) for counts in counted for count in counts.values())


def _check_percentiles(values: Mapping[str, Any]) -> None:
    """Check that the percentiles of a stage are those of its histogram.

    Raises:
        ValueError: They are not, so that somebody changed the one or the other.
    """
    counts = sorted(Latencies.counts_of_text(values["latency_histogram"]).items())
    latencies = Latencies()
    for value_us, count in counts:
        latencies.record(value_us, count)
    for name in ("p50", "p99"):
        figure, of_histogram = values["latency_us"][name], latencies.percentile_us(int(name[1:]))
        if figure != of_histogram:
            stage = str(values["name"])[:40]
            raise ValueError(f"{name} of stage {stage} is {figure}, but its histogram says {of_histogram}")


def _stage(values: Mapping[str, Any]) -> Stage:
    _check_percentiles(values)
    latency, is_open_loop = values["latency_us"], values["rate_asked"] is not None
    return Stage(
        name=str(values["name"]),
        load=_number(values["rate_asked"] if is_open_loop else values["concurrency_asked"]),
        is_open_loop=is_open_loop,
        users=_number(values["concurrency_asked"]),
        figures={
            "throughput_rows_per_s": _number(values["throughput_rows_per_s"]),
            **{
                f"{name}_us": None if latency[name] is None else _number(latency[name])
                for name in ("mean", "p50", "p99")
            },
        },
        counts={
            "requests": int(_number(values["requests"])),
            "failures": int(sum(map(_number, values["failures"].values()))),
            "wrong": int(sum(map(_number, values["wrong"].values()))),
        },
        saturated=bool(values["client_saturated"]),
        windows=_windows(values["windows"]),
    )


def _windows(values: Sequence[Mapping[str, Any]]) -> Windows:
    for window in values:
        for name in ("seconds", "throughput_rows_per_s", "mean_us"):
            _number(window[name])
    return tabulate(values)


def _number(value: Any) -> float:
    """Return a figure.

    Raises:
        ValueError: It is not a number that can have been measured.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _TOO_LARGE:
        raise ValueError(f"{value!r} is not a figure")
    return float(value)
