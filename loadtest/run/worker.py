"""A process that makes load, as the leader's messages tell it to."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import Runner
from locust.stats import StatsEntry, bucket_response_time

from loadtest import server, settings
from loadtest.errors import catch, locate_bug, to_load_test_error, trace_bug
from loadtest.printable import printable
from loadtest.run import messages
from loadtest.run.traffic import Traffic
from loadtest.run.windows import Tally, Window
from loadtest.scenarios import Arrivals

_log = logging.getLogger(__name__)
_REST_S = 0.05


class LoadWorker:
    """One process that makes load.

    Locust logs and forgets what a user or the handler of a message raises. Here, errors that nobody expected are
    counted, and the next window takes them to the leader, which fails the run.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._exceptions: Counter[str] = Counter()
        self._said: dict[str, str] = {}
        self.traffic: Traffic | None = None

    def listen(self, runner: Runner) -> None:
        """Listen to the leader's messages."""
        runner.register_message(messages.PREPARE, self._prepare)
        runner.register_message(messages.BEGIN, self._begin)
        runner.register_message(messages.TAKE, self._take)
        events: Any = self._environment.events
        events.user_error.add_listener(self._on_user_error)

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

    def _count(self, error: Exception) -> None:
        place = locate_bug(error)
        if place not in self._said:
            self._said[place] = str(error)
            _log.error(trace_bug(error))
        self._exceptions[place] += 1

    def _on_user_error(self, exception: Exception, **_: Any) -> None:
        self._count(exception)

    def _runner(self) -> Any:
        return self._environment.runner

    def _prepare(self, environment: Environment, msg: Any, **_: Any) -> None:
        checked: list[bool] = []
        error = catch(lambda: checked.append(self._prepare_traffic(environment, msg.data["options"])))
        said = None if error is None else messages.from_error(to_load_test_error(error))
        self._runner().send_message(messages.PREPARED, {"error": said, "checked": any(checked)})

    def _prepare_traffic(self, environment: Environment, options: Mapping[str, str]) -> bool:
        """Encode the requests, and return whether there is a right answer to each of them."""
        read = settings.from_text(options)
        samples = server.prepare(read)
        if self.traffic is not None:
            self.traffic.close()
        runner = self._runner()
        self.traffic = Traffic(read, samples, process=runner.client_id, index=runner.worker_index)
        environment.stop_timeout = read.load.request_timeout_s + 1
        return all(one.reference is not None for one in samples)

    def _begin(self, msg: Any, **_: Any) -> None:
        traffic, order, arrivals = self.traffic, msg.data["order"], msg.data["arrivals"]
        if traffic is None:
            return
        me = self._runner().client_id
        index = order.index(me) if me in order else 0
        schedule = None if arrivals is None else Arrivals.from_message(arrivals)
        self._attempt(lambda: traffic.begin(schedule, index, max(len(order), 1)))

    def _take(self, msg: Any, **_: Any) -> None:
        taken = [Window(drained=self.traffic is None)]
        if self.traffic is not None:
            traffic = self.traffic
            self._attempt(lambda: taken.append(traffic.take()))
            self._attempt(lambda: self._feed_locust(taken[-1], traffic.protocol))
        window = taken[-1]
        window.exceptions, self._exceptions = self._exceptions, Counter()
        window.messages.update({place: self._said[place] for place in window.exceptions})
        data = {"round": msg.data["round"], "window": window.to_message()}
        self._runner().send_message(messages.WINDOW, data)

    def _feed_locust(self, window: Window, protocol: str) -> None:
        for (model, _version), tally in window.tallies.items():
            feed_locust(self._environment, model, protocol, tally)


def feed_locust(environment: Environment, model: str, protocol: str, tally: Tally) -> None:
    """Add a window to Locust's own statistics, which count milliseconds, without an event for each request."""
    stats, model = environment.stats, printable(model)
    if tally.requests:
        entry = _to_locust(stats, model, protocol, tally)
        stats.get(model, protocol).extend(entry)
        stats.total.extend(entry)
    for kind, times in tally.failures.items():
        for _ in range(times):
            stats.log_request(protocol, model, 0, 0)
            stats.log_error(protocol, model, printable(kind))
    for kind, times in tally.wrong.items():
        for _ in range(times):
            stats.log_error(protocol, model, f"wrong answer: {printable(kind)}")


def _to_locust(stats: Any, model: str, protocol: str, tally: Tally) -> StatsEntry:
    now = time.time()
    buckets: Counter[int] = Counter()
    for value_us, count in tally.latency_us.counts():
        buckets[int(bucket_response_time(value_us / 1000))] += count
    entry = StatsEntry(stats, model, protocol)
    entry.num_requests = tally.requests
    entry.last_request_timestamp = now
    entry.num_reqs_per_sec = {int(now): tally.requests}
    entry.response_times = dict(buckets)
    entry.total_response_time = round(tally.latency_us.mean_us * tally.requests / 1000)
    entry.min_response_time = min(buckets)
    entry.max_response_time = round(tally.latency_us.max_us / 1000)
    return entry
