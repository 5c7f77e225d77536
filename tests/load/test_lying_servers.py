"""Servers that lie: a proxy in front of a real Triton spoils answers and counts them; the load test counts the same.

Every spoilt answer is counted, by its kind, and no other one.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.load_run import PATIENCE_S, ROOT, run
from support.load_server import write_version, write_words
from support.load_settings import read
from support.lying_grpc import GRPC_LIES, GrpcLie, lying_grpc
from support.lying_http import JSON_NUMBERS, JSON_STRINGS, NUMBERS, STRINGS, TRANSPORT, Lie, Proxy, lying

from builder.server import Server
from loadtest import server as target
from loadtest.run import Window
from loadtest.run.traffic import Line, Traffic

pytestmark = pytest.mark.slow

EVERY = 3


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("repository")
    write_version(path)
    write_words(path)
    return path


def drive(proxy: Proxy, repository: Path, model: str, protocol: str, *, requests: int, timeout_s: float) -> Window:
    """Send requests one after the other, as a user of a load test does, and return what was counted."""
    options = ("--model", model, "--model-version", "1", "--repository", str(repository), "--protocol", protocol)
    more = ("--grpc-address", proxy.grpc_address) if protocol == "grpc" else ()
    host = f"http://{proxy.http_address}"
    settings = read(*options, *more, "--request-timeout", str(timeout_s), host=host)
    traffic = Traffic(settings, target.prepare(settings).samples, process="here", index=0)
    line = Line(traffic._client.connect())
    for _ in range(requests):
        traffic._send(line, time.perf_counter())
    line.connection.close()
    (window,) = traffic.take(1).values()
    return window


def check_timeout(window: Window, proxy: Proxy, requests: int) -> None:
    """Check a lie that is a timeout; on a busy machine, another answer may take as long."""
    total = window.total
    assert proxy.told["timeout"] == 1, "the lie was told"
    assert (total.wrong, total.failures) == ({}, {"timeout": requests - window.requests}), window.messages
    assert window.requests < requests


def check(window: Window, proxy: Proxy, lies: Sequence[Any]) -> None:
    wrong, failures = proxy.counts(lies)
    total = window.total
    assert (total.wrong, total.failures) == (wrong, failures), window.messages
    assert (total.unchecked, window.exceptions) == (0, {})
    assert all(proxy.told[lie.name] for lie in lies), "each lie was told"
    assert set(window.messages) == {*wrong, *failures}


IN_BINARY = [
    *((lie, "classifier") for lie in (*NUMBERS, *TRANSPORT) if lie.name != "timeout"),
    *((lie, "words") for lie in STRINGS),
]
IN_JSON = [*((lie, "classifier") for lie in JSON_NUMBERS), *((lie, "words") for lie in JSON_STRINGS)]


def names(cases: Sequence[tuple[Any, Any]]) -> list[str]:
    return [case[0].name for case in cases]


@pytest.mark.parametrize(("lie", "model"), IN_BINARY, ids=names(IN_BINARY))
def test_each_lie_over_http_is_counted_as_what_it_is(server: Server, repository: Path, lie: Lie, model: str) -> None:
    with lying(server.http_address, [lie], every=EVERY) as proxy:
        window = drive(proxy, repository, model, "http", requests=10, timeout_s=PATIENCE_S)
    check(window, proxy, [lie])
    assert window.requests + sum(window.total.failures.values()) == 10


@pytest.mark.parametrize(("lie", "model"), IN_JSON, ids=names(IN_JSON))
def test_each_lie_in_json_is_counted_as_what_it_is(server: Server, repository: Path, lie: Lie, model: str) -> None:
    with lying(server.http_address, [lie], every=EVERY, binary=False) as proxy:
        window = drive(proxy, repository, model, "http", requests=9, timeout_s=PATIENCE_S)
    check(window, proxy, [lie])


@pytest.mark.parametrize("lie", [lie for lie in GRPC_LIES if lie.name != "timeout"], ids=lambda lie: lie.name)
def test_each_lie_over_grpc_is_counted_as_what_it_is(server: Server, repository: Path, lie: GrpcLie) -> None:
    with lying_grpc(server.grpc_address, [lie], every=EVERY, http_address=server.http_address) as proxy:
        window = drive(proxy, repository, "classifier", "grpc", requests=9, timeout_s=PATIENCE_S)
    check(window, proxy, [lie])


def test_an_answer_that_does_not_come_is_counted_as_a_timeout(server: Server, repository: Path) -> None:
    lies = [lie for lie in TRANSPORT if lie.name == "timeout"]
    with lying(server.http_address, lies, every=EVERY) as proxy:
        window = drive(proxy, repository, "classifier", "http", requests=4, timeout_s=1)
    check_timeout(window, proxy, 4)
    grpc_lies = [lie for lie in GRPC_LIES if lie.name == "timeout"]
    with lying_grpc(server.grpc_address, grpc_lies, every=EVERY, http_address=server.http_address) as proxy:
        window = drive(proxy, repository, "classifier", "grpc", requests=4, timeout_s=1)
    check_timeout(window, proxy, 4)


def whole(proxy: Proxy, repository: Path, tmp_path: Path, lies: Sequence[Any], *more: str) -> None:
    """Make a whole run, with several users, its warm-up and the requests in flight at its end; check its counts."""
    load = ("--scenario", "constant", "--concurrency", "4", "--stage-time", "1.5", "--warm-up", "0.3")
    options = (
        "--repository",
        str(repository),
        "--model-version",
        "1",
        "--min-requests",
        "150",
        *load,
        *more,
    )
    finished = run(proxy, tmp_path, *options)
    wrong, failures = proxy.counts(lies)
    totals = finished.result["totals"]
    assert (totals["wrong"], totals["failures"]) == (wrong, failures), finished.result["messages"]
    assert (totals["unchecked"], finished.result["exceptions"]) == (0, {})
    assert totals["requests"] + sum(totals["failures"].values()) == proxy.told.total()
    assert all(proxy.told[lie.name] for lie in lies), "each lie was told"
    assert (finished.code, finished.last_lines[-1][:6]) == (1, "FAILED")
    assert "Traceback" not in finished.stderr


def test_a_whole_run_over_http_counts_every_lie(server: Server, repository: Path, tmp_path: Path) -> None:
    lies = [*NUMBERS, *(lie for lie in TRANSPORT if lie.name not in ("answer again to the next request", "timeout"))]
    with lying(server.http_address, lies, every=2) as proxy:
        whole(proxy, repository, tmp_path, lies)


def test_a_whole_run_over_grpc_counts_every_lie(server: Server, repository: Path, tmp_path: Path) -> None:
    lies = [lie for lie in GRPC_LIES if lie.name != "timeout"]
    with lying_grpc(server.grpc_address, lies, every=2, http_address=server.http_address) as proxy:
        whole(proxy, repository, tmp_path, lies, "--protocol", "grpc")


def test_connections_that_the_server_ends_in_order_cost_no_answer(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    load = ("--scenario", "constant", "--concurrency", "2", "--stage-time", "1.5", "--warm-up", "0.2")
    options = ("--repository", str(repository), "--protocol", "grpc", "--min-requests", "20", *load)
    with lying_grpc(server.grpc_address, [], http_address=server.http_address, age_ms=300) as proxy:
        finished = run(proxy, tmp_path, *options)
    assert finished.code == 0, finished.stdout
    assert finished.result["totals"]["requests"] == proxy.told["right"]


def test_the_table_in_the_docs_has_every_lie_and_its_kind() -> None:
    text = (ROOT / "docs" / "load-testing-figures.md").read_text().partition("## What was tried")[2]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| HTTP |", "| JSON |", "| gRPC |"))]
    told = {(row[0].removeprefix("| "), row[1]): row[4].split(", ")[0].strip("`") for row in rows}
    lies = {("HTTP", lie.name): lie.counted_as or "right" for lie in (*NUMBERS, *TRANSPORT, *STRINGS)}
    lies |= {("JSON", lie.name): lie.counted_as or "right" for lie in (*JSON_NUMBERS, *JSON_STRINGS)}
    lies |= {("gRPC", lie.name): lie.counted_as or "right" for lie in GRPC_LIES}
    assert told == lies, "run benchmarks/load_faults.py and put its table into docs/load-testing-figures.md"
    assert all(row[2].partition(" of ")[0] == row[3] or row[4] == "right" for row in rows)
