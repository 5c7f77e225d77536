"""Load tests for Triton: `locust -f loadtest/locustfile.py`; docs/load-testing.md tells how."""

import sys
from typing import Any

import gevent
from locust import LoadTestShape, User, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest import settings
from loadtest.errors import LoadTestError
from loadtest.report.outcome import Outcome
from loadtest.run.conductor import Crew, Leader, check

_WAITING_S = 0.05
_MEETING_S = 20.0


class TritonUser(User):
    """Sends requests back to back, or takes its share of an open loop's arrivals."""

    crew: Crew

    @task
    def work(self) -> None:
        """One turn of the process's traffic."""
        if self.crew.traffic is None:
            gevent.sleep(_WAITING_S)
        else:
            self.crew.traffic.work()


class Story(LoadTestShape):
    """Lets the leader tell the whole run; Locust stops the users when it is over."""

    leader: Leader

    def tick(self) -> None:
        """Run the scenario."""
        self.leader.tell()


def _declare_options(parser: Any) -> None:
    """Add our options; Locust's own page and its master stay on this machine unless the user says otherwise."""
    settings.declare(parser)
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1")


def _set_up(environment: Environment, runner: Any, **_: Any) -> None:
    leads = not isinstance(runner, WorkerRunner)
    if not isinstance(runner, MasterRunner):
        TritonUser.crew = Crew(environment)
        TritonUser.crew.listen(runner)
    if leads:
        _set_up_leader(environment, runner)


def _set_up_leader(environment: Environment, runner: Any) -> None:
    options = environment.parsed_options
    assert options is not None
    options.enable_rebalancing = True
    leader = Leader(environment)
    leader.listen(runner)
    story = environment.shape_class
    assert isinstance(story, Story)
    story.leader = leader
    outcome = Outcome(environment, leader)
    outcome.listen()
    if environment.web_ui is not None:
        from loadtest.report import web

        web.set_up(environment, outcome)
    else:
        _refuse_early(environment, runner)


def _refuse_early(environment: Environment, runner: Any) -> None:
    """Leave before the first user starts when the run cannot be."""
    options = environment.parsed_options
    assert options is not None
    try:
        check(settings.to_text(options, environment.host))
    except LoadTestError as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(runner, MasterRunner) and options.processes:
            _send_home(runner, options.processes)
        sys.exit(error.exit_code)


def _send_home(runner: MasterRunner, workers: int) -> None:
    """End the processes forked for `--processes`: a worker that came too late would look for its master for minutes."""
    with gevent.Timeout(_MEETING_S, False):
        while len(runner.clients) < workers:
            gevent.sleep(_WAITING_S)
    runner.quit()


_events: Any = events
_events.init_command_line_parser.add_listener(_declare_options)
_events.init.add_listener(_set_up)
