"""Runs that are started one after the other in Locust's page, as its buttons start and stop them."""

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.load_run import PATIENCE_S, arguments, environment, is_up, wait_until
from support.load_settings import read
from support.reserved import reserved_ports

from builder.server import Server
from loadtest.errors import ServerError
from loadtest.report import Outcome
from loadtest.run import Run


@dataclass
class Page:
    """Locust's page with two processes that make load, as a browser uses it."""

    address: str

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.address}{path}", timeout=PATIENCE_S) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def post(self, path: str, **form: str) -> Any:
        body = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"{self.address}{path}", body, timeout=PATIENCE_S) as said:
            return json.load(said)

    def start(self, repository: Path, **load: str) -> Any:
        form = {"model": "classifier", "repository": str(repository), "stage_time": "1", "warm_up": "0.1"}
        form["min_requests"] = "10"
        return self.post("/swarm", **form, **load)

    def wait_for(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the figures of the newest run once this is true of them."""
        found: list[Any] = [None]

        def look() -> bool:
            found[0] = self.get("/triton/figures.json")
            return found[0] is not None and holds(found[0])

        wait_until(look, lambda: found[0])
        return dict(found[0])


@pytest.fixture
def page(server: Server, tmp_path: Path, master_port: tuple[str, ...]) -> Iterator[Page]:
    log = tmp_path / "log"
    with reserved_ports(1) as (port,):
        command = arguments(server, tmp_path / "out", "--web-port", str(port), "--processes", "2", *master_port)
        with log.open("wb") as output:
            locust = subprocess.Popen(command, env=environment(), stdout=output, stderr=output)
        try:
            wait_until(lambda: "2 workers connected" in log.read_text(), log.read_text)
            page = Page(f"http://127.0.0.1:{port}")
            wait_until(lambda: is_up(page.address), log.read_text)
            yield page
        finally:
            locust.terminate()
            assert locust.wait(PATIENCE_S) == 0, log.read_text()


@pytest.mark.slow
def test_a_run_that_is_stopped_leaves_nothing_to_the_next_one(page: Page, repository: Path) -> None:
    assert page.start(repository, scenario="ramp", concurrency="2,4", stages="500")["success"]
    page.wait_for(lambda figures: figures["result"]["totals"]["requests"] > 0)
    said = page.start(repository, concurrency="3")
    assert not said["success"]
    assert "a run is in progress" in said["message"]
    page.post("/stop")
    stopped = page.wait_for(lambda figures: bool(figures["over"]))["result"]
    assert stopped["verdict"]["reasons"] == ["the run was stopped before its end"]
    assert page.start(repository, concurrency="6,8")["success"]  # at once: the workers must be there again
    again = page.wait_for(lambda figures: figures["over"] and figures["result"]["verdict"]["complete"])["result"]
    assert again["verdict"]["passed"]
    assert [stage["concurrency"] for stage in again["stages"]] == [6, 8]
    assert again["run"]["scenario"] == "steps"  # the default, not what the run before had
    assert not any("--stages" in note for note in again["notes"])
    time.sleep(3)  # a worker reports to Locust every three seconds: none may bring what was counted before
    assert page.get("/stats/requests")["stats"][-1]["num_requests"] == again["totals"]["requests"]


def test_a_run_that_never_had_a_user_is_over_when_it_failed() -> None:
    run = Run(read(), time.time(), error=ServerError("the load generator", "no worker is connected", "start one"))
    leader: Any = SimpleNamespace(run=run)
    runner: Any = SimpleNamespace(user_count=3)
    environment: Any = SimpleNamespace(runner=runner, web_ui=object())
    outcome = Outcome(environment, leader)
    outcome.end()
    assert not outcome.is_over  # Locust sends an event when its users have stopped
    runner.user_count = 0
    outcome.end()
    assert outcome.is_over


@pytest.mark.slow
def test_a_page_whose_port_is_taken_is_refused_with_the_reason(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        more = ("--web-port", str(taken.getsockname()[1]))
        line = arguments(server, tmp_path / "out", *more)
        done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert "error: --web-port: the page cannot be served on 127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr
