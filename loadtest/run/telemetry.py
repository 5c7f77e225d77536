"""Export what is measured over OpenTelemetry, if Locust was started with `--otel`.

Locust sets OpenTelemetry up, as its documentation says, and offers a histogram of durations, which it fills from its
`request` event. Ours are not fired for each request, so this module fills the same histogram from the windows of all
processes, in the process that leads them. That costs some microseconds per answer, so it is done little by little
beside the load.

Source: https://docs.locust.io/en/stable/telemetry.html
"""

from collections.abc import Callable
from typing import Any

import gevent
from gevent.queue import JoinableQueue
from locust import events, main
from locust.env import Environment
from locust.event import EventHook

from loadtest.errors import SettingsError
from loadtest.run.tallies import Tally
from loadtest.run.windows import Window

_AT_ONCE = 100
"""How many durations are recorded before the load gets its turn."""

_LONGEST_REST_S = 60.0


def postpone_set_up() -> Callable[..., None]:
    """Have Locust set OpenTelemetry up only when the result is called, once, with what Locust's event `init` gives.

    Locust would do so before it forks the workers of `--processes`. There, OpenTelemetry starts its threads anew, but
    under gevent those from before the fork go on as well; Python does not know them any more, and at the end each of
    them fails with a KeyError.
    """
    asked: list[Callable[[], object]] = []
    locust: Any = main
    make_hook: Any = EventHook
    set_up = locust.setup_opentelemetry
    locust.setup_opentelemetry = lambda *arguments: asked.append(lambda: set_up(*arguments))

    def now(**init: Any) -> None:
        kept, events.init = events.init, make_hook()  # takes Locust's listeners: it is too late for them to be told
        for action in asked:
            action()
        late: Any = events.init
        events.init = kept
        late.fire(**init)

    return now


class Telemetry:
    """Records windows in OpenTelemetry's instruments.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """

    def __init__(self) -> None:
        try:
            import opentelemetry.sdk.metrics  # noqa: F401 - the API alone exports nothing
            from opentelemetry import metrics
        except ImportError as error:
            what = "OpenTelemetry's SDK is not installed"
            raise SettingsError(
                "--otel", what, "run: pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
            ) from error
        meter, ours = metrics.get_meter("locust"), metrics.get_meter("loadtest")
        self._durations = meter.create_histogram(  # the one that Locust makes: same name, unit and description
            "locust.client.duration", unit="s", description="Time to last byte for requests"
        )
        self._rows = ours.create_counter("loadtest.rows", unit="{row}", description="Rows answered")
        self._failed = ours.create_counter("loadtest.failures", unit="{request}", description="Requests without answer")
        self._wrong = ours.create_counter("loadtest.wrong", unit="{answer}", description="Wrong answers")
        self._waiting: Any = JoinableQueue()

    def listen(self, environment: Environment) -> None:
        """Record windows from now on; Locust quits when all of them are recorded."""
        ours: Any = environment.events
        ours.quitting.add_listener(lambda **_: self._waiting.join(_LONGEST_REST_S))
        gevent.spawn(self._record)

    def add(self, window: Window) -> None:
        """Have a window recorded."""
        self._waiting.put(window)

    def _record(self) -> None:
        while True:
            window = self._waiting.get()
            for (model, version), tally in window.tallies.items():
                self._record_tally({"name": model, "version": version}, tally)
            self._waiting.task_done()

    def _record_tally(self, attributes: dict[str, str], tally: Tally) -> None:
        self._rows.add(tally.rows, attributes)
        for counter, kinds in ((self._failed, tally.failures), (self._wrong, tally.wrong)):
            for kind, count in kinds.items():
                counter.add(count, {**attributes, "error.type": kind})
        recorded = 0
        for time_us, count in tally.latency_us.counts():
            for _ in range(count):
                self._durations.record(time_us / 1e6, attributes)
                recorded += 1
                if recorded % _AT_ONCE == 0:
                    gevent.sleep(0)
