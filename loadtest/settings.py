"""The options of a load test: declared for Locust's command line and start form, read into one checked value."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from loadtest.errors import SettingsError
from loadtest.wire.exchange import Address

SCENARIOS = ("steps", "constant", "spike", "soak", "ramp", "rate", "replay")
PROTOCOLS = ("http", "grpc")
ARRIVALS = ("constant", "poisson")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model users may pick, the version they ask for (empty: the server's choice), and its weight."""

    name: str
    version: str
    weight: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What the run must keep; None is no limit."""

    max_p99_ms: float | None
    min_throughput: float | None
    max_failures: int


@dataclass(frozen=True, slots=True)
class Settings:
    """A load test, fully said."""

    host: str
    http: Address
    grpc: Address
    metrics_url: str
    protocol: str
    models: tuple[ModelChoice, ...]
    rows: tuple[tuple[int, float], ...]
    repository: Path | None
    scenario: str
    concurrency: tuple[int, ...]
    rates: tuple[float, ...]
    arrivals: str
    arrivals_file: Path | None
    max_in_flight: int
    stage_time_s: float
    stages: int
    warm_up_s: float
    request_timeout_s: float
    limits: Limits
    report_dir: Path | None
    seed: int


def declare(parser: Any) -> None:
    """Add this project's options to Locust's parser; all of them stand in the start form as well."""

    def add(name: str, default: Any, text: str, **more: Any) -> None:
        parser.add_argument(name, default=default, help=text, include_in_web_ui=True, **more)

    add("--model", "", "model to load: NAME, or NAME=WEIGHT,NAME=WEIGHT to mix several")
    add("--model-version", "", "version to ask for; empty lets the server choose")
    add("--protocol", "http", "protocol of inference requests", choices=list(PROTOCOLS))
    add("--rows", "1", "rows per request: N, or N=WEIGHT,N=WEIGHT to mix several")
    add("--repository", "", "model repository whose references answers are checked with; empty: not checked")
    add("--scenario", "steps", "shape of the load", choices=list(SCENARIOS))
    add("--concurrency", "1,2,4,8,16", "users: the ladder of steps; LOW,HIGH of spike and ramp; one of constant, soak")
    add("--rate", "", "requests per second of scenario rate: N, or a ladder N,N,N")
    add("--arrivals", "constant", "gaps between requests of scenario rate", choices=list(ARRIVALS))
    add("--arrivals-file", "", "CSV of scenario replay: seconds from the start in the first column")
    add("--max-in-flight", "256", "most requests under way in scenarios rate and replay")
    add("--stage-time", "10", "seconds per stage; steps end a stage earlier once it is stable")
    add("--stages", "10", "equal stages that scenarios soak and ramp are cut into")
    add("--warm-up", "1", "seconds at the start of a stage that are not measured (answers are checked all the same)")
    add("--request-timeout", "10", "seconds until an answer counts as a failure")
    # Locust's form cannot spell a name that holds digits.
    add("--max-p99-ms", "", "limit: 99th percentile of latency, milliseconds", dest="max_latency_ms")
    add("--min-throughput", "", "limit: rows per second")
    add("--max-failures", "0", "limit: failed requests in the whole run")
    add("--grpc-address", "", "HOST:PORT of gRPC; empty: the port after --host's")
    add("--metrics-url", "", "Prometheus metrics; empty: two ports after --host's; none: leave them out")
    add("--report-dir", "", "where result.json, stages.csv and report.html go")
    add("--seed", "0", "seed of every random choice")


def to_text(options: Namespace, host: str | None) -> dict[str, str]:
    """This project's options as text, whether they came from the command line or the start form."""
    parser = _Names()
    declare(parser)
    values = {name: getattr(options, name, None) for name in parser.names}
    return {"host": host or "", **{name: "" if value is None else str(value).strip() for name, value in values.items()}}


class _Names:
    """Stands in for a parser to learn which options `declare` adds."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add_argument(self, option: str, *, dest: str | None = None, **_: Any) -> None:
        self.names.append(dest or option.removeprefix("--").replace("-", "_"))


def from_text(text: Mapping[str, str]) -> Settings:
    """Check the options.

    Raises:
        SettingsError: One of them makes no sense.
    """
    url = text["host"].rstrip("/")
    http = _http_address(url)
    scenario = _one_of("--scenario", text["scenario"], SCENARIOS)
    settings = Settings(
        host=url,
        http=http,
        grpc=_grpc_address(text["grpc_address"], http),
        metrics_url=text["metrics_url"] or f"http://{Address(http.host, http.port + 2)}/metrics",
        protocol=_one_of("--protocol", text["protocol"], PROTOCOLS),
        models=_models(text["model"], text["model_version"]),
        rows=tuple(_weighted("--rows", text["rows"], _positive_int)),
        repository=_directory("--repository", text["repository"]),
        scenario=scenario,
        concurrency=_list("--concurrency", text["concurrency"], _positive_int),
        rates=_list("--rate", text["rate"], _positive) if text["rate"] else (),
        arrivals=_one_of("--arrivals", text["arrivals"], ARRIVALS),
        arrivals_file=Path(text["arrivals_file"]) if text["arrivals_file"] else None,
        max_in_flight=_parse("--max-in-flight", text["max_in_flight"], _positive_int),
        stage_time_s=_parse("--stage-time", text["stage_time"], _positive),
        stages=_parse("--stages", text["stages"], _positive_int),
        warm_up_s=_parse("--warm-up", text["warm_up"], _not_negative),
        request_timeout_s=_parse("--request-timeout", text["request_timeout"], _positive),
        limits=Limits(
            max_p99_ms=_optional("--max-p99-ms", text["max_latency_ms"]),
            min_throughput=_optional("--min-throughput", text["min_throughput"]),
            max_failures=int(_parse("--max-failures", text["max_failures"] or "0", _not_negative)),
        ),
        report_dir=Path(text["report_dir"]) if text["report_dir"] else None,
        seed=_parse("--seed", text["seed"], int),
    )
    _check_scenario(settings)
    return settings


def _check_scenario(settings: Settings) -> None:
    scenario, users = settings.scenario, len(settings.concurrency)
    if scenario in ("constant", "soak") and users != 1:
        raise SettingsError("--concurrency", f"scenario {scenario} takes one number, not {users}", "give one")
    if scenario in ("spike", "ramp") and users != 2:
        raise SettingsError("--concurrency", f"scenario {scenario} takes two numbers, not {users}", "give LOW,HIGH")
    if scenario == "rate" and not settings.rates:
        raise SettingsError("--rate", "scenario rate needs it", "give requests per second, as in --rate 100,200")
    if scenario == "replay" and settings.arrivals_file is None:
        raise SettingsError("--arrivals-file", "scenario replay needs it", "name a CSV of arrival times")


def _http_address(url: str) -> Address:
    mend = "give the server's HTTP address, as in --host http://127.0.0.1:8000"
    if not url:
        raise SettingsError("--host", "it is missing", mend)
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise SettingsError("--host", f"{url!r} is not an address: {error}", mend) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise SettingsError("--host", f"{url!r} is not an http address", mend)
    tls = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if tls else 80), tls)


def _grpc_address(text: str, http: Address) -> Address:
    if not text:
        return Address(http.host, http.port + 1, http.tls)
    return replace(read_address("--grpc-address", text), tls=http.tls)


def read_address(option: str, text: str) -> Address:
    """Read `HOST:PORT`.

    Raises:
        SettingsError: It is something else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise SettingsError(option, f"{text!r} is not HOST:PORT", "write it as 127.0.0.1:8001")
    return Address(host.strip("[]"), int(port))


def _models(text: str, version: str) -> tuple[ModelChoice, ...]:
    if not text:
        raise SettingsError("--model", "it is missing", "name the model to load")
    if version and (not version.isdecimal() or int(version) < 1):
        raise SettingsError("--model-version", f"{version!r} is not a version", "give a number from 1 up")
    models = tuple(ModelChoice(name, version, weight) for name, weight in _weighted("--model", text, str.strip))
    if version and len(models) > 1:
        raise SettingsError("--model-version", "it cannot stand beside several models", "leave it out")
    return models


def _weighted(option: str, text: str, parse: Callable[[str], T]) -> list[tuple[T, float]]:
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    if not parts:
        raise SettingsError(option, "it is empty", "give at least one value")
    return [
        (_parse(option, value, parse), _parse(option, weight, _positive) if equals else 1.0)
        for value, equals, weight in parts
    ]


def _list(option: str, text: str, parse: Callable[[str], T]) -> tuple[T, ...]:
    values = tuple(_parse(option, part, parse) for part in text.split(",") if part.strip())
    if not values:
        raise SettingsError(option, "it is empty", "give at least one number")
    return values


def _parse(option: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text.strip())
    except ValueError as error:
        raise SettingsError(option, f"{text!r} is not {_name(parse)}", "mend the number") from error


def _name(parse: Callable[[str], Any]) -> str:
    names = {_positive_int: "a whole number from 1 up", _positive: "a number above 0", int: "a whole number"}
    return names.get(parse, "a number from 0 up")


def _optional(option: str, text: str) -> float | None:
    return _parse(option, text, _positive) if text else None


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _one_of(option: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise SettingsError(option, f"{text!r} is unknown", f"choose one of {', '.join(choices)}")
    return text


def _directory(option: str, text: str) -> Path | None:
    if not text:
        return None
    path = Path(text)
    if not path.is_dir():
        raise SettingsError(option, f"{text} is not a directory", "name the model repository that is served")
    return path
