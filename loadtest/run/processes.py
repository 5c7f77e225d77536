"""The processes that make load, as the leader sees them: who is there, what they are told, and what they answer.

Locust connects them; `messages` lists the messages between them and the leader.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gevent
from locust import runners
from locust.env import Environment
from locust.runners import STATE_MISSING, WORKER_REPORT_INTERVAL, MasterRunner, Runner

from loadtest.errors import LoadTestError, ServerError, catch
from loadtest.run import messages
from loadtest.run.windows import Window
from loadtest.scenarios import PAUSE, Arrivals

_PREPARE_TIMEOUT_S = 60.0
_TAKE_TIMEOUT_S = 10.0
_REPORT_GRACE_S = 1.0
_POLL_S = 0.005
_HEARTBEATS = 10
"""How many heartbeats, one a second, a worker may miss before Locust calls it missing, instead of 3.

On a busy machine, a worker that encodes its requests may have no time for them for longer.
"""

GIVE_IT_CORES = "look into its log, and run it where it has a core of its own"
"""What to do about a process that does not answer."""


class Processes:
    """All processes that make load; the leader's own, if it is the only one.

    Args:
        environment: Locust's environment.
        runner: Locust's runner.
        watch: Is called with each window of each process, as it comes.

    Attributes:
        round: The number of the open round, see `recorder`.
        taken: When the last round was ended, by `time.monotonic()`.
        checked: Whether one of them has right answers to all that it sends.
        notes: What they say about the check of the answers, each note once.
    """

    def __init__(self, environment: Environment, runner: Runner, watch: Callable[[Window], object]) -> None:
        self._environment = environment
        self._runner = runner
        self._watch = watch
        self._prepared: dict[str, list[str] | None] = {}
        self._windows: dict[tuple[str, int], list[tuple[int, Window]]] = {}
        self._members: set[str] = set()
        self._latecomers: set[str] = set()
        self._options: dict[str, str] = {}
        self._reported: set[str] = set()
        self._owed: set[tuple[str, int]] = set()
        self._error: Exception | None = None
        self._is_taking = False
        self.round = 0
        self.taken = 0.0
        self.checked = False
        self.notes: list[str] = []

    def listen(self) -> None:
        """Listen to their answers, and have Locust be patient with them."""
        locust: Any = runners
        locust.HEARTBEAT_LIVENESS = _HEARTBEATS
        self._runner.register_message(messages.PREPARED, self._on_prepared)
        self._runner.register_message(messages.WINDOWS, self._on_windows)
        events: Any = self._environment.events
        events.worker_report.add_listener(lambda client_id, **_: self._reported.add(client_id))

    def _on_prepared(self, msg: Any, **_: Any) -> None:
        self._prepared[msg.node_id] = msg.data["error"]
        self.checked |= msg.data["checked"]
        self.notes += [note for note in msg.data["notes"] if note not in self.notes]
        if msg.node_id in self._latecomers:
            if msg.data["error"] is None:
                self._members.add(msg.node_id)
            else:  # Locust moves users to it all the same, so there would be less load than asked for
                self._error = messages.to_error(msg.data["error"])

    def _on_windows(self, msg: Any, **_: Any) -> None:
        error = catch(lambda: self._keep_windows((msg.node_id, msg.data["round"]), msg.data["windows"]))
        self._error = self._error or error

    def _keep_windows(self, key: tuple[str, int], windows: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        self._windows[key] = [(number, Window.from_message(window)) for number, window in windows]
        self._owed.discard(key)
        for _, window in self._windows[key]:
            self._watch(window)

    def prepare(self, options: Mapping[str, str]) -> None:
        """Have every process read the options and encode its requests.

        Raises:
            LoadTestError: There is no process, or one of them failed.
        """
        self._prepared.clear()
        self._latecomers.clear()
        self._owed.clear()
        self._error = None
        self._is_taking = False
        self.checked = False
        self.notes = []
        self._options = dict(options)
        self._members = set(self._present())
        self._send(messages.PREPARE, {"options": self._options})
        self._await_prepared(self.active)
        self._windows.clear()  # now that they have answered, no window of a run that was stopped can come any more
        self._members &= self._prepared.keys()
        if not self._members:
            raise ServerError(
                "the load generator", "no worker is connected", "start a worker: add --worker to the command"
            )
        for error in self._prepared.values():
            if error is not None:
                raise messages.to_error(error)

    def admit_latecomers(self, arrivals: Arrivals | None) -> None:
        """Have processes that connected during the run make load too, because Locust moves users to them.

        They take their share of an open loop's requests from the next stage on.
        """
        for process in set(self._present()) - self._members - self._latecomers:
            self._latecomers.add(process)
            self._send(messages.PREPARE, {"options": self._options}, process)
            self.begin(None if arrivals is None else PAUSE, process)

    def check_latecomers(self) -> None:
        """Check that each of them came to make load. Locust moved users to all, even to a worker with another file.

        Raises:
            LoadTestError: One failed, or does not know what it was asked.
        """
        self._await_prepared(lambda: self._latecomers & {*self._present()})

    def _await_prepared(self, find: Callable[[], Iterable[str]]) -> None:
        if silent := self._wait_for(self._prepared.__contains__, _PREPARE_TIMEOUT_S, find):
            what = f"the process did not read the options within {_PREPARE_TIMEOUT_S:g} s"
            raise LoadTestError(", ".join(sorted(silent)), what, GIVE_IT_CORES)

    def gather(self) -> None:
        """Let new users wait for the next stage."""
        self._send(messages.GATHER, {})

    def begin(self, arrivals: Arrivals | None, process: str | None = None) -> None:
        """Begin a stage in one process, or in all of them; `arrivals` says when requests are due in an open loop."""
        message = None if arrivals is None else arrivals.to_message()
        self._send(messages.BEGIN, {"arrivals": message, "order": self.active(), "round": self.round}, process)

    def take(self) -> list[tuple[int, Window]]:
        """End the round and begin the next one; return all windows that came, each with the round that it is of.

        If somebody stops the run meanwhile, the next call goes on waiting for the same windows.
        """
        if not self._is_taking:
            self.round += 1
            self.taken = time.monotonic()
            self._is_taking = True
            self._send(messages.TAKE, {"round": self.round})
        self._wait_for(lambda process: (process, self.round) in self._windows, _TAKE_TIMEOUT_S)
        self._owed |= {(process, self.round) for process in self._members} - self._windows.keys()
        self._is_taking = False
        came, self._windows = [one for windows in self._windows.values() for one in windows], {}
        return came

    def owing(self) -> list[str]:
        """Return the processes that owe what they counted in a round, whether they are still there or not."""
        return sorted({process for process, _ in self._owed})

    def gone(self) -> list[str]:
        """Return all processes if none of them is there any more."""
        return [] if self.active() else sorted(self._members)

    def silent(self) -> list[str]:
        """Return those of them that are still there."""
        return sorted({*self.owing()} & {*self.active()})

    def await_reports(self) -> None:
        """Wait for the workers' next reports to Locust, because it drops those that come after the end of a run."""
        self._reported.clear()
        if isinstance(self._runner, MasterRunner):
            self._wait_for(self._reported.__contains__, WORKER_REPORT_INTERVAL + _REPORT_GRACE_S)

    def _wait_for(
        self,
        has_answered: Callable[[str], bool],
        timeout_s: float,
        find: Callable[[], Iterable[str]] | None = None,
    ) -> set[str]:
        """Wait until every process that is still there has answered, and return those that have not in time.

        Args:
            has_answered: Whether one has answered.
            timeout_s: How long to wait.
            find: Finds the processes; by default, all that make load.

        Raises:
            Exception: An answer could not be read.
        """
        until = time.monotonic() + timeout_s
        find = find or self.active
        while (silent := {one for one in find() if not has_answered(one)}) and time.monotonic() < until:
            gevent.sleep(_POLL_S)
        if self._error is not None:
            raise self._error
        return silent

    def _send(self, message: str, data: dict[str, Any], process: str | None = None) -> None:
        """Send a message to one process, or to all of them."""
        runner: Any = self._runner
        runner.send_message(message, data, process)

    def active(self) -> list[str]:
        """Return the processes that were prepared to make load and are still there."""
        return [process for process in self._present() if process in self._members]

    def _present(self) -> list[str]:
        runner = self._runner
        if isinstance(runner, MasterRunner):
            return [client.id for client in runner.clients.all if client.state != STATE_MISSING]
        return ["local"]
