"""Lead a run: the master process, or the only one, takes all processes through the stages and collects their windows.

Locust starts and stops the users; `processes` talks to the processes.
"""

import time
from collections.abc import Callable, Mapping

import gevent
from locust.env import Environment
from locust.runners import Runner

from loadtest import server, settings
from loadtest.console import print_note
from loadtest.errors import LoadTestError, SettingsError, catch, to_load_test_error
from loadtest.run.processes import GIVE_IT_CORES, Processes
from loadtest.run.progress import Progress
from loadtest.run.record import Run, StageRecord
from loadtest.run.steadiness import STABLE_WINDOWS
from loadtest.run.windows import Window, merge_processes
from loadtest.scenarios import LONGEST, PAUSE, Plan, Stage, describe_plan, make_plan

_START_TIMEOUT_S = 30.0
_START_POLL_S = 0.02
_USERS_PER_S = 100
_DRAIN_S = 0.05
_GRACE_S = 1.0
"""How much longer than a request may take its process may take to say so."""

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
        self._runner = runner
        self._processes = Processes(environment, runner, watch)
        self._started = 0.0
        self._leaving: gevent.Greenlet | None = None
        self.run: Run | None = None

    def listen(self) -> None:
        """Listen to the answers of the processes that make load."""
        self._processes.listen()

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
            self._keep_error(run, lambda: self._run_plan(run, plan, options))
        finally:
            self._stop_leaving()

    def _keep_error(self, run: Run, action: Callable[[], object]) -> None:
        error = catch(action)
        run.error = None if error is None else to_load_test_error(error)

    def _run_plan(self, run: Run, plan: Plan, options: Mapping[str, str]) -> None:
        self._processes.prepare(options)
        run.checked, run.notes = self._processes.checked, self._processes.notes
        with server.Meter(run.settings) as self._meter:
            try:
                while (stage := plan.next_stage(run.trials)) is not None:
                    self._check_share(stage)
                    self._run_stage(run, stage)
                    self._conclude(run, plan)
                self._drain(run)
            except gevent.GreenletExit:  # somebody stops the run, or its last worker is gone
                self._keep_error(run, lambda: self._wind_up(run))
                raise
        run.lost_workers = self._processes.owing()
        self._processes.check_latecomers()
        self._processes.await_reports()
        run.complete = True

    def _wind_up(self, run: Run) -> None:
        """Count what came since the last window of a run that is stopped, and the answers to what is in flight.

        Raises:
            LoadTestError: No worker is left, or one did not say what it counted.
        """
        self._stop_leaving()
        if run.records:
            record = run.records[-1]
            window = self._take(run, record)
            if record.is_measuring and window.seconds:
                self._measure(record, window)
                record.measured_until = self._processes.round
            else:
                record.discarded.add_counts(window)
            self._drain(run)
        run.lost_workers = self._processes.owing()
        if gone := self._processes.gone():
            raise LoadTestError(", ".join(gone), "stopped answering, so that no worker was left", GIVE_IT_CORES)

    def _measure(self, record: StageRecord, window: Window) -> None:
        """Add a measured window, the server's counts after it, and how many users there are."""
        record.measure(window)
        record.add_snapshot(self._meter.take(self._processes.taken))
        if record.stage.arrivals is None:
            record.users = self._runner.user_count

    def _conclude(self, run: Run, plan: Plan) -> None:
        """Say what a stage found, and note what it tells the plan; if it can be, once all its requests are answered."""
        record = run.records[-1]
        if plan.has_breaks:
            self._drain(run)
        record.trial = record.to_trial(run.settings.limits)
        self._progress.say_ended(len(run.records), record)

    def _check_share(self, stage: Stage) -> None:
        """Check that every process has a user for its share of an open loop's requests.

        Raises:
            SettingsError: There are more processes than users.
        """
        processes = len(self._processes.active())
        if stage.arrivals is not None and stage.users < processes:
            what = f"{processes} processes need at least {processes} requests in flight, one for each"
            raise SettingsError("--max-in-flight", what, f"give {processes} or more, or use fewer processes")

    def _run_stage(self, run: Run, stage: Stage) -> None:
        """Start a stage's users, then measure window after window until the stage is stable or over."""
        record = StageRecord(stage, begun=self._processes.round)
        run.records.append(record)
        if not stage.follows_on:
            self._drain(run)
        processes = set(self._processes.active())
        self._start(run, record)
        record.measured_from = self._processes.round
        record.measured_from_s = time.monotonic() - self._started
        record.add_snapshot(self._meter.take(self._processes.taken))
        until, least = time.monotonic() + stage.seconds, run.settings.load.min_requests
        last = until + (LONGEST - 1) * stage.seconds
        while not record.windows or _is_time_left(until if record.answered() >= least else last, stage):
            left_s = until - time.monotonic()
            gevent.sleep(min(stage.window_s, left_s) if left_s > 0 else stage.window_s)
            window = self._take(run, record)
            self._measure(record, window)
            self._progress.say_measured(len(run.records), record, window)
            self._processes.admit_latecomers(stage.arrivals)
            record.note_lost(processes - {*self._processes.active()})
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
            self._processes.gather()
            self._change_users(stage.users)
            record.users = self._runner.user_count
        record.discarded.append(self._take(run, record))
        self._processes.begin(stage.arrivals)
        if is_jump_down:
            self._leaving = gevent.spawn(self._change_users, stage.users)
        if stage.warm_up_s:
            gevent.sleep(stage.warm_up_s)
            record.discarded.append(self._take(run, record))

    def _end(self, record: StageRecord) -> None:
        record.measured_until = self._processes.round
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
        self._processes.begin(PAUSE)
        until = time.monotonic() + run.settings.load.request_timeout_s + _GRACE_S
        while True:
            window = self._take(run)
            run.records[-1].discarded.add_counts(window)
            if window.drained and not self._processes.silent():
                return
            if time.monotonic() > until:
                break
            gevent.sleep(_DRAIN_S)
        run.records[-1].discarded.give_up(window.in_flight)
        if silent := self._processes.silent():
            raise LoadTestError(", ".join(silent), "the process did not say what it counted", GIVE_IT_CORES)

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
        came = self._processes.take()
        ended = self._processes.round - 1
        run.checked |= self._processes.checked
        merged = merge_processes(window for number, window in came if number == ended)
        for number, window in came:
            if number == ended:
                continue
            if current is not None and current.measures(number):
                merged.add_counts(window)
            else:
                run.record_of(number).add_late(number, window)
        return merged


def _is_time_left(until: float, stage: Stage) -> bool:
    """Return whether enough time is left for a window of its own."""
    return until - time.monotonic() > _SHORTEST_REST * stage.window_s
