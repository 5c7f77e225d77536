"""Answers that take longer than a warm-up, or than a whole stage, belong to the stage in which they were asked for."""

import socket
import time
from pathlib import Path

import pytest
from support.load_run import run
from support.lying_http import Lie, Reply, lying

from builder.server import Server

pytestmark = pytest.mark.slow

DELAY_S = 1.0


def answer_late(reply: Reply, link: socket.socket) -> bool:
    time.sleep(DELAY_S)
    link.sendall(reply.encode())
    return True


LATE = [Lie("late", "", answer_late)]


def test_an_open_loop_sends_at_its_rate_though_answers_come_after_the_warm_up(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    load = ("--scenario", "rate", "--rate", "40", "--stage-time", "2", "--warm-up", "0.2")
    with lying(server.http_address, LATE, every=1) as proxy:
        finished = run(proxy, tmp_path, "--repository", str(repository), *load)
    (stage,) = finished.result["stages"]
    sent = stage["sent_requests_per_s"] * stage["seconds"]
    assert stage["requests"] == pytest.approx(sent, abs=1), "each of them is counted, though half came after the end"
    assert stage["throughput_requests_per_s"] < 0.8 * stage["sent_requests_per_s"]
    assert stage["latency_us"]["p50"] > DELAY_S * 1e6
    assert finished.result["totals"]["requests"] == proxy.told.total()
    assert any("requests/s were sent, but only" in note for note in finished.result["notes"])


def test_answers_that_all_come_after_the_end_of_a_stage_are_its_answers(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    load = ("--concurrency", "2,4", "--stage-time", "0.5", "--warm-up", "0")
    with lying(server.http_address, LATE, every=1) as proxy:
        finished = run(proxy, tmp_path, "--repository", str(repository), *load, "--max-p99-ms", "100")
    assert finished.code == 1
    stage = finished.result["stages"][-1]
    assert (stage["requests"], stage["throughput_requests_per_s"]) == (4, 0)
    assert stage["latency_us"]["p50"] > DELAY_S * 1e6
    assert any("stage 4 users: no answer came while it was measured" in note for note in finished.result["notes"])
    assert finished.result["totals"]["requests"] == proxy.told.total()
