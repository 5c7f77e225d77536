"""A process that makes load, as the leader's messages tell it to."""

import time
from collections import Counter
from typing import Any

from locust.env import Environment
from locust.runners import Runner
from locust.stats import StatsEntry, bucket_response_time

from loadtest import server, settings
from loadtest.errors import LoadTestError
from loadtest.printable import printable
from loadtest.run import messages
from loadtest.run.traffic import Traffic
from loadtest.run.windows import Tally
from loadtest.scenarios import Arrivals


class LoadWorker:
    """One process that makes load."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.traffic: Traffic | None = None

    def listen(self, runner: Runner) -> None:
        """Listen to the leader's messages."""
        runner.register_message(messages.PREPARE, self._prepare)
        runner.register_message(messages.BEGIN, self._begin)
        runner.register_message(messages.TAKE, self._take)

    def _runner(self) -> Any:
        return self._environment.runner

    def _prepare(self, environment: Environment, msg: Any, **_: Any) -> None:
        error_message, checked = None, False
        try:
            read = settings.from_text(msg.data["options"])
            samples = server.prepare(read)
            checked = all(one.reference is not None for one in samples)
            if self.traffic is not None:
                self.traffic.close()
            runner = self._runner()
            self.traffic = Traffic(read, samples, process=runner.client_id, index=runner.worker_index)
            environment.stop_timeout = read.load.request_timeout_s + 1
        except LoadTestError as error:
            error_message = messages.from_error(error)
        self._runner().send_message(messages.PREPARED, {"error": error_message, "checked": checked})

    def _begin(self, msg: Any, **_: Any) -> None:
        if self.traffic is None:
            return
        order = msg.data["order"]
        me = self._runner().client_id
        index = order.index(me) if me in order else 0
        arrivals = msg.data["arrivals"]
        self.traffic.begin(None if arrivals is None else Arrivals.from_message(arrivals), index, max(len(order), 1))

    def _take(self, msg: Any, **_: Any) -> None:
        if self.traffic is None:
            return
        window = self.traffic.take()
        protocol = self.traffic.protocol
        for (model, _version), tally in window.tallies.items():
            feed_locust(self._environment, model, protocol, tally)
        data = {"round": msg.data["round"], "window": window.to_message()}
        self._runner().send_message(messages.WINDOW, data)


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
