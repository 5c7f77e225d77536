"""The end of a run: its result, report, exit code, and the last lines on the terminal."""

import sys
from typing import Any

from locust.env import Environment

from loadtest.errors import LoadTestError
from loadtest.report import files as report
from loadtest.report.result import Result, make_result
from loadtest.run.conductor import Leader


class Outcome:
    """What became of the leader's run."""

    def __init__(self, environment: Environment, leader: Leader) -> None:
        self._environment = environment
        self._leader = leader
        self._fault: LoadTestError | None = None
        self._result: Result | None = None

    def listen(self) -> None:
        """Follow Locust's own events."""
        events: Any = self._environment.events
        events.test_stop.add_listener(self._on_stop)
        events.quitting.add_listener(self._on_quitting)
        events.quit.add_listener(self._on_quit)

    def now(self) -> Result | None:
        """The result so far; None before the first run."""
        return None if self._leader.run is None else make_result(self._leader.run)

    def _on_stop(self, **_: Any) -> None:
        run = self._leader.run
        if run is None:
            return
        self._result = make_result(run)
        if run.settings.report_dir is not None:
            windows = (window for record in run.records for window in (record.discarded, record.measured))
            examples = [example for window in windows for example in window.examples]
            try:
                report.write(run.settings.report_dir, self._result, examples)
            except LoadTestError as error:
                self._fault = error

    def _on_quitting(self, **_: Any) -> None:
        run = self._leader.run
        if self._result is None:
            if self._environment.web_ui is not None:
                return
            self._on_stop()  # Locust does not stop what had no user yet, as when a worker could not be prepared
        fault = self._fault or (run.fault if run else None)
        if fault is not None:
            self._environment.process_exit_code = fault.exit_code
        else:
            passed = self._result is not None and self._result["verdict"]["passed"]
            self._environment.process_exit_code = 0 if passed else 1

    def _on_quit(self, **_: Any) -> None:
        if self._result is None:
            return
        for line in last_words(self._result):
            print(line)
        if self._fault is not None:
            print(f"error: {self._fault}", file=sys.stderr)
        sys.stdout.flush()


def last_words(result: Result) -> list[str]:
    """A line per stage, the knee, the notes, and at the end the verdict and why."""
    lines = [_stage_line(stage) for stage in result["stages"]]
    if result["knee"] is not None and len(result["stages"]) > 1:
        knee = result["knee"]
        lines.append(f"knee: {knee['stage']}, {knee['throughput_rows_per_s']:g} rows/s")
        if knee["best_within_p99"] is not None:
            best = knee["best_within_p99"]
            lines.append(f"best within the p99 limit: {best['stage']}, {best['throughput_rows_per_s']:g} rows/s")
    lines += [f"note: {note}" for note in result["notes"]]
    if result["verdict"]["passed"]:
        answers = "every answer that was checked was right" if result["run"]["checked"] else "answers were not checked"
        return [*lines, f"PASSED: {answers}, and every limit held"]
    return [*lines, *(f"FAILED: {reason}" for reason in result["verdict"]["reasons"])]


def _stage_line(stage: Result) -> str:
    latency = stage["latency_us"]
    return (
        f"{stage['name']}: {stage['throughput_rows_per_s']:g} rows/s, {stage['requests']} requests, "
        f"p50 {latency['p50']} us, p99 {latency['p99']} us, {sum(stage['failures'].values())} failed, "
        f"{sum(stage['wrong'].values())} wrong"
    )
