"""Leads a run on Locust's own engine: one story of stages, told by the master (or the only process) to all.

The leader sends `loadtest_prepare`, `loadtest_begin` and `loadtest_take` to every process that makes load; each
answers with `loadtest_prepared` or `loadtest_window`. In a local runner these messages are plain calls.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import STATE_MISSING, MasterRunner, Runner
from locust.stats import StatsEntry, bucket_response_time

from loadtest import settings
from loadtest.errors import LoadTestError, ServerError, SettingsError
from loadtest.report import files as report
from loadtest.run.measure import STABLE_WINDOWS, Figures, Tally, Window, is_stable, join_windows, merge_processes
from loadtest.run.traffic import Traffic
from loadtest.scenarios.stages import PAUSE, Stage, make_stages
from loadtest.server import statistics as server_side
from loadtest.server import target
from loadtest.server.statistics import Snapshot
from loadtest.settings import Settings

_PREPARE_TIMEOUT_S = 60.0
_TAKE_TIMEOUT_S = 10.0
_POLL_S = 0.005
_SPAWN_TIMEOUT_S = 30.0
_SPAWN_RATE = 100
_DRAIN_S = 0.1


@dataclass
class StageRecord:
    """One stage as it went.

    Attributes:
        stage: What was asked for.
        users: How many users there really were at its end.
        windows: Every window its figures come from, in five numbers each.
        earlier: Those windows but for the last three, joined: a long stage must not fill the memory.
        recent: The last three of them.
        discarded: The warm-up, windows before the stable ones, and what was under way at the run's end, joined;
            answers in it were checked as well.
        stable: Whether the last three windows agreed.
        snapshots: The server at the borders of the measured windows.
        restarted: Whether the server restarted meanwhile.
        lost_workers: Processes that went away meanwhile.
        complete: Whether it was held to its end.
    """

    stage: Stage
    users: int = 0
    windows: list[Figures] = field(default_factory=list)
    earlier: Window = field(default_factory=Window)
    recent: list[Window] = field(default_factory=list)
    discarded: Window = field(default_factory=Window)
    stable: bool = False
    snapshots: list[Snapshot | None] = field(default_factory=list)
    restarted: bool = False
    lost_workers: list[str] = field(default_factory=list)
    complete: bool = False

    def measure(self, window: Window) -> None:
        """Take in the next measured window."""
        self.windows.append(window.figures())
        self.recent.append(window)
        self.stable = is_stable(self.recent)
        if len(self.recent) > STABLE_WINDOWS:
            self.earlier.append(self.recent.pop(0))

    def keep_stable(self) -> None:
        """Let the figures come from the last three windows alone."""
        self.discarded.append(self.earlier)
        self.earlier = Window()
        del self.windows[:-STABLE_WINDOWS]
        del self.snapshots[: -STABLE_WINDOWS - 1]

    def close(self) -> None:
        """Join what has no need to be told apart any more."""
        self.earlier = self.measured
        self.recent = []
        self.complete = True

    @property
    def measured(self) -> Window:
        """All measured windows as one."""
        return join_windows((self.earlier, *self.recent))


@dataclass
class Run:
    """A run under way or over: what was asked for, and the stages so far."""

    settings: Settings
    started_at: float
    records: list[StageRecord] = field(default_factory=list)
    fault: LoadTestError | None = None
    complete: bool = False


class Crew:
    """One process that makes load: obeys the leader's messages."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.traffic: Traffic | None = None

    def listen(self, runner: Runner) -> None:
        """Take the leader's messages."""
        runner.register_message("loadtest_prepare", self._prepare)
        runner.register_message("loadtest_begin", self._begin)
        runner.register_message("loadtest_take", self._take)

    def _runner(self) -> Any:
        return self._environment.runner

    def _prepare(self, environment: Environment, msg: Any, **_: Any) -> None:
        fault = None
        try:
            read = settings.from_text(msg.data["options"])
            samples = target.prepare(read)
            if self.traffic is not None:
                self.traffic.close()
            runner = self._runner()
            self.traffic = Traffic(read, samples, process=runner.client_id, index=runner.worker_index)
            environment.stop_timeout = read.request_timeout_s + 1
        except LoadTestError as error:
            fault = [type(error).__name__, error.where, error.what, error.mend]
        self._runner().send_message("loadtest_prepared", {"fault": fault})

    def _begin(self, msg: Any, **_: Any) -> None:
        if self.traffic is None:
            return
        order = msg.data["order"]
        me = self._runner().client_id
        index = order.index(me) if me in order else 0
        self.traffic.begin(msg.data["arrivals"], index, max(len(order), 1))

    def _take(self, msg: Any, **_: Any) -> None:
        if self.traffic is None:
            return
        window = self.traffic.take()
        protocol = self.traffic.protocol
        for (model, _version), tally in window.tallies.items():
            feed_locust(self._environment, model, protocol, tally)
        data = {"round": msg.data["round"], "window": window.to_message()}
        self._runner().send_message("loadtest_window", data)


def feed_locust(environment: Environment, model: str, protocol: str, tally: Tally) -> None:
    """Add a window to Locust's own statistics, in its milliseconds, without an event per request."""
    stats = environment.stats
    now = time.time()
    if tally.requests:
        entry = StatsEntry(stats, model, protocol)
        entry.num_requests = tally.requests
        entry.last_request_timestamp = now
        entry.num_reqs_per_sec = {int(now): tally.requests}
        figures = tally.latency_us.summarize()
        buckets: Counter[int] = Counter()
        for value_us, count in tally.latency_us.counts():
            buckets[int(bucket_response_time(value_us / 1000))] += count
        entry.response_times = dict(buckets)
        entry.total_response_time = round(figures["mean"] * tally.requests / 1000)
        entry.min_response_time = min(buckets)
        entry.max_response_time = round(figures["max"] / 1000)
        stats.get(model, protocol).extend(entry)
        stats.total.extend(entry)
    for kind, times in tally.failures.items():
        for _ in range(times):
            stats.log_request(protocol, model, 0, 0)
            stats.log_error(protocol, model, kind)
    for kind, times in tally.wrong.items():
        for _ in range(times):
            stats.log_error(protocol, model, f"wrong answer: {kind}")


def check(options: Mapping[str, str]) -> None:
    """Hold that a run with these options can be.

    Raises:
        SettingsError: An option makes no sense, or a file it names cannot be used or written.
        ServerError: The server is not there, or not the one that the options and the repository say.
    """
    read = settings.from_text(options)
    make_stages(read)
    if read.report_dir is not None:
        report.check_directory(read.report_dir)
    target.prepare(read)


class Leader:
    """Tells the story of a run: prepare everyone, hold each stage, gather its windows."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._prepared: dict[str, list[str] | None] = {}
        self._windows: dict[str, Window] = {}
        self._members: set[str] = set()
        self._late_comers: set[str] = set()
        self._round = 0
        self.run: Run | None = None

    def listen(self, runner: Runner) -> None:
        """Take the crew's answers."""
        runner.register_message("loadtest_prepared", self._on_prepared)
        runner.register_message("loadtest_window", self._on_window)

    def _on_prepared(self, msg: Any, **_: Any) -> None:
        self._prepared[msg.node_id] = msg.data["fault"]
        if msg.node_id in self._late_comers and msg.data["fault"] is None:
            self._members.add(msg.node_id)

    def _on_window(self, msg: Any, **_: Any) -> None:
        if msg.data["round"] == self._round:
            self._windows[msg.node_id] = Window.from_message(msg.data["window"])

    def tell(self) -> None:
        """Run the scenario from start to end; a fault of the user's ends it and stands in `run.fault`.

        Raises:
            SettingsError: The options make no sense, so that there is no run at all.
        """
        environment = self._environment
        assert environment.parsed_options is not None
        options = settings.to_text(environment.parsed_options, environment.host)
        read = settings.from_text(options)
        stages = make_stages(read)
        environment.stop_timeout = read.request_timeout_s + 1
        run = self.run = Run(read, time.time())
        try:
            self._prepare(options)
            self._check_shares(stages)
            for stage in stages:
                run.records.append(record := StageRecord(stage))
                self._hold(record, read)
            self._drain(record, read.request_timeout_s)
            run.complete = True
        except LoadTestError as error:
            run.fault = error

    def _prepare(self, options: Mapping[str, str]) -> None:
        self._prepared.clear()
        self._late_comers.clear()
        self._options = dict(options)
        self._members = set(self._present())
        self._send("loadtest_prepare", {"options": self._options})
        self._wait_for(self._prepared, _PREPARE_TIMEOUT_S)
        self._members &= self._prepared.keys()
        if not self._members:
            raise ServerError("the load generator", "no worker is connected", "start at least one worker")
        for fault in self._prepared.values():
            if fault is not None:
                raise _rebuild(fault)

    def _welcome(self, stage: Stage) -> None:
        """Let processes that came in the middle make load too, for Locust moves users to them.

        They take their share of an open loop's arrivals from the next stage on.
        """
        for process in set(self._present()) - self._members - self._late_comers:
            self._late_comers.add(process)
            self._send("loadtest_prepare", {"options": self._options}, process)
            self._begin(None if stage.arrivals is None else PAUSE, process)

    def _check_shares(self, stages: Sequence[Stage]) -> None:
        """Hold that every process has a user for its share of an open loop's arrivals."""
        processes = len(self._crew())
        if any(stage.arrivals is not None and stage.users < processes for stage in stages):
            what = f"{processes} processes need at least one request under way each"
            raise SettingsError("--max-in-flight", what, "ask for more, or use fewer processes")

    def _hold(self, record: StageRecord, read: Settings) -> None:
        """Bring up a stage's users, then measure window by window until it is stable or over."""
        crew = set(self._crew())
        stage = record.stage
        if stage.arrivals is not None:
            self._begin(PAUSE)
        self._employ(stage.users)
        self._begin(stage.arrivals)
        if stage.warm_up_s:
            gevent.sleep(stage.warm_up_s)
        record.discarded = self._take()
        record.snapshots.append(server_side.take_snapshot(read))
        until = time.monotonic() + stage.seconds
        while (left := until - time.monotonic()) > 0.25 * stage.window_s or not record.windows:
            gevent.sleep(max(min(stage.window_s, left), 0.0))
            record.measure(window := self._take())
            self._welcome(stage)
            record.snapshots.append(server_side.take_snapshot(read))
            self._note(record, crew)
            if stage.until_stable and record.stable:
                record.keep_stable()
                break
            if stage.until_drained and window.drained:
                break
        record.close()

    def _note(self, record: StageRecord, crew: set[str]) -> None:
        """Bring what the record says of the stage as a whole up to date."""
        record.users = self._environment.runner.user_count if self._environment.runner else 0
        record.restarted |= _has_restarted(record)
        record.lost_workers = sorted(crew - set(self._crew()))

    def _drain(self, record: StageRecord, timeout_s: float) -> None:
        """Send nothing more and wait for the answers under way, for they count as well."""
        self._begin(PAUSE)
        until = time.monotonic() + timeout_s
        while True:
            gevent.sleep(_DRAIN_S)
            record.discarded.append(window := self._take())
            if window.drained or time.monotonic() > until:
                return

    def _begin(self, arrivals: Mapping[str, Any] | None, process: str | None = None) -> None:
        data = {"arrivals": None if arrivals is None else dict(arrivals), "order": self._crew()}
        self._send("loadtest_begin", data, process)

    def _employ(self, users: int) -> None:
        """Let Locust start or stop users until there are so many."""
        runner = self._environment.runner
        assert runner is not None
        runner.start(users, spawn_rate=_SPAWN_RATE)
        until = time.monotonic() + _SPAWN_TIMEOUT_S
        while runner.user_count != users and time.monotonic() < until:
            gevent.sleep(0.02)

    def _take(self) -> Window:
        self._round += 1
        self._windows.clear()
        self._send("loadtest_take", {"round": self._round})
        self._wait_for(self._windows, _TAKE_TIMEOUT_S)
        return merge_processes(self._windows.values())

    def _wait_for(self, answers: Mapping[str, Any], timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not set(self._crew()) <= answers.keys() and time.monotonic() < until:
            gevent.sleep(_POLL_S)

    def _send(self, message: str, data: dict[str, Any], process: str | None = None) -> None:
        """Tell one process, or all of them."""
        runner = self._environment.runner
        assert runner is not None
        runner.send_message(message, data, process)

    def _crew(self) -> list[str]:
        """The processes that were prepared to make load and are still there."""
        return [process for process in self._present() if process in self._members]

    def _present(self) -> list[str]:
        runner = self._environment.runner
        if isinstance(runner, MasterRunner):
            return [client.id for client in runner.clients.all if client.state != STATE_MISSING]
        return ["local"]


def _has_restarted(record: StageRecord) -> bool:
    """Tell whether the newest snapshot shows a restart since the one before it."""
    known = [border for border, snapshot in enumerate(record.snapshots) if snapshot is not None][-2:]
    if len(known) < 2 or known[1] < len(record.snapshots) - 1:
        return False
    earlier, later = (record.snapshots[border] for border in known)
    assert earlier is not None
    assert later is not None
    return server_side.has_restarted(earlier, later, sum(window.requests for window in record.windows[slice(*known)]))


def _rebuild(fault: list[str]) -> LoadTestError:
    kind, where, what, mend = fault
    kinds = {cls.__name__: cls for cls in LoadTestError.__subclasses__()}
    return kinds.get(kind, LoadTestError)(where, what, mend)
