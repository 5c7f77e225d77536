"""A process that makes load, as the leader's messages tell it to."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from gevent.event import Event
from locust import log
from locust.env import Environment
from locust.runners import STATE_RUNNING, STATE_SPAWNING, LocalRunner, Runner, WorkerRunner

from loadtest import server, settings
from loadtest.errors import catch, locate_bug, to_load_test_error, trace_bug
from loadtest.run import messages
from loadtest.run.locust_stats import Feed
from loadtest.run.sequences import make_traffic
from loadtest.run.traffic import Traffic
from loadtest.run.windows import Window
from loadtest.scenarios import Arrivals

_log = logging.getLogger(__name__)
_REST_S = 0.05
_ELSEWHERE = "an error that Locust caught"


class LoadWorker:
    """One process that makes load.

    Locust logs and forgets what a user or the handler of a message raises. Here, errors that nobody expected are
    counted, and the next window takes them to the leader, which fails the run.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._exceptions: Counter[str] = Counter()
        self._said: dict[str, str] = {_ELSEWHERE: "the log of the process has its traceback"}
        self._elsewhere = False
        self._feed = Feed(environment.stats)
        self.traffic: Traffic | None = None

    def listen(self, runner: Runner) -> None:
        """Listen to the leader's messages, and feed Locust's statistics every second."""
        runner.register_message(messages.PREPARE, self._prepare)
        for message, handle in ((messages.GATHER, self._gather), (messages.BEGIN, self._begin)):
            runner.register_message(message, self._counting_errors(handle))
        runner.register_message(messages.TAKE, self._take)
        events: Any = self._environment.events
        events.user_error.add_listener(self._on_user_error)
        events.test_stop.add_listener(self._on_stop)
        events.report_to_master.add_listener(self._report_users)
        if isinstance(runner, LocalRunner):
            _show_users(runner, self)
        runner.greenlet.spawn(self._feed_every_second)

    def _on_stop(self, **_: Any) -> None:
        """Feed Locust once more. Otherwise its worker would wait for the stop timeout again before it can start."""
        self._feed_locust()
        if isinstance(self._runner(), WorkerRunner):
            self._environment.stop_timeout = 0

    def count_users(self, users: int) -> int:
        """Return how many of the process's users Locust shows."""
        return users if self.traffic is None else self.traffic.count_users(users)

    def _report_users(self, data: dict[str, Any], **_: Any) -> None:
        data["user_count"] = self.count_users(data["user_count"])
        data["user_classes_count"] = dict.fromkeys(data["user_classes_count"], data["user_count"])

    def admit(self) -> bool:
        """Return whether a new user may begin; wait a moment if not."""
        if self.traffic is None:
            gevent.sleep(_REST_S)
        return self.traffic is not None and self.traffic.admit()

    def work(self) -> None:
        """Do one turn of a user."""
        if self.traffic is None or not self._attempt(self.traffic.work):
            gevent.sleep(_REST_S)

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Do something, and return whether it succeeded; if not, its error is counted."""
        error = catch(action)
        if error is not None:
            self._count(error)
        return error is None

    def _counting_errors(self, handle: Callable[..., None]) -> Callable[..., None]:
        """Return a handler whose errors are counted, for a message that the leader expects no answer to."""

        def attempt(**message: Any) -> None:
            self._attempt(lambda: handle(**message))

        return attempt

    def _count(self, error: Exception) -> None:
        place = locate_bug(error)
        if place not in self._said:
            self._said[place] = str(error)
            _log.error(trace_bug(error))
        self._exceptions[place] += 1

    def _count_elsewhere(self) -> None:
        """Count once that Locust caught an error, such as that of a handler of our messages."""
        if log.unhandled_greenlet_exception and not self._elsewhere:
            self._exceptions[_ELSEWHERE] += 1
        self._elsewhere = log.unhandled_greenlet_exception

    def _on_user_error(self, exception: Exception, **_: Any) -> None:
        self._count(exception)

    def _runner(self) -> Any:
        return self._environment.runner

    def _prepare(self, environment: Environment, msg: Any, **_: Any) -> None:
        done: list[server.Prepared] = []
        error = catch(lambda: done.append(self._prepare_traffic(environment, msg.data["options"])))
        said = None if error is None else messages.from_error(to_load_test_error(error))
        checked = any(all(one.reference is not None for one in prepared.samples) for prepared in done)
        notes = [note for prepared in done for note in prepared.notes]
        self._runner().send_message(messages.PREPARED, {"error": said, "checked": checked, "notes": notes})

    def _prepare_traffic(self, environment: Environment, options: Mapping[str, str]) -> server.Prepared:
        """Encode the requests, and return what they are made of."""
        read = settings.from_text(options)
        prepared = server.prepare(read)
        if self.traffic is not None:
            self.traffic.close()
        runner = self._runner()
        self.traffic = make_traffic(read, prepared, process=runner.client_id, index=runner.worker_index)
        environment.stop_timeout = read.load.request_timeout_s + 1
        return prepared

    def _gather(self, **_: Any) -> None:
        if self.traffic is not None:
            self.traffic.gather()

    def _begin(self, msg: Any, **_: Any) -> None:
        traffic, order, arrivals = self.traffic, msg.data["order"], msg.data["arrivals"]
        if traffic is None:
            return
        me = self._runner().client_id
        index = order.index(me) if me in order else 0
        schedule = None if arrivals is None else Arrivals.from_message(arrivals)
        traffic.begin(schedule, index, max(len(order), 1), round=msg.data["round"])

    def _take(self, msg: Any, **_: Any) -> None:
        traffic, number = self.traffic, msg.data["round"]
        taken = {number - 1: Window(drained=traffic is None)}
        self._feed_locust()
        if traffic is not None:
            self._attempt(lambda: taken.update(traffic.take(number)))
        self._count_elsewhere()
        ended = taken[number - 1]
        ended.exceptions, self._exceptions = self._exceptions, Counter()
        ended.messages.update({place: self._said[place] for place in ended.exceptions})
        plain = [[each, window.to_message()] for each, window in taken.items()]
        self._runner().send_message(messages.WINDOWS, {"round": number, "windows": plain})

    def _feed_every_second(self) -> None:
        """Feed Locust at the end of each second of the clock, because it counts by the second."""
        while True:
            gevent.sleep(1 - time.time() % 1)
            self._feed_locust()

    def _feed_locust(self, **_: Any) -> None:
        self._attempt(self._feed_what_came)

    def _feed_what_came(self) -> None:
        stretch = self._feed.end_stretch()
        if self.traffic is None:
            return
        for (model, _version), slice in self.traffic.flush():
            self._feed.add(model, self.traffic.protocol, slice, stretch)
        if self._runner().state in (STATE_SPAWNING, STATE_RUNNING):
            self._feed.tick()


def hold_back_messages() -> Callable[[], None]:
    """Have Locust's workers read no message of the master but the first, until the result is called.

    A worker connects before Locust's event `init` sets it up, which takes a while on a busy machine. Messages of ours
    that come meanwhile would be dropped, because nobody listens to them yet. If the master sends users so early, Locust
    2.47 may even fail in the greenlet that reads the messages, and the worker never reads another one.
    """
    is_set_up = Event()
    runners: Any = WorkerRunner
    handle = runners.handle_message

    def handle_in_time(runner: WorkerRunner, msg: Any) -> None:
        if msg.type != "ack":  # which the worker waits for before it goes on
            is_set_up.wait()
        handle(runner, msg)

    runners.handle_message = handle_in_time
    return lambda: is_set_up.set()


def _show_users(runner: LocalRunner, worker: LoadWorker) -> None:
    """Have the runner of a single process show the worker's count of users, for which Locust has no event."""

    class ShowingRunner(LocalRunner):
        @property
        def user_count(self) -> int:
            return worker.count_users(len(self.user_greenlets))

    runner.__class__ = ShowingRunner
