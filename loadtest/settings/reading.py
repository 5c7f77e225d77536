"""A load test's options, read from text into one checked value."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from loadtest.errors import SettingsError
from loadtest.options import find_unused
from loadtest.scenarios import ARRIVALS, SCENARIOS, UNITS, Load
from loadtest.settings.addresses import read_addresses, read_metrics
from loadtest.settings.allowances import Allowance, read_allowance
from loadtest.settings.contents import Contents, read_contents
from loadtest.settings.numbers import Kind, number, percentage, whole
from loadtest.wire import CLIENTS, Address, is_version

T = TypeVar("T")

_LONGEST_S = 31_536_000.0
"""A year."""

_LONGEST_REQUEST_S = 3600.0
"""Latencies are recorded up to an hour, so that no longer one could be told apart from that."""

_USERS = whole(1, 100_000)
_SECONDS = number(_LONGEST_S)
_MILLISECONDS = number(1000 * _LONGEST_REQUEST_S)
_RATE = number(1e9, least=1e-6)
_WEIGHT = number(1e6, least=1e-6)
_NAME = Kind("a name", str)

_REQUIRED = {"auto": None, "yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model to send requests to, the version to ask for (empty: the server's choice), and its weight in the mix."""

    name: str
    version: str
    weight: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that the run must keep.

    Attributes:
        max_p99_ms: The highest p99 of a stage's requests, None for no limit.
        min_throughput: The lowest number of rows per second in a stage, None for no limit.
        max_failures: How many requests may fail in the whole run.
        require_checked: Whether every answer must have been checked; None: if there are right answers to compare with.
    """

    max_p99_ms: float | None
    min_throughput: float | None
    max_failures: Allowance
    require_checked: bool | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that defines a load test.

    Attributes:
        host: The server's URL, for control requests.
        http: The same as an address.
        grpc: The server's gRPC port.
        metrics: Where the metrics of each server are; empty if that was not said, None to leave them out.
        protocol: `http` or `grpc`.
        models: The models to mix.
        rows: Sizes of requests to mix, each as (rows, weight).
        repository: Where references are; None without a repository.
        contents: What is sent without a repository, and the parameters of requests.
        load: The scenario and its options.
        limits: The limits that the run must keep.
        report_dir: Where the report goes, None for no report.
        markdown: The file that a summary is appended to, None for no summary.
        unused: Options that were given although the scenario does not use them.
    """

    host: str
    http: Address
    grpc: Address
    metrics: tuple[Address, ...] | None
    protocol: str
    models: tuple[ModelChoice, ...]
    rows: tuple[tuple[int, float], ...]
    repository: Path | None
    contents: Contents
    load: Load
    limits: Limits
    report_dir: Path | None
    markdown: Path | None = None
    unused: tuple[str, ...] = ()

    @property
    def address(self) -> Address:
        """The port that the requests are sent to."""
        return self.grpc if self.protocol == "grpc" else self.http


def from_text(text: Mapping[str, str]) -> Settings:
    """Read the options, as `options.to_text` gives them.

    Raises:
        SettingsError: One of them cannot be used.
    """
    url, http, grpc = read_addresses(text)
    models = _models(text["model"], text["model_version"])
    repository = _directory("--repository", text["repository"])
    return Settings(
        host=url,
        http=http,
        grpc=grpc,
        metrics=read_metrics(text),
        protocol=_one_of("--protocol", text["protocol"], CLIENTS),
        models=models,
        rows=tuple(_weighted("--rows", text["rows"], whole(1, (1 << 31) - 1))),
        repository=repository,
        contents=read_contents(text, repository=repository, models=len(models)),
        load=_load(text),
        limits=Limits(
            max_p99_ms=_optional("--max-p99-ms", text["max_latency_ms"], _MILLISECONDS),
            min_throughput=_optional("--min-throughput", text["min_throughput"], number(1e12)),
            max_failures=read_allowance(text["max_failures"] or "0"),
            require_checked=_REQUIRED[_one_of("--require-checked", text["require_checked"] or "auto", _REQUIRED)],
        ),
        report_dir=Path(text["report_dir"]) if text["report_dir"] else None,
        markdown=Path(text["markdown"]) if text["markdown"] else None,
        unused=tuple(find_unused(text)),
    )


def _load(text: Mapping[str, str]) -> Load:
    scenario = _one_of("--scenario", text["scenario"], SCENARIOS)
    reads = SCENARIOS[scenario].reads
    concurrency = text["concurrency"] or (reads.default if reads.option == "--concurrency" else "")
    load = Load(
        scenario=scenario,
        concurrency=_list("--concurrency", concurrency, _USERS) if concurrency else (),
        rates=_list("--rate", text["rate"], _RATE) if text["rate"] else (),
        arrivals=_one_of("--arrivals", text["arrivals"], ARRIVALS),
        arrivals_file=Path(text["arrivals_file"]) if text["arrivals_file"] else None,
        arrivals_unit=_one_of("--arrivals-unit", text["arrivals_unit"], UNITS),
        max_in_flight=_parse("--max-in-flight", text["max_in_flight"], _USERS),
        stage_time_s=_parse("--stage-time", text["stage_time"], _SECONDS),
        stages=_parse("--stages", text["stages"], whole(1, 100_000)),
        warm_up_s=_parse("--warm-up", text["warm_up"], number(_LONGEST_S, least=0.0)),
        request_timeout_s=_parse("--request-timeout", text["request_timeout"], number(_LONGEST_REQUEST_S)),
        seed=_parse("--seed", text["seed"], whole(0, (1 << 63) - 1)),
        min_requests=_parse("--min-requests", text["min_requests"] or "0", whole(0, 10**12)),
        max_p99_ms=_optional("--max-p99-ms", text["max_latency_ms"], _MILLISECONDS),
        search_precision=_parse("--search-precision", text["search_precision"], percentage(0.1, 100)),
    )
    reads.check(load)
    return load


def _models(text: str, version: str) -> tuple[ModelChoice, ...]:
    if not text:
        raise SettingsError("--model", "this option is missing", "name a model that is served, as in --model digits")
    if version and not is_version(version):
        what = f"{version!r} is not a version number"
        raise SettingsError("--model-version", what, "give a whole number from 1 up, or leave the option out")
    models = tuple(_model(name, weight) for name, weight in _weighted("--model", text, _NAME))
    if not version:
        return models
    if len(models) > 1:
        what = f"a version can be given for one model only, not for {len(models)}"
        raise SettingsError(
            "--model-version", what, "give each model its version with --model, as in digits:1,digits:3"
        )
    if models[0].version:
        what = f"--model gives version {models[0].version} already"
        raise SettingsError("--model-version", what, "give the version once")
    return (replace(models[0], version=version),)


def _model(text: str, weight: float) -> ModelChoice:
    """Read `NAME` or `NAME:VERSION`. Another text with a colon is a name: what a server calls its models is its own."""
    name, _, version = text.rpartition(":")
    return ModelChoice(name, version, weight) if name and is_version(version) else ModelChoice(text, "", weight)


def _weighted(option: str, text: str, kind: Kind[T]) -> list[tuple[T, float]]:
    """Read `VALUE` or `VALUE=WEIGHT,VALUE=WEIGHT`; a weight that is left out is 1."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    if not parts:
        raise SettingsError(option, "this option is empty", "give at least one value")
    return [
        (_parse(option, value, kind), _parse(option, weight, _WEIGHT) if equals else 1.0)
        for value, equals, weight in parts
    ]


def _list(option: str, text: str, kind: Kind[T]) -> tuple[T, ...]:
    values = tuple(_parse(option, part, kind) for part in text.split(",") if part.strip())
    if not values:
        raise SettingsError(option, "this option is empty", "give at least one number")
    return values


def _parse(option: str, text: str, kind: Kind[T]) -> T:
    try:
        return kind.read(text.strip())
    except ValueError as error:
        raise SettingsError(option, f"{text!r} is not {kind.words}", f"give {kind.words}") from error


def _optional(option: str, text: str, kind: Kind[T]) -> T | None:
    return _parse(option, text, kind) if text else None


def _one_of(option: str, text: str, choices: Collection[str]) -> str:
    if text not in choices:
        raise SettingsError(option, f"{text!r} is not one of the choices", f"choose one of {', '.join(choices)}")
    return text


def _directory(option: str, text: str) -> Path | None:
    if not text:
        return None
    path = Path(text)
    if not path.is_dir():
        raise SettingsError(option, f"{text} is not a directory", "name the model repository that the server serves")
    return path
