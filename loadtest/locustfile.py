"""Load tests for Triton, run with `locust -f loadtest/locustfile.py`; see docs/load-testing.md.

Locust imports this file in every process and sends its events: one to declare the command line's options, one to set
up the process as leader, as load worker, or as both.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if (here := str(Path.cwd())) in sys.path:
    # Locust imports from the working directory first, which may be a folder of downloads with a numpy.py in it. Import
    # from the folder of this package instead.
    sys.path[sys.path.index(here)] = str(Path(__file__).resolve().parents[1])

import ctypes

import gevent
from locust import LoadTestShape, User, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner
from locust.stats import CSV_STATS_INTERVAL_SEC

from loadtest import options
from loadtest.errors import LoadTestError
from loadtest.report import Outcome, print_refusal
from loadtest.run import Leader, LoadWorker, Telemetry, Window, check, hold_back_messages, postpone_set_up

_LAST_ROWS_S = 0.05
_PR_SET_PDEATHSIG = 1
_parent: list[int] = []


class TritonUser(User):
    """Sends requests back to back, or takes its share of an open loop's requests."""

    worker: LoadWorker
    has_begun = False

    @task
    def work(self) -> None:
        """Do one turn of the process's traffic, once it may begin."""
        self.has_begun = self.has_begun or self.worker.admit()
        if self.has_begun:
            self.worker.work()


class ScenarioShape(LoadTestShape):
    """The load shape for Locust: the leader runs the whole scenario, then Locust stops the users."""

    leader: Leader
    outcome: Outcome
    environment: Environment

    def tick(self) -> None:
        """Run the scenario."""
        self.leader.lead(_read_options(self.environment))
        self.outcome.end()


def _read_options(environment: Environment) -> dict[str, str]:
    parsed: Any = environment.parsed_options
    return options.to_text(parsed, environment.host)


def _declare_options(parser: Any) -> None:
    """Add our options. By default, Locust's page and its master listen only on this machine."""
    options.declare(parser)
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1")


def _set_up(environment: Environment, runner: Any, **more: Any) -> None:
    """Set up this process: a master leads, a worker makes load, a process by itself does both."""
    _stop_on_signals()
    if not isinstance(runner, MasterRunner):
        TritonUser.worker = LoadWorker(environment)
        TritonUser.worker.listen(runner)  # at once, because messages may come from now on
    _set_up_opentelemetry(environment=environment, runner=runner, **more)
    if not isinstance(runner, WorkerRunner):
        _set_up_leader(environment, runner)
    _read_messages()


def _stop_on_signals() -> None:
    """Have Ctrl-C and SIGTERM end the run as Locust ends one, with a report.

    Python would interrupt whatever runs in that moment, often a user in the middle of a request, and Locust handles
    SIGTERM only when a headless run is over: until then it would leave neither a report nor the workers without load.
    """
    main = gevent.getcurrent()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            gevent.signal_handler(number, gevent.kill, main, KeyboardInterrupt)


def _set_up_leader(environment: Environment, runner: Any) -> None:
    parsed: Any = environment.parsed_options
    parsed.enable_rebalancing = True
    ScenarioShape.leader = Leader(environment, runner, *_set_up_telemetry(environment))
    ScenarioShape.environment = environment
    ScenarioShape.leader.listen()
    outcome = Outcome(environment, ScenarioShape.leader)
    outcome.listen()
    ScenarioShape.outcome = outcome
    if parsed.csv_prefix:
        ours: Any = environment.events
        ours.quitting.add_listener(_await_last_rows)
    shows_password = "@" in (environment.host or "")  # Locust's page shows the host, so this is refused at once
    if environment.web_ui is not None and not shows_password:
        from loadtest.report import web

        web.set_up(environment, outcome)
        _refuse_early(environment, lambda _: web.check_port(environment.web_ui))
    else:
        _refuse_early(environment, check)


def _await_last_rows(**_: Any) -> None:
    """Let Locust write its CSV files once more, which it does every second, before it closes them."""
    gevent.sleep(CSV_STATS_INTERVAL_SEC + _LAST_ROWS_S)


def _set_up_telemetry(environment: Environment) -> list[Callable[[Window], None]]:
    """Return what records windows in OpenTelemetry, if that was asked for."""
    parsed: Any = environment.parsed_options
    if not parsed.otel:
        return []
    try:
        telemetry = Telemetry()
    except LoadTestError as error:
        print_refusal(error, parsed.markdown)
        sys.exit(error.exit_code)
    telemetry.listen(environment)
    return [telemetry.add]


def _refuse_early(environment: Environment, examine: Callable[[dict[str, str]], object]) -> None:
    """End the process before the first user starts if the options, when examined, turn out not to work."""
    text = _read_options(environment)
    try:
        examine(text)
    except LoadTestError as error:
        print_refusal(error, text["markdown"])
        sys.exit(error.exit_code)


def _note_parent() -> None:
    _parent[:] = [os.getpid()]


def _end_with_parent() -> None:
    """Have the kernel end a process that was forked for `--processes` with the one that forked it.

    Locust's master tells its workers to quit. But it forks them before it knows whether its port is free, they connect
    when they are ready, and it may be killed. Those that it did not tell would look for a master for minutes, and might
    find another one.

    Source: https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:  # it is not Linux
        return
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if [os.getppid()] != _parent:  # which ended before it was asked for
        os._exit(1)


os.register_at_fork(before=_note_parent, after_in_child=_end_with_parent)
_set_up_opentelemetry = postpone_set_up()
_read_messages = hold_back_messages()
_events: Any = events
_events.init_command_line_parser.add_listener(_declare_options)
_events.init.add_listener(_set_up)
