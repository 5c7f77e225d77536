"""Lead a run: the master process, or the only one, takes all processes through the stages and collects their windows.

Locust starts and stops the users and connects the processes; `messages` lists the messages between them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import STATE_MISSING, WORKER_REPORT_INTERVAL, MasterRunner, Runner

from loadtest import server, settings
from loadtest.console import print_note
from loadtest.errors import LoadTestError, ServerError, SettingsError, catch, to_load_test_error
from loadtest.run import messages
from loadtest.run.progress import Progress
from loadtest.run.record import Run, StageRecord
from loadtest.run.windows import STABLE_WINDOWS, Window, merge_processes
from loadtest.scenarios import LONGEST, PAUSE, Arrivals, Plan, Stage, describe_plan, make_plan

_PREPARE_TIMEOUT_S = 60.0
_TAKE_TIMEOUT_S = 10.0
_POLL_S = 0.005
_START_TIMEOUT_S = 30.0
_START_POLL_S = 0.02
_USERS_PER_S = 100
_DRAIN_S = 0.05
_GRACE_S = 1.0
"""How much longer than a request may take its process may take to say so."""

_GIVE_IT_CORES = "look into its log, and run it where it has a core of its own"
_SHORTEST_REST = 0.25
"""If less than this share of a window is left at the end of a stage, it is not measured as a separate window."""


class Leader:
    """Leads a run: prepares all processes, runs each stage, and collects the windows.

    Args:
        environment: Locust's environment.
        runner: Locust's runner.
        watch: Is called with each window of each process, as it comes.
    """

    def __init__(
        self, environment: Environment, runner: Runner, watch: Callable[[Window], object] = lambda window: None
    ) -> None:
        self._environment = environment
        self._watch = watch
        self._runner = runner
        self._prepared: dict[str, list[str] | None] = {}
        self._windows: dict[tuple[str, int], list[tuple[int, Window]]] = {}
        self._members: set[str] = set()
        self._latecomers: set[str] = set()
        self._options: dict[str, str] = {}
        self._reported: set[str] = set()
        self._owed: set[tuple[str, int]] = set()
        self._error: Exception | None = None
        self._round = 0
        self._started = self._taken = 0.0
        self._leaving: gevent.Greenlet | None = None
        self.run: Run | None = None

    def listen(self) -> None:
        """Listen to the answers of the processes that make load."""
        self._runner.register_message(messages.PREPARED, self._on_prepared)
        self._runner.register_message(messages.WINDOWS, self._on_windows)
        events: Any = self._environment.events
        events.worker_report.add_listener(lambda client_id, **_: self._reported.add(client_id))

    def _on_prepared(self, msg: Any, **_: Any) -> None:
        self._prepared[msg.node_id] = msg.data["error"]
        if self.run is not None:
            self.run.checked |= msg.data["checked"]
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

    def lead(self, options: Mapping[str, str]) -> None:
        """Run the scenario from start to end; an error ends it and is kept in `run.error`.

        Raises:
            SettingsError: The options cannot be used, so that there is no run at all.
        """
        read = settings.from_text(options)
        plan = make_plan(read.load)
        self._environment.stop_timeout = read.load.request_timeout_s + 1
        run = self.run = Run(read, time.time())
        self._started = time.monotonic()
        self._progress = Progress(plan, read.limits)
        print_note(describe_plan(read.load, plan))
        try:
            error = catch(lambda: self._run_plan(run, plan, options))
        finally:  # Locust ends this greenlet if somebody stops the run
            self._stop_leaving()
        run.error = None if error is None else to_load_test_error(error)

    def _run_plan(self, run: Run, plan: Plan, options: Mapping[str, str]) -> None:
        self._prepare(options)
        with server.Meter(run.settings) as self._meter:
            while (stage := plan.next_stage(run.trials)) is not None:
                self._check_share(stage)
                self._run_stage(run, stage)
                self._conclude(run, plan)
        self._drain(run)
        run.lost_workers = sorted({process for process, _ in self._owed})
        self._await_reports()
        run.complete = True

    def _conclude(self, run: Run, plan: Plan) -> None:
        """Say what a stage found, and note what it tells the plan; if it can be, once all its requests are answered."""
        record = run.records[-1]
        if plan.has_breaks:
            self._drain(run)
        record.trial = record.to_trial(run.settings.limits)
        self._progress.say_ended(len(run.records), record)

    def _prepare(self, options: Mapping[str, str]) -> None:
        """Have every process read the options and encode its requests.

        Raises:
            LoadTestError: There is no process, or one of them failed.
        """
        self._prepared.clear()
        self._latecomers.clear()
        self._owed.clear()
        self._error = None
        self._options = dict(options)
        self._members = set(self._present())
        self._send(messages.PREPARE, {"options": self._options})
        if silent := self._wait_for(self._prepared.__contains__, _PREPARE_TIMEOUT_S):
            what = f"the process did not read the options within {_PREPARE_TIMEOUT_S:g} s"
            raise LoadTestError(", ".join(sorted(silent)), what, _GIVE_IT_CORES)
        self._windows.clear()  # now that they have answered, no window of a run that was stopped can come any more
        self._members &= self._prepared.keys()
        if not self._members:
            raise ServerError(
                "the load generator", "no worker is connected", "start a worker: add --worker to the command"
            )
        for error in self._prepared.values():
            if error is not None:
                raise messages.to_error(error)

    def _admit_latecomers(self, stage: Stage) -> None:
        """Have processes that connected during the run make load too, because Locust moves users to them.

        They take their share of an open loop's requests from the next stage on.
        """
        for process in set(self._present()) - self._members - self._latecomers:
            self._latecomers.add(process)
            self._send(messages.PREPARE, {"options": self._options}, process)
            self._begin(None if stage.arrivals is None else PAUSE, process)

    def _check_share(self, stage: Stage) -> None:
        """Check that every process has a user for its share of an open loop's requests.

        Raises:
            SettingsError: There are more processes than users.
        """
        processes = len(self._active())
        if stage.arrivals is not None and stage.users < processes:
            what = f"{processes} processes need at least {processes} requests in flight, one for each"
            raise SettingsError("--max-in-flight", what, f"give {processes} or more, or use fewer processes")

    def _run_stage(self, run: Run, stage: Stage) -> None:
        """Start a stage's users, then measure window after window until the stage is stable or over."""
        record = StageRecord(stage, begun=self._round)
        run.records.append(record)
        if not stage.follows_on:
            self._drain(run)
        processes = set(self._active())
        self._start(run, record)
        record.measured_from = self._round
        record.measured_from_s = time.monotonic() - self._started
        record.add_snapshot(self._meter.take(self._taken))
        until, least = time.monotonic() + stage.seconds, run.settings.load.min_requests
        last = until + (LONGEST - 1) * stage.seconds
        while not record.windows or _is_time_left(until if record.answered() >= least else last, stage):
            left_s = until - time.monotonic()
            gevent.sleep(min(stage.window_s, left_s) if left_s > 0 else stage.window_s)
            window = self._take(run, record)
            record.measure(window)
            self._progress.say_measured(len(run.records), record, window)
            self._admit_latecomers(stage)
            record.add_snapshot(self._meter.take(self._taken))
            if stage.arrivals is None:
                record.users = self._runner.user_count
            record.lost_workers = sorted(processes - set(self._active()))
            if stage.until_stable and record.stable and record.answered(STABLE_WINDOWS) >= least:
                record.keep_stable()
                break
            if stage.sought_p99_us is not None and record.is_decided(run.settings.limits, least):
                break
            if stage.until_drained and window.drained:
                break
        self._end(record)

    def _start(self, run: Run, record: StageRecord) -> None:
        """Let all users of a stage begin at the same moment, and wait until its measured time begins.

        Where the load jumps up, the new users wait until all of them are there. Where it jumps down, the stage begins
        with the moment in which the surplus users are told to leave, each after its last answer.
        """
        stage = record.stage
        is_jump_down = stage.follows_on and stage.users < self._runner.user_count
        if not is_jump_down:
            self._send(messages.GATHER, {})
            self._change_users(stage.users)
            record.users = self._runner.user_count
        record.discarded.append(self._take(run, record))
        self._begin(stage.arrivals)
        if is_jump_down:
            self._leaving = gevent.spawn(self._change_users, stage.users)
        if stage.warm_up_s:
            gevent.sleep(stage.warm_up_s)
            record.discarded.append(self._take(run, record))

    def _end(self, record: StageRecord) -> None:
        record.measured_until = self._round
        record.close()
        if self._leaving is not None:
            self._leaving.get()
            self._leaving = None

    def _stop_leaving(self) -> None:
        """Change no more users; that would start a run again that was stopped."""
        if self._leaving is not None:
            self._leaving.kill()
            self._leaving = None

    def _drain(self, run: Run) -> None:
        """Send nothing more and wait for the answers to the requests in flight.

        They count as part of the stage in which their requests were sent.
        """
        self._begin(PAUSE)
        until = time.monotonic() + run.settings.load.request_timeout_s + _GRACE_S
        while True:
            window = self._take(run)
            run.records[-1].discarded.add_counts(window)
            if window.drained and not self._silent():
                return
            if time.monotonic() > until:
                break
            gevent.sleep(_DRAIN_S)
        run.records[-1].discarded.give_up(window.in_flight)
        if silent := self._silent():
            raise LoadTestError(", ".join(sorted(silent)), "the process did not say what it counted", _GIVE_IT_CORES)

    def _silent(self) -> set[str]:
        """Return the processes that are still there but owe what they counted in a round."""
        return {process for process, _ in self._owed} & set(self._active())

    def _await_reports(self) -> None:
        """Wait for the workers' next reports to Locust, because it drops those that come after the end of a run."""
        self._reported.clear()
        if isinstance(self._runner, MasterRunner):
            self._wait_for(self._reported.__contains__, WORKER_REPORT_INTERVAL + _GRACE_S)

    def _begin(self, arrivals: Arrivals | None, process: str | None = None) -> None:
        message = None if arrivals is None else arrivals.to_message()
        self._send(messages.BEGIN, {"arrivals": message, "order": self._active(), "round": self._round}, process)

    def _change_users(self, users: int) -> None:
        """Have Locust start or stop users until there are this many."""
        until = time.monotonic() + _START_TIMEOUT_S + users / _USERS_PER_S
        self._runner.start(users, spawn_rate=_USERS_PER_S)
        while self._runner.user_count != users and time.monotonic() < until:
            gevent.sleep(_START_POLL_S)

    def _take(self, run: Run, current: StageRecord | None = None) -> Window:
        """End the round; return what all processes saw of the requests that were sent in it.

        Answers to requests of earlier rounds are added as well if these are measured windows of `current`, otherwise
        to the stage in which they were sent. So is a window that comes too late for its round.
        """
        ended, self._round = self._round, self._round + 1
        self._taken = time.monotonic()
        self._send(messages.TAKE, {"round": self._round})
        self._wait_for(lambda process: (process, self._round) in self._windows, _TAKE_TIMEOUT_S)
        self._owed |= {(process, self._round) for process in self._members} - self._windows.keys()
        came, self._windows = [one for windows in self._windows.values() for one in windows], {}
        merged = merge_processes(window for number, window in came if number == ended)
        for number, window in came:
            if number == ended:
                continue
            if current is not None and current.measures(number):
                merged.add_counts(window)
            else:
                run.record_of(number).add_late(number, window)
        return merged

    def _wait_for(self, has_answered: Callable[[str], bool], timeout_s: float) -> set[str]:
        """Wait until every process has answered, and return those that have not in time.

        Raises:
            Exception: An answer could not be read.
        """
        until = time.monotonic() + timeout_s
        while (silent := {one for one in self._active() if not has_answered(one)}) and time.monotonic() < until:
            gevent.sleep(_POLL_S)
        if self._error is not None:
            raise self._error
        return silent

    def _send(self, message: str, data: dict[str, Any], process: str | None = None) -> None:
        """Send a message to one process, or to all of them."""
        runner: Any = self._runner
        runner.send_message(message, data, process)

    def _active(self) -> list[str]:
        """Return the processes that were prepared to make load and are still there."""
        return [process for process in self._present() if process in self._members]

    def _present(self) -> list[str]:
        runner = self._runner
        if isinstance(runner, MasterRunner):
            return [client.id for client in runner.clients.all if client.state != STATE_MISSING]
        return ["local"]


def _is_time_left(until: float, stage: Stage) -> bool:
    """Return whether enough time is left for a window of its own."""
    return until - time.monotonic() > _SHORTEST_REST * stage.window_s
