"""The processes that make load, as the leader sees them: the tests say who is there, and who answers."""

from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event
from locust.env import Environment
from locust.runners import STATE_MISSING, STATE_RUNNING, MasterRunner

from loadtest.errors import LoadTestError
from loadtest.run import Window, messages
from loadtest.run.processes import Processes


class Master(MasterRunner):
    """A master whose workers answer only what a test has them answer."""

    def __init__(self, *workers: str) -> None:
        """Connect these workers, and nothing else."""
        self.custom_messages = {}
        self.greenlet: Any = ()
        self.clients: Any = SimpleNamespace(all=[SimpleNamespace(id=one, state=STATE_RUNNING) for one in workers])
        self.sent: list[tuple[str, str | None]] = []
        self.has_sent = Event()

    def send_message(self, msg_type: str, data: Any = None, client_id: str | None = None) -> None:
        self.sent.append((msg_type, client_id))
        self.has_sent.set()

    def connect(self, worker: str) -> None:
        self.clients.all.append(SimpleNamespace(id=worker, state=STATE_RUNNING))

    def lose(self, worker: str) -> None:
        next(one for one in self.clients.all if one.id == worker).state = STATE_MISSING

    def answer(self, worker: str, name: str, data: Any) -> None:
        listener, _ = self.custom_messages[name]
        listener(msg=SimpleNamespace(node_id=worker, data=data))

    def prepared(self, worker: str, error: list[str] | None = None) -> None:
        self.answer(worker, messages.PREPARED, {"error": error, "checked": True, "notes": []})

    def counted(self, worker: str, round: int, rows: int) -> None:
        window = Window(seconds=1.0, sent=rows).to_message()
        self.answer(worker, messages.WINDOWS, {"round": round, "windows": [[round - 1, window]]})


def prepare(master: Master, *workers: str) -> Processes:
    processes = Processes(Environment(), master, lambda _: None)
    processes.listen()
    preparing = gevent.spawn(processes.prepare, {})
    master.has_sent.wait()
    for worker in workers:
        master.prepared(worker)
    preparing.get()
    return processes


def test_a_round_that_a_stop_interrupts_is_ended_once_and_nothing_of_it_is_lost() -> None:
    master = Master("a", "b")
    processes = prepare(master, "a", "b")
    master.has_sent.clear()
    taking = gevent.spawn(processes.take)
    master.has_sent.wait()
    master.counted("a", 1, 3)
    taking.kill()
    again = gevent.spawn(processes.take)
    gevent.idle()
    master.counted("b", 1, 4)
    assert [(number, window.sent) for number, window in again.get()] == [(0, 3), (0, 4)]
    assert [name for name, _ in master.sent].count(messages.TAKE) == 1
    assert processes.round == 1
    assert processes.owing() == []


def test_workers_are_gone_when_none_of_them_is_left() -> None:
    master = Master("a", "b")
    processes = prepare(master, "a", "b")
    master.lose("a")
    assert processes.gone() == []
    master.lose("b")
    assert processes.gone() == ["a", "b"]


@pytest.mark.parametrize("leaves", [False, True])
def test_a_latecomer_that_does_not_know_what_it_is_asked_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """Locust lets every worker join, whatever its locustfile is, and moves users to it."""
    master = Master("a")
    processes = prepare(master, "a")
    master.connect("stranger")
    processes.admit_latecomers(None)
    assert (messages.PREPARE, "stranger") in master.sent
    monkeypatch.setattr("loadtest.run.processes._PREPARE_TIMEOUT_S", 0.01)
    if leaves:
        master.lose("stranger")
        processes.check_latecomers()
        return
    with pytest.raises(LoadTestError, match="stranger: the process did not read the options"):
        processes.check_latecomers()


def test_a_latecomer_that_answers_makes_load_too() -> None:
    master = Master("a")
    processes = prepare(master, "a")
    master.connect("late")
    processes.admit_latecomers(None)
    master.prepared("late")
    processes.check_latecomers()
    assert processes.active() == ["a", "late"]
