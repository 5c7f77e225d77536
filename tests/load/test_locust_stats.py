"""Locust's own statistics say what the result says: in its CSV files, in its HTML report, and second by second."""

import csv
import json
import math
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gevent import GreenletExit
from locust.env import Environment
from locust.stats import RequestStats
from support.load_run import run

from builder.server import Server
from loadtest.run.latencies import Latencies
from loadtest.run.locust_stats import Feed, spread
from loadtest.run.recorder import Slice
from loadtest.run.worker import LoadWorker


def test_the_worked_example_of_spreading_holds() -> None:
    assert list(spread(10, 3.5, 5.0)) == [(3, 3), (4, 7)]


@pytest.mark.parametrize(("start", "end"), [(3.0, 4.0), (3.2, 3.2), (3.999, 9.001), (0.0, 1000.5)])
@pytest.mark.parametrize("count", [0, 1, 7, 12_345])
def test_spread_counts_add_up(count: int, start: float, end: float) -> None:
    spread_out = dict(spread(count, start, end))
    assert sum(spread_out.values()) == count
    assert all(math.floor(start) <= second < max(end, start + 1) for second in spread_out)
    whole = [share for second, share in spread_out.items() if start <= second and second + 1 <= end]
    assert max(whole, default=0) - min(whole, default=0) <= 1


def test_a_steady_load_has_a_steady_rate_however_long_the_stretches_are() -> None:
    stats = RequestStats()
    feed = Feed(stats)
    stats.total.start_time = 1000.0
    for start, end in [(1000.0, 1001.0), (1001.0, 1004.5), (1004.5, 1004.6), (1004.6, 1020.0)]:
        feed.add("m", "http", Slice(answered_us=Counter({1500: round(100 * (end - start))})), (start, end))
    assert stats.total.current_rps == pytest.approx(100, abs=0.5)
    assert stats.get("m", "http").total_rps == pytest.approx(100)
    assert stats.total.avg_response_time == pytest.approx(1.5)


def test_a_failure_has_the_time_that_it_took() -> None:
    stats = RequestStats()
    came = Slice(
        failures=Counter(timeout=2),
        wrong=Counter(nan=1),
        answered_us=Counter({900: 3}),
        failed_us=Counter({2_000_000: 2}),
    )
    Feed(stats).add("m", "http", came, (1000.0, 1001.0))
    entry = stats.get("m", "http")
    assert (entry.num_requests, entry.num_failures) == (5, 3)
    assert entry.response_times == {1: 3, 2000: 2}
    assert (entry.min_response_time, entry.max_response_time) == (0.9, 2000)
    assert dict(entry.num_fail_per_sec) == {1000: 3}
    assert {error.error: error.occurrences for error in stats.errors.values()} == {"timeout": 2, "wrong answer: nan": 1}


def test_locust_is_fed_at_the_end_of_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = LoadWorker(Environment())
    now, fed = [1000.25], list[float]()

    def sleep(seconds: float) -> None:
        if len(fed) == 3:
            raise GreenletExit
        now[0] += seconds

    monkeypatch.setattr("loadtest.run.worker.time", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setattr("loadtest.run.worker.gevent", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(worker, "_feed_locust", lambda: fed.append(now[0]))
    with pytest.raises(GreenletExit):
        worker._feed_every_second()
    assert fed == [1001, 1002, 1003]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def totals(result: dict[str, Any]) -> int:
    """Count every request of a run, answered or not."""
    return int(result["totals"]["requests"] + sum(result["totals"]["failures"].values()))


@pytest.mark.slow
def test_the_csv_and_the_html_say_what_the_result_says(server: Server, repository: Path, tmp_path: Path) -> None:
    options = ("--repository", str(repository), "--scenario", "rate", "--rate", "60", "--stage-time", "6")
    locusts = ("--csv", str(tmp_path / "l"), "--html", str(tmp_path / "l.html"))
    finished = run(server, tmp_path, *options, *locusts, "--warm-up", "0", "--max-in-flight", "90")
    assert finished.code == 0, finished.stdout + finished.stderr
    (stage,) = finished.result["stages"]
    *_, total = rows(tmp_path / "l_stats.csv")
    history = rows(tmp_path / "l_stats_history.csv")
    assert int(total["Request Count"]) == int(history[-1]["Total Request Count"]) == totals(finished.result)
    times_us = sorted(Counter(Latencies.counts_of_text(stage["latency_histogram"])).elements())
    low, high = (times_us[round(share * len(times_us))] / 1000 for share in (0.45, 0.55))
    assert 0.9 * low - 1 <= float(total["50%"]) <= 1.1 * high + 1, "Locust keeps two digits, or whole milliseconds"
    assert max(float(row["Requests/s"]) for row in history) > 0.4 * stage["throughput_requests_per_s"]
    counts = [int(row["Total Request Count"]) for row in history]
    assert sum(later > earlier for earlier, later in pairwise(counts)) >= 2, "booked again and again"
    sending = [row for row in history if 0 < int(row["Total Request Count"]) < totals(finished.result)]
    assert min(int(row["User Count"]) for row in sending) < 90, "users are those that wait for an answer"
    page = (tmp_path / "l.html").read_text()
    assert max(map(int, re.findall(r'"num_requests": (\d+)', page))) == totals(finished.result)


@pytest.mark.slow
def test_locust_gets_the_last_counts_of_every_process(
    server: Server, repository: Path, tmp_path: Path, master_port: tuple[str, ...]
) -> None:
    shared = ("--repository", str(repository), "--scenario", "constant", "--concurrency", "4", "--stage-time", "3")
    more = ("--warm-up", "0.2", "--min-requests", "20", "--processes", "2", *master_port, "--csv", str(tmp_path / "l"))
    finished = run(server, tmp_path, *shared, *more)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert int(rows(tmp_path / "l_stats.csv")[-1]["Request Count"]) == totals(finished.result)
    users = {int(row["User Count"]) for row in rows(tmp_path / "l_stats_history.csv")}
    assert 4 in users, json.dumps(sorted(users))
