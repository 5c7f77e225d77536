"""Whole load tests: Locust in its own process, against a real server."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.load_run import ROOT, run, write_arrivals
from support.load_server import classifier, write_model, write_rare, write_version

from builder.server import Server

pytestmark = pytest.mark.slow

QUICK = ("--stage-time", "1.2", "--warm-up", "0.2", "--min-requests", "100")
"""A stage takes longer on a machine that is too busy for so many requests."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models: `classifier`; `static`, without batching; `bent` and `rare`, whose answers are not their reference's."""
    path: Path = tmp_path_factory.mktemp("repository")
    write_version(path)
    write_version(path, "static", seed=3, max_batch_size=0)
    write_model(write_version(path, "bent", seed=4), classifier(5))
    write_rare(path)
    return path


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_ladder_of_right_answers_passes_and_joins_both_sides(
    server: Server, repository: Path, tmp_path: Path, protocol: str
) -> None:
    options = ("--protocol", protocol, "--repository", str(repository), "--rows", "1=3,4=1", "--concurrency", "1,8")
    finished = run(server, tmp_path, *options, *QUICK)
    assert (finished.code, finished.last_lines[-1][:6]) == (0, "PASSED"), finished.stdout + finished.stderr
    assert finished.result["run"]["protocol"] == protocol
    assert [stage["concurrency"] for stage in finished.result["stages"]] == [1, 8]
    for stage in finished.result["stages"]:
        assert stage["requests"] >= 100
        assert stage["rows"] > stage["requests"]
        assert (stage["failures"], stage["wrong"], stage["unchecked"]) == ({}, {}, 0)
        latency = stage["latency_us"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"] <= latency["max"]
        assert stage["server"]["requests"] == pytest.approx(stage["requests"], rel=0.5, abs=50)
        sizes = stage["server"]["batch_sizes"]
        assert sum(sizes.values()) == pytest.approx(stage["server"]["executions"], abs=8)
        inside = sum(stage["server"][f"{part}_us"] for part in ("queue", "compute_input", "compute_infer"))
        # The server's mean has a few requests at either end that the client's mean does not have.
        assert 0 < inside < latency["max"]
        assert stage["versions"][0]["version"] == "1"
    in_locusts_table = re.search(rf"{protocol}\s+classifier\s+(\d+)", finished.stderr)
    assert in_locusts_table is not None
    assert int(in_locusts_table[1]) == finished.result["totals"]["requests"]
    check_report(tmp_path)


def check_report(directory: Path) -> None:
    """Check that the page needs no other file, and that the CSV has a line for each stage."""
    page = (directory / "report.html").read_text()
    assert '"schema": 2' in page
    assert "src=" not in page
    assert "href=" not in page
    with (directory / "stages.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["concurrency"] for line in lines] == ["1", "8"]
    assert all(float(line["p99_us"]) > 0 and ":" in line["server_batch_sizes"] for line in lines)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_model_that_differs_from_its_reference_fails_the_run(
    server: Server, repository: Path, tmp_path: Path, protocol: str
) -> None:
    options = ("--repository", str(repository), "--protocol", protocol, "--concurrency", "2")
    finished = run(server, tmp_path, *options, *QUICK, model="bent")
    assert finished.code == 1
    assert "answers were wrong" in finished.last_lines[-1]
    (stage,) = finished.result["stages"]
    assert sum(stage["wrong"].values()) > 0.9 * stage["requests"]
    kept = sorted((tmp_path / "wrong").glob("*.npz"))
    assert kept
    address = {"http": server.http_address, "grpc": server.grpc_address}[protocol]
    command = [
        sys.executable,
        "-m",
        "loadtest",
        "reproduce",
        str(kept[0]),
        "--address",
        address,
        "--protocol",
        protocol,
    ]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout[:11]) == (1, "still wrong")


def test_one_corrupted_row_in_ten_thousand_fails_the_run(server: Server, repository: Path, tmp_path: Path) -> None:
    replay = write_arrivals(tmp_path / "all.csv", [0] * 2_500)
    options = ("--repository", str(repository), *replay, "--rows", "4", "--request-timeout", "180")
    finished = run(server, tmp_path, *options, model="rare")
    assert finished.code == 1, finished.stdout
    totals = finished.result["totals"]
    assert (totals["rows"], sum(totals["wrong"].values())) == (10_000, 1)


def test_a_missed_limit_fails_the_run_and_the_last_line_says_which(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    options = ("--repository", str(repository), "--concurrency", "2", *QUICK)
    slow = run(server, tmp_path, *options, "--max-p99-ms", "0.001")
    assert (slow.code, slow.last_lines[-1][:38]) == (1, "FAILED: no stage kept p99 within 0.001")


@pytest.mark.parametrize(
    ("options", "tried", "answer"),
    [
        (("--concurrency", "1,3", "--stage-time", "0.5"), ["1 user", "3 users", "3 users (2)"], 3),
        (
            ("--protocol", "grpc", "--rate", "200,300", "--stage-time", "0.25"),
            ["200 requests/s", "300 requests/s", "300 requests/s (2)"],
            300,
        ),
    ],
    ids=["closed loop", "open loop"],
)
def test_a_search_ends_at_the_highest_load_if_that_keeps_the_limit(
    server: Server, repository: Path, tmp_path: Path, options: tuple[str, ...], tried: list[str], answer: int
) -> None:
    limits = ("--scenario", "search", "--max-p99-ms", "60000", "--request-timeout", "60", "--min-requests", "100")
    finished = run(server, tmp_path, "--repository", str(repository), "--warm-up", "0.2", *limits, *options)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert [stage["name"] for stage in finished.result["stages"]] == tried
    assert (finished.result["search"]["answer"]["load"], finished.result["search"]["missed"]) == (answer, None)
    assert all(stage["goodput"] == 1 for stage in finished.result["stages"])
    assert f"stage 3 of at most {finished.result['search']['most_stages']}: {tried[2]}: p99 " in finished.stderr
    assert finished.result["search"]["summary"][0] in finished.stdout


def test_without_a_repository_inputs_are_drawn_and_the_report_says_so(server: Server, tmp_path: Path) -> None:
    finished = run(server, tmp_path, "--concurrency", "2", *QUICK, model="classifier=1,static=1")
    assert finished.code == 0, finished.stdout
    assert "answers were not checked" in finished.result["notes"][0]
    assert re.fullmatch(r"PASSED: [\d,]+ answers came, but none was checked, no request .*", finished.last_lines[-1])
    (stage,) = finished.result["stages"]
    assert stage["unchecked"] == stage["requests"] > 0
    assert {version["model"] for version in stage["versions"]} == {"classifier", "static"}


def test_a_model_without_batching_is_checked(server: Server, repository: Path, tmp_path: Path) -> None:
    options = ("--repository", str(repository), "--protocol", "grpc", "--concurrency", "2")
    finished = run(server, tmp_path, *options, *QUICK, model="static")
    assert finished.code == 0, finished.stdout
    assert finished.result["totals"]["unchecked"] == 0


def test_an_open_loop_achieves_the_rate_it_was_asked_for(server: Server, repository: Path, tmp_path: Path) -> None:
    options = ("--repository", str(repository), "--scenario", "rate", "--rate", "50,150", "--arrivals", "poisson")
    more = ("--stage-time", "2.5", "--warm-up", "0.3", "--max-in-flight", "32", "--request-timeout", "60")
    finished = run(server, tmp_path, *options, *more)
    assert finished.code == 0, finished.stdout
    said = any("requests/s were sent" in note for note in finished.result["notes"])
    for stage in finished.result["stages"]:
        assert said or stage["sent_requests_per_s"] == pytest.approx(stage["rate_asked"], rel=0.35)
        assert said or stage["late_us"]["p50"] > 0


def test_an_open_loop_counts_latency_from_when_a_request_was_due(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    replay = write_arrivals(tmp_path / "burst.csv", (0.5 + turn * 1e-6 for turn in range(600)))
    options = ("--repository", str(repository), *replay, "--max-in-flight", "1", "--request-timeout", "180")
    finished = run(server, tmp_path, *options)
    assert finished.code == 0, finished.stdout
    (stage,) = finished.result["stages"]
    assert finished.result["totals"]["requests"] == 600
    # One user works the burst off in turn, so the 600th request waits for 599 others. From the moments in which they
    # were sent, the latencies of one user would add up to less than the time that the stage took.
    assert stage["latency_us"]["mean"] * 600 > 3 * stage["seconds"] * 1e6


def test_a_spike_is_measured_from_its_first_moment(server: Server, repository: Path, tmp_path: Path) -> None:
    options = ("--repository", str(repository), "--scenario", "spike", "--concurrency", "1,6", "--stage-time", "0.8")
    finished = run(server, tmp_path, *options, "--warm-up", "0.3", "--min-requests", "10")
    assert finished.code == 0, finished.stdout
    stages = finished.result["stages"]
    assert [(stage["name"], stage["concurrency"]) for stage in stages] == [("before", 1), ("spike", 6), ("after", 1)]
    assert stages[0]["discarded"]["seconds"] >= 0.3, "the first stage has a warm-up"
    assert all(stage["seconds"] >= 0.6 for stage in stages)
    assert max(window["in_flight"] for window in stages[1]["windows"]) > 1
