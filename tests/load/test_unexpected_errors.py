"""An error that nobody expected, wherever it is raised, fails the run: none is logged and forgotten."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from locust.env import Environment
from support.load_run import LOCUSTFILE, run
from support.load_server import write_version
from support.load_settings import read

from builder.server import Server
from loadtest.checking import Expected, Samples, Signature, draw, from_reference, read_reference, wrong_answers
from loadtest.errors import LoadTestError
from loadtest.report import Outcome
from loadtest.run import Run, StageRecord, Tally, Window, check, messages
from loadtest.run.leader import Leader
from loadtest.run.traffic import Line, Traffic
from loadtest.run.worker import LoadWorker
from loadtest.scenarios import make_stages
from loadtest.wire import Answer, Layout


def make_traffic(repository: Path, *, checked: bool = True) -> Traffic:
    reference = read_reference(repository, "classifier", 1)
    samples: Samples = from_reference(reference, "1")
    if not checked:
        signature = Signature(reference.inputs, reference.outputs)
        samples = draw("classifier", "1", max_batch_size=16, signature=signature)
    settings = read("--model", "classifier", "--model-version", "1", "--repository", str(repository))
    return Traffic(settings, [samples], process="here", index=0)


def send(traffic: Traffic, layout: Layout) -> Window:
    """Have one request answered like this; return what was counted."""

    class Answering:
        def infer(self, _encoded: bytes) -> Answer:
            return Answer(layout, b"")

        def close(self) -> None:
            """There is nothing to close."""

    traffic._send(Line(Answering()), 0.0)
    return traffic.take(1)[0]


def fail(*_: Any, **__: Any) -> Any:
    raise IndexError("boom")


@pytest.mark.parametrize(
    ("owner", "name"), [(Expected, "is_right"), (Expected, "find_fault"), (Expected, "_learn"), (wrong_answers, "pack")]
)
def test_an_answer_whose_check_fails_is_wrong_and_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    write_version(tmp_path)
    traffic = make_traffic(tmp_path)
    monkeypatch.setattr(owner, name, fail)
    window = send(traffic, Layout("classifier", "1", ()))
    assert (window.requests, window.total.wrong) == (1, {"check_failed": 1})
    assert window.messages["check_failed"].startswith("IndexError in test_unexpected_errors.py, line ")


@pytest.mark.parametrize(
    ("layout", "wrong"),
    [
        (Layout("classifier", "1", ()), {}),
        (Layout("classifier", "", ()), {}),
        (Layout("classifier", "7", ()), {"wrong_version": 1}),
        (Layout("other", "1", ()), {"wrong_model": 1}),
    ],
)
def test_an_answer_that_is_not_compared_must_come_from_what_was_asked_for(
    tmp_path: Path, layout: Layout, wrong: dict[str, int]
) -> None:
    write_version(tmp_path)
    total = send(make_traffic(tmp_path, checked=False), layout).total
    assert (total.requests, total.wrong, total.unchecked) == (1, wrong, 0 if wrong else 1)


class Network:
    """A runner that hands messages to their listeners; the leader is in the same process as the worker."""

    client_id = "w1"
    worker_index = 0
    state = ""
    greenlet = SimpleNamespace(spawn=lambda _: None)

    def __init__(self) -> None:
        self.listeners: dict[str, Callable[..., None]] = {}
        self.sent: list[tuple[str, Any]] = []

    def register_message(self, name: str, listener: Callable[..., None]) -> None:
        self.listeners[name] = listener

    def send_message(self, name: str, data: Any, _client: str | None = None) -> None:
        self.sent.append((name, data))
        if name in self.listeners:
            message = SimpleNamespace(node_id="local", data=data)
            self.listeners[name](environment=None, msg=message)


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def worker(network: Network) -> LoadWorker:
    environment = Environment()
    environment.runner = network  # type: ignore[assignment]
    worker = LoadWorker(environment)
    worker.listen(network)  # type: ignore[arg-type]
    return worker


def taken(network: Network) -> Window:
    network.send_message(messages.TAKE, {"round": 1})
    name, data = network.sent[-1]
    assert (name, data["round"]) == (messages.WINDOWS, 1)
    ((number, window),) = data["windows"]
    assert number == 0
    return Window.from_message(window)


@pytest.mark.parametrize("broken", ["work", "take", "begin", "gather"])
def test_what_a_worker_raises_is_counted_and_goes_to_the_leader_with_the_next_window(
    network: Network, worker: LoadWorker, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    healthy = {
        "work": lambda: None,
        "take": lambda number: {number - 1: Window()},
        "begin": lambda *_, **__: None,
        "gather": lambda: None,
        "flush": lambda: (),
    }
    worker.traffic = SimpleNamespace(**(healthy | {broken: fail}))  # type: ignore[assignment]
    for _ in range(2):
        worker.work()
        network.send_message(messages.GATHER, {})
        network.send_message(messages.BEGIN, {"order": [], "arrivals": None, "round": 0})
        if broken == "take":
            break
    window = taken(network)
    (place, times) = window.exceptions.popitem()
    assert place.startswith("IndexError in test_unexpected_errors.py, line ")
    assert (times, window.messages[place]) == (1 if broken == "take" else 2, "boom")
    assert [record.levelname for record in caplog.records] == ["ERROR"], "a traceback is shown once"
    assert not taken(network).exceptions or broken == "take", "they are counted once"


def test_a_users_error_that_only_locust_saw_is_counted(network: Network, worker: LoadWorker) -> None:
    events: Any = worker._environment.events
    events.user_error.fire(user_instance=None, exception=ValueError("lost"), tb=None)
    assert taken(network).exceptions == {"ValueError": 1}


def test_an_error_that_only_locust_caught_is_counted_once(
    network: Network, worker: LoadWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locust logs what the handler of a message raises, and goes on."""
    monkeypatch.setattr("locust.log.unhandled_greenlet_exception", True)
    assert taken(network).exceptions == {"an error that Locust caught": 1}
    assert not taken(network).exceptions


def test_a_worker_that_cannot_prepare_says_so(network: Network, worker: LoadWorker) -> None:
    network.send_message(messages.PREPARE, {"options": {}})
    name, data = network.sent[-1]
    error = messages.to_error(data["error"])
    assert name == messages.PREPARED
    assert "the load test: KeyError in" in str(error)
    assert error.exit_code == 1


def test_a_check_before_the_run_that_fails_is_an_error_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locust would print a traceback, and the start form would show nothing."""
    monkeypatch.setattr("loadtest.settings.from_text", fail)
    with pytest.raises(LoadTestError, match=r"the load test: IndexError in .*: boom\nfix: please report this"):
        check({})


@pytest.fixture
def leader(network: Network) -> Leader:
    leader = Leader(Environment(), network)  # type: ignore[arg-type]
    leader.listen()
    leader._processes._members = {"local"}
    return leader


def made_run() -> Run:
    settings = read("--model", "m", "--request-timeout", "1")
    return Run(settings, 0.0, [StageRecord(make_stages(settings.load)[0])])


def window_with_a_wrong_answer() -> dict[str, Any]:
    window = Window()
    window.exceptions["here"] += 1
    return window.to_message()


def test_a_window_that_comes_too_late_is_not_lost(
    network: Network, leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.run.processes._TAKE_TIMEOUT_S", 0.01)
    run = made_run()
    assert leader._take(run).exceptions == {}
    assert leader._processes.owing() == ["local"]
    network.send_message(messages.WINDOWS, {"round": 1, "windows": [[0, window_with_a_wrong_answer()]]})
    assert leader._processes.owing() == []
    assert leader._take(run).exceptions == {}
    assert run.records[0].discarded.exceptions == {"here": 1}


@pytest.mark.parametrize("said", [(True, False), (False, True)])
def test_answers_must_be_checked_if_one_process_has_right_ones(
    network: Network, leader: Leader, monkeypatch: pytest.MonkeyPatch, said: tuple[bool, bool]
) -> None:
    """Workers on several machines may have different files at the same path."""
    monkeypatch.setattr("loadtest.run.processes._TAKE_TIMEOUT_S", 0.01)
    run = leader.run = made_run()
    for process, checked in enumerate(said):
        data: dict[str, Any] = {"error": None, "checked": checked, "notes": []}
        network.listeners[messages.PREPARED](SimpleNamespace(node_id=f"w{process}", data=data))
    leader._take(run)
    assert run.requires_checked


def test_a_process_that_never_says_what_it_counted_fails_the_run(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.run.processes._TAKE_TIMEOUT_S", 0.01)
    monkeypatch.setattr("loadtest.run.leader._GRACE_S", -1.0)
    with pytest.raises(Exception, match="local: the process did not say what it counted"):
        leader._drain(made_run())


def test_a_window_that_cannot_be_read_fails_the_run(network: Network, leader: Leader) -> None:
    network.send_message(messages.WINDOWS, {"round": 0, "windows": [[0, {}]]})
    with pytest.raises(KeyError):
        leader._take(made_run())


def end(run: Run) -> int | None:
    """End a run as Locust does, and return the exit code."""
    environment = Environment()
    Outcome(environment, SimpleNamespace(run=run)).listen()  # type: ignore[arg-type]
    events: Any = environment.events
    for event in (events.test_stop, events.quitting, events.quit):
        event.fire()
    return environment.process_exit_code


def passed_run() -> Run:
    run = made_run()
    run.records[0].measure(Window(1.0, {("m", "1"): Tally(requests=1000, rows=1000)}))
    run.complete = True
    return run


@pytest.mark.parametrize("broken", ["", "make_result", "summarize"])
def test_a_run_whose_report_fails_does_not_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    monkeypatch.setattr("locust.log.unhandled_greenlet_exception", False)
    if broken:
        monkeypatch.setattr(f"loadtest.report.outcome.{broken}", fail)
    code = end(passed_run())
    out, error = capsys.readouterr()
    assert (code, "PASSED" in out) == ((1, False) if broken else (0, True))
    assert ("error: the load test: IndexError in" in error) == bool(broken)


def test_an_error_that_only_locust_saw_in_the_leading_process_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("locust.log.unhandled_greenlet_exception", True)
    assert end(passed_run()) == 1
    out, error = capsys.readouterr()
    assert "PASSED" not in out
    assert "an error that nobody expected is in the log" in error


BROKEN = """
import itertools
from loadtest.run.traffic import Traffic

turns = itertools.count(1)
send = Traffic._send

def send_or_fail(traffic, *arguments):
    if next(turns) % 20 == 0:
        raise IndexError("b\\x1b[2Joom")
    send(traffic, *arguments)

Traffic._send = send_or_fail
"""


@pytest.mark.slow
def test_an_error_in_a_users_task_fails_a_run_of_several_processes(
    server: Server, repository: Path, tmp_path: Path, master_port: tuple[str, ...]
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    options = ("-f", f"{LOCUSTFILE},{tmp_path / 'broken.py'}", "--repository", str(repository), "--concurrency", "4")
    more = ("--stage-time", "1", "--warm-up", "0.2", "--min-requests", "400", "--processes", "2")
    finished = run(server, tmp_path, *options, *more, *master_port)
    ((place, times),) = finished.result["exceptions"].items()
    assert (finished.code, place) == (1, "IndexError in broken.py, line 10")
    assert finished.result["totals"]["requests"] // 30 < times < finished.result["totals"]["requests"] // 15
    said = f"the load test itself failed {times} times, please report it: {place}: b\\x1b[2Joom"
    assert f"FAILED: {said}" in finished.last_lines
    assert finished.stderr.count("Traceback") == 2, "one for each process"
