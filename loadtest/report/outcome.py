"""End a run: write the report, set the exit code, and print a summary."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from locust import log
from locust.env import Environment

from loadtest.console import NO_FIGURE, print_error, print_line, print_note, to_ms
from loadtest.errors import LoadTestError, catch, to_load_test_error
from loadtest.printable import counted
from loadtest.report import files
from loadtest.report.markdown import refusal_to_markdown, to_markdown
from loadtest.report.result import Ended, Result, make_result
from loadtest.report.search import to_percent
from loadtest.report.verdict import describe_pass
from loadtest.run import Leader, Run, append

_PASSED = "PASSED"

heard: list[Callable[[Mapping[str, object]], object]] = []
"""Called with the result of each run, when it has ended."""


class Outcome:
    """The outcome of the leader's run."""

    def __init__(self, environment: Environment, leader: Leader) -> None:
        self._environment = environment
        self._leader = leader
        self._error: LoadTestError | None = None
        self._result: Result | None = None
        self._lines: list[str] = []
        self._ended: Run | None = None
        self._watched: tuple[Run, Ended] | None = None

    def listen(self) -> None:
        """Listen to Locust's events."""
        events: Any = self._environment.events
        events.test_stop.add_listener(self._on_stop)
        events.quitting.add_listener(self._on_quitting)
        events.quit.add_listener(self._on_quit)

    def now(self) -> Result | None:
        """Return the result so far; None before the first run."""
        run = self._leader.run
        if run is None:
            return None
        if self._watched is None or self._watched[0] is not run:
            self._watched = (run, Ended())
        return make_result(*self._watched)

    @property
    def is_over(self) -> bool:
        """Whether the newest run has ended."""
        return self._leader.run is not None and self._leader.run is self._ended

    def end(self) -> None:
        """End a run that has no user any more or never had one, for which Locust sends no event."""
        runner = self._environment.runner
        if runner is not None and runner.user_count == 0:
            self._on_stop()

    def _on_stop(self, **_: Any) -> None:
        run = self._leader.run
        if run is None or run is self._ended:
            return
        self._ended, self._result, self._lines = run, None, []
        error = catch(lambda: self._conclude(run))
        self._error = None if error is None else to_load_test_error(error)

    def _conclude(self, run: Run) -> None:
        """Work out the result, and write the files that the options ask for."""
        self._result = make_result(run)
        self._lines = summarize(self._result)
        for hear in heard:
            hear(self._result)
        _write(run, self._result)

    def _on_quitting(self, **_: Any) -> None:
        run = self._leader.run
        if self._ended is None:
            if self._environment.web_ui is not None:
                return
            self._on_stop()
        if self._error is None and log.unhandled_greenlet_exception:  # which Locust logs, and forgets
            what = "an error that nobody expected is in the log"
            self._error = LoadTestError("the load test", what, "please report it")
        error = self._error or (run.error if run else None)
        if error is not None:
            self._environment.process_exit_code = error.exit_code
        else:
            passed = self._result is not None and self._result["verdict"]["passed"]
            self._environment.process_exit_code = 0 if passed else 1

    def _on_quit(self, **_: Any) -> None:
        lines = [line for line in self._lines if self._error is None or not line.startswith(_PASSED)]
        unwritten = catch(lambda: _print(lines))
        if unwritten is not None:  # the verdict must be somewhere
            print_error(to_load_test_error(unwritten))
            for line in lines:
                print_note(line)
        if self._error is not None:
            print_error(self._error)


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print_line(line)


def print_refusal(error: LoadTestError, markdown: str) -> None:
    """Print why a run does not start, and append it to the file of `--markdown`, if there is one."""
    print_error(error)
    if not markdown:
        return
    other = catch(lambda: append(Path(markdown), f"\n{refusal_to_markdown(error)}"))
    if other is not None and str(other) != str(error):
        print_error(to_load_test_error(other))


def _write(run: Run, result: Result) -> None:
    """Write the files that the options ask for."""
    if run.settings.report_dir is not None:
        examples = [example for window in run.all_windows() for example in window.examples]
        files.write(run.settings.report_dir, result, examples)
    if run.settings.markdown is not None:
        append(run.settings.markdown, f"\n{to_markdown(result)}")


_BROKEN = {"failed": "failed", "ended_early": "ended early"}


def summarize(result: Result) -> list[str]:
    """Return a line for each stage, the knee, the notes, and at the end the verdict with its reasons."""
    lines = [line for stage in result["stages"] for line in (_stage_line(stage), *_model_lines(stage))]
    if result["knee"] is not None and len(result["stages"]) > 1:
        knee = result["knee"]
        lines.append(f"knee: {knee['stage']}, {knee['throughput_rows_per_s']:g} rows/s")
        if knee["best_within_p99"] is not None:
            best = knee["best_within_p99"]
            lines.append(f"best within the p99 limit: {best['stage']}, {best['throughput_rows_per_s']:g} rows/s")
    if result["search"] is not None:
        lines += result["search"]["summary"]
    lines += [f"note: {note}" for note in result["notes"]]
    if result["verdict"]["passed"]:
        return [*lines, f"{_PASSED}: {describe_pass(result)}"]
    return [*lines, *(f"FAILED: {reason}" for reason in result["verdict"]["reasons"])]


def _stage_line(stage: Result) -> str:
    latency = stage["latency_us"]
    return (
        f"{stage['name']}: {stage['throughput_rows_per_s']:g} rows/s"
        f"{_between(stage['intervals']['throughput_rows_per_s'], _four)}, {counted(stage['requests'], 'request')}, "
        f"p50 {_ms(latency['p50'])}, p99 {_ms(latency['p99'])}{_between(_find_p99_interval(stage), to_ms)}, "
        f"{sum(stage['failures'].values())} failed, {sum(stage['wrong'].values())} wrong"
        f"{_goodput(stage)}{_sequences(stage)}"
    )


def _between(interval: Sequence[float] | None, write: Callable[[float], str]) -> str:
    """Return the 95 % interval of the figure before it: ` (1198 to 1271)`; empty if there is none."""
    return "" if interval is None else f" ({write(interval[0])} to {write(interval[1])})"


def _find_p99_interval(stage: Result) -> Sequence[float] | None:
    """Return the interval of the answers' p99: that of all requests, unless failed ones make theirs another figure."""
    interval: Sequence[float] | None = stage["intervals"]["p99_us"]
    return interval if stage["p99_of_requests_us"] == stage["latency_us"]["p99"] else None


def _four(rows_per_s: float) -> str:
    """Return a throughput to four digits: `0.1234`, `812.3`, `1198`, `123400`."""
    return f"{float(f'{rows_per_s:.4g}'):g}"


def _sequences(stage: Result) -> str:
    ended = stage["sequences"]
    if ended is None:
        return ""
    rest = "".join(f", {ended[how]} {said}" for how, said in _BROKEN.items() if ended[how])
    return f", {counted(ended['completed'], 'sequence')} completed{rest}"


def _model_lines(stage: Result) -> list[str]:
    """Return a line for each model on the server, if there are several."""
    return [
        f"    {model['name']} version {model['version']}: queue {_ms(model['queue_us'])}, "
        f"inference {_ms(model['compute_infer_us'])}, {counted(model['executions'], 'execution')}, "
        f"{model['mean_batch']:g} rows each"
        for model in (stage["server"] or {}).get("models", ())
    ]


def _goodput(stage: Result) -> str:
    return "" if stage["goodput"] is None else f", goodput {to_percent(stage['goodput'])}"


def _ms(value_us: float | None) -> str:
    """Return a time in words; there is none for a percentile of too few answers."""
    return NO_FIGURE if value_us is None else f"{to_ms(value_us)} ms"
