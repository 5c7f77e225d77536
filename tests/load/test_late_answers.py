"""Answers that take longer than a warm-up, or than a whole stage, belong to the stage in which they were asked for."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.load_run import LOCUSTFILE, run, wait_until
from support.lying_http import Lie, Proxy, Reply, lying

from builder.server import Server

pytestmark = pytest.mark.slow

DELAY_S = 0.2

SAY_WHEN_OVER = """
from pathlib import Path
from loadtest.run.traffic import PAUSE, Traffic

begin, over = Traffic.begin, Path({path!r})

def begin_and_say(traffic, arrivals, *arguments, **more):
    over.unlink(missing_ok=True)
    begin(traffic, arrivals, *arguments, **more)
    if arrivals == PAUSE:
        over.touch()

Traffic.begin = begin_and_say
"""


@contextmanager
def late(server: Server, folder: Path, *, every: int) -> Iterator[tuple[Proxy, tuple[str, str]]]:
    """A proxy that holds back all answers but one in each `every` until the stage in which they were asked for is over.

    Yield it with the option that has the load test say so.
    """
    over = folder / "over"
    (folder / "say_when_over.py").write_text(SAY_WHEN_OVER.format(path=str(over)))

    def answer_late(reply: Reply, link: socket.socket) -> bool:
        wait_until(over.exists, lambda: "the stage did not end")
        time.sleep(DELAY_S)
        link.sendall(reply.encode())
        return True

    def answer(reply: Reply, link: socket.socket) -> bool:
        link.sendall(reply.encode())
        return True

    lies = [*[Lie("late", "", answer_late)] * (every - 1), Lie("at once", "", answer)]
    with lying(server.http_address, lies, every=1) as proxy:
        yield proxy, ("-f", f"{LOCUSTFILE},{folder / 'say_when_over.py'}")


def test_an_open_loop_sends_at_its_rate_though_answers_come_after_the_warm_up(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    load = ("--scenario", "rate", "--rate", "40", "--stage-time", "2", "--warm-up", "0.2", "--request-timeout", "100")
    with late(server, tmp_path, every=4) as (proxy, option):
        finished = run(proxy, tmp_path, *option, "--repository", str(repository), *load)
    (stage,) = finished.result["stages"]
    sent = stage["sent_requests_per_s"] * stage["seconds"]
    assert stage["requests"] == pytest.approx(sent, abs=1), "each of them is counted, though most came after the end"
    assert stage["throughput_requests_per_s"] < 0.8 * stage["sent_requests_per_s"]
    assert stage["latency_us"]["p50"] > DELAY_S * 1e6
    assert finished.result["totals"]["requests"] == proxy.told.total()
    assert any("requests/s were sent, but only" in note for note in finished.result["notes"])


def test_answers_that_all_come_after_the_end_of_a_stage_are_its_answers(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    load = ("--concurrency", "2,4", "--stage-time", "0.5", "--warm-up", "0", "--request-timeout", "100")
    with late(server, tmp_path, every=1_000) as (proxy, option):
        finished = run(proxy, tmp_path, *option, "--repository", str(repository), *load, "--max-p99-ms", "100")
    assert finished.code == 1
    stage = finished.result["stages"][-1]
    assert (stage["requests"], stage["throughput_requests_per_s"]) == (4, 0)
    assert stage["latency_us"]["p50"] > DELAY_S * 1e6
    assert any("no answer came while it was measured" in note for note in finished.result["notes"])
    assert finished.result["totals"]["requests"] == proxy.told.total()
