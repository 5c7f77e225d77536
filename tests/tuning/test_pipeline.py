"""A tuning keeps each run, goes on where it stopped, writes back what it found, and is shown as it was measured."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator
from support.artifacts import scale
from support.tuned import apply_to
from support.tunings import about, measured

from builder.api import undo_tuning
from builder.cli import cli
from builder.cli.tuning import Progress, check
from builder.errors import HostError, RepositoryError, VerificationError
from builder.publishing import install
from builder.repository import Repository
from builder.tuning import Found, Goal, Measurement, Space, Step, TuneOptions, Tuning, pipeline, place_of, preparing
from builder.tuning import Result as Pooled
from builder.tuning.bench.machine import MachineFacts
from builder.tuning.measurement import Configuration, Load
from builder.tuning.preparing import refuse_wrong
from builder.tuning.simulation.simulator import Predicted
from builder.tuning.table import conclude, gather_notes
from builder.tuning.wording import say_configuration

SCHEMA = Draft202012Validator(
    json.loads((Path(__file__).parents[2] / "loadtest" / "report" / "tuning.schema.json").read_text())
)
CURRENT = Configuration(1, None, 8)
BEST = replace(CURRENT, instances=2, threads=1)
LOAD = Load(users=4)
OPTIONS = TuneOptions(Goal(0.02), runs=4)


@dataclass
class Bench:
    """A bench on which two instances are twice as fast."""

    current: Configuration = CURRENT
    version: int = 1
    config_text: str | None = None
    proven_max_batch: int = 8
    kind: str = "cpu"
    plan: tuple[Any, ...] = ()
    cores: int = 2
    is_here: bool = True
    server: str = ""
    software: dict[str, str] = field(default_factory=lambda: {"triton": "2.51.0"})
    notes: tuple[str, ...] = ("the candidate has no response cache",)
    spoilt: dict[Configuration, dict[str, Any]] = field(default_factory=dict)

    def measure(self, configuration: Configuration, load: Load) -> Measurement:
        made = measured(configuration, load, 1000.0 * configuration.instances, 0.01)
        return replace(made, **self.spoilt.get(configuration, {}))


def pooled(configuration: Configuration) -> Pooled:
    return Pooled(configuration, LOAD, about(1000.0 * configuration.instances), about(0.01), 2, keeps=True)


BETTER = Found("better", "2 instances give 100 % more", pooled(BEST), pooled(CURRENT), about(2.0))


def searching(found: Found) -> Callable[..., Found]:
    """Return a search that measures both configurations twice, and finds this."""

    def search(
        bench: Bench, space: Space, goal: Goal, *, runs: int, here: bool, done: Sequence[Measurement], observed: Any
    ) -> Found:
        assert here is bench.is_here
        steps: list[Step] = []
        earlier = list(done)
        for number, configuration in enumerate((CURRENT, BEST) * 2, 1):
            why = "to compare"
            step = Step(number, runs, configuration, LOAD, "search", why, Predicted(1100.0, 0.009, 2.0))
            observed(step)
            before = next((run for run in earlier if run.configuration == configuration), None)
            if resumed := before is not None:
                earlier.remove(before)
            run = before or bench.measure(configuration, LOAD)
            best = pooled(BEST if number > 1 else CURRENT)
            steps.append(replace(step, measurement=run, keeps=True, best=best, resumed=resumed))
            observed(steps[-1])
        return replace(found, steps=tuple(steps))

    return search


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def repository(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with a model, whose bench is not a server."""

    @contextmanager
    def open_bench(*_: Any, **__: Any) -> Iterator[Bench]:
        yield bench

    monkeypatch.setattr(pipeline, "open_bench", open_bench)
    monkeypatch.setattr(pipeline, "search", searching(BETTER))
    monkeypatch.setattr(preparing, "read_machine", lambda: MachineFacts("a CPU", 2, 8_000_000_000, "Linux 6.1", True))
    made = Repository(tmp_path / "models")
    install(made, "scale", scale(2.0))
    return made


def record_of(repository: Repository) -> dict[str, Any]:
    file = repository.root.parent / f".{repository.root.name}.tune" / "scale.tune.json"
    return dict(json.loads(file.read_text()))


def tune(repository: Repository, **more: Any) -> Tuning:
    return pipeline.tune(repository, "scale", replace(OPTIONS, **more))


# ---- The record


def test_what_a_tuning_writes_is_what_the_schema_describes(repository: Repository) -> None:
    done = tune(repository)
    assert [error.message for error in SCHEMA.iter_errors(record_of(repository))] == []
    assert record_of(repository) == json.loads(json.dumps(done.record.to_document()))
    assert record_of(repository)["found"]["best"]["configuration"]["instances"] == 2
    assert record_of(repository)["notes"] == ["the candidate has no response cache"]
    assert "+  count: 2" in record_of(repository)["config_diff"]


@pytest.mark.parametrize("is_here", [True, False])
def test_the_search_knows_whether_the_load_generator_takes_cores_of_the_server(
    is_here: bool, repository: Repository, bench: Bench
) -> None:
    bench.is_here = is_here
    assert tune(repository).found.verdict == "better"


def test_nothing_of_the_model_changes_unless_it_is_asked_for(repository: Repository) -> None:
    before = repository.model("scale").read_config()
    done = tune(repository)
    assert done.applied is None
    assert repository.model("scale").read_config() == before


def test_each_run_is_kept_before_the_next_one_and_a_tuning_goes_on_where_it_stopped(repository: Repository) -> None:
    seen: list[int] = []

    def interrupt(step: Step) -> None:
        if step.measurement is None and step.number == 3:
            seen.append(len(record_of(repository)["steps"]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.tune(repository, "scale", OPTIONS, observed=interrupt)
    assert seen == [2]
    assert record_of(repository)["found"] is None
    assert [error.message for error in SCHEMA.iter_errors(record_of(repository))] == []

    done = tune(repository)
    assert [step.resumed for step in done.found.steps] == [True, True, False, False]
    assert len(record_of(repository)["steps"]) == 4

    anew = tune(repository, is_fresh=True)
    assert not any(step.resumed for step in anew.found.steps)


def test_a_run_that_waits_to_be_used_again_is_kept_by_a_second_interruption(
    repository: Repository, bench: Bench
) -> None:
    def interrupt_at(number: int) -> None:
        def observed(step: Step) -> None:
            if step.measurement is None and step.number == number:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pipeline.tune(repository, "scale", OPTIONS, observed=observed)

    bench.spoilt = {BEST: {"others": 0.5}}
    interrupt_at(4)  # the second of three runs was disturbed
    bench.spoilt = {}
    interrupt_at(3)  # and is made again, before the third one is used again
    assert [step["measurement"]["others"] for step in record_of(repository)["steps"]] == [0.01] * 3
    assert [error.message for error in SCHEMA.iter_errors(record_of(repository))] == []

    done = tune(repository)
    assert [step.resumed for step in done.found.steps] == [True, True, True, False]
    assert len(record_of(repository)["steps"]) == 4


@pytest.mark.parametrize(
    ("spoilt", "runs"),
    [
        ({CURRENT: {"wrong": 1}}, 1),
        ({CURRENT: {"wrong": 5000}}, 1),
        ({BEST: {"wrong": 5000}}, 4),
    ],
)
def test_a_model_that_answers_wrongly_as_it_is_ends_the_tuning_at_once(
    repository: Repository, bench: Bench, spoilt: dict[Configuration, dict[str, Any]], runs: int
) -> None:
    bench.spoilt = spoilt
    if runs == 4:
        assert len(tune(repository).found.steps) == runs  # other settings are out, and no more
        return
    with pytest.raises(VerificationError, match=f"a run with {say_configuration(CURRENT)}, so nothing") as found:
        tune(repository)
    assert found.value.exit_code == 4
    assert "python -m builder verify scale" in found.value.fix
    assert len(record_of(repository)["steps"]) == runs


def test_a_first_run_whose_answers_are_nearly_all_wrong_ends_the_tuning_whatever_its_settings() -> None:
    wrong = measured(BEST, LOAD, 1000.0, 0.01, wrong=5000)
    with pytest.raises(VerificationError, match="5,000 wrong answers in a run with"):
        refuse_wrong(wrong, CURRENT, "scale", is_first=True)
    refuse_wrong(wrong, CURRENT, "scale", is_first=False)
    refuse_wrong(replace(wrong, wrong=4999), CURRENT, "scale", is_first=True)


def test_a_bucket_is_refused_with_another_way() -> None:
    with pytest.raises(RepositoryError, match="bucket") as found:
        place_of("s3://bucket/models", report=lambda *_: None, lock_timeout_s=None)
    assert "python -m builder configure NAME --repository s3://bucket/models" in found.value.fix
    with pytest.raises(RepositoryError, match="bucket") as found:
        undo_tuning("scale", "s3://bucket/models")
    assert "python -m builder rollback NAME --repository s3://bucket/models" in found.value.fix


def test_settings_of_a_version_that_is_not_served_are_not_measured_to_be_applied(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(repository, "scale", scale(4.0))
    monkeypatch.setattr(pipeline, "search", lambda *_, **__: pytest.fail("something was measured"))
    with pytest.raises(RepositoryError, match="it serves version 2, and --apply would give that") as found:
        tune(repository, version=1, apply=True)
    assert "python -m builder switch scale --to 1" in found.value.fix
    with pytest.raises(pytest.fail.Exception):  # a version that is not there is refused where it is read
        tune(repository, version=7, apply=True)


def test_notes_of_runs_name_their_runs_and_each_kind_is_said_once() -> None:
    notes = {1: "the server took 24% of the cores", 2: "the server took 30% of the cores", 3: "it was slow"}
    steps = [
        Step(number, 3, CURRENT, LOAD, "search", "", measurement=replace(Bench().measure(CURRENT, LOAD), notes=(note,)))
        for number, note in notes.items()
    ]
    found = replace(BETTER, steps=tuple(steps), notes=("the limit is near", "it was slow"))
    assert gather_notes(found) == (
        "the limit is near",
        "run 1: the server took 24% of the cores; the same in run 2",
        "run 3: it was slow",
    )


def test_that_other_programs_were_busy_is_said_once() -> None:
    run = replace(Bench().measure(CURRENT, LOAD), notes=("other programs took 46% of the machine",))
    steps = (Step(1, 3, CURRENT, LOAD, "search", "", measurement=run),)
    repeated = ("other programs took 46% of the machine during run 1",)
    assert gather_notes(replace(BETTER, steps=steps, notes=repeated)) == repeated
    several = tuple(
        f"other programs took {share}% of the machine during run {run}" for run, share in ((1, 46), (3, 20))
    )
    joined = ("other programs took up to 46% of the machine during runs 1, 3",)
    assert gather_notes(replace(BETTER, steps=steps, notes=several)) == joined
    assert gather_notes(replace(BETTER, steps=steps, notes=())) == ("run 1: other programs took 46% of the machine",)


def test_a_config_that_changed_before_its_first_run_is_not_said_to_be_measured(
    repository: Repository, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository.model("scale").config_path
    bench.config_text = path.read_text()
    path.write_text(f"# a comment\n{bench.config_text}")
    assert tune(repository).found.verdict == "better"
    path.write_text(bench.config_text.replace("count: 1", "count: 4"))
    monkeypatch.setattr(pipeline, "search", lambda *_, **__: pytest.fail("something was measured"))
    with pytest.raises(RepositoryError, match="instance_group was changed after the tuning had read it"):
        tune(repository)


# ---- The command


def run(repository: Repository, *more: str) -> Result:
    arguments = ["tune", "scale", "--max-p99-ms", "20", "--repository", str(repository.root), *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["builder", *arguments])
        return CliRunner().invoke(cli, arguments)


def test_the_command_prints_progress_to_stderr_and_the_result_to_stdout(repository: Repository) -> None:
    done = run(repository, "--runs", "4")
    assert done.exit_code == 0, done.output
    progress = [line for line in done.stderr.splitlines() if line.startswith("run ")]
    assert progress[1] == "run 2    2 instances of 1 thread, batches up to 8, 4 users: to compare"
    assert "2,000 ± 3.0% rows/s, p99 10 ms (9.4 to 10.6), mean batch 4.2; the best so far; at most" in done.stderr
    assert "scale version 1" in done.stdout
    assert "better: 2 instances give 100 % more" in done.stdout
    assert "gain: throughput +100% (+94% to +106%)" in done.stdout
    assert "+  count: 2" in done.stdout
    root = repository.root
    again = f"python -m builder tune scale --max-p99-ms 20 --repository {root} --runs 4 --apply"
    assert f"to use these settings: {again}" in done.stdout


def test_at_a_rate_the_gain_is_how_much_lower_p99_is() -> None:
    assert "gain: p99 -50% (-51% to -48%)" in [*conclude(BETTER, Goal(0.02, rate=300.0), CURRENT)]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(columns: int, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    title, rows, *_ = run(repository).stdout.split("\n\n")
    table = f"{title}\n{rows}"
    assert "current" in table
    assert max(map(len, table.splitlines())) <= columns


def test_json_is_the_whole_record(repository: Repository) -> None:
    done = run(repository, "--json")
    assert json.loads(done.stdout) == record_of(repository)


def test_a_report_has_the_record_and_a_page(repository: Repository, tmp_path: Path) -> None:
    done = run(repository, "--report-dir", str(tmp_path / "new" / "out"))
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "new" / "out" / "tune.json").read_text()) == record_of(repository)
    assert "better settings were found" in (tmp_path / "new" / "out" / "report.html").read_text()


def test_a_report_that_cannot_be_written_is_said_before_anything_is_measured(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(pipeline, "open_bench", lambda *_, **__: pytest.fail("something was measured"))
    done = run(repository, "--report-dir", str(tmp_path / "file" / "out"))
    assert isinstance(done.exception, HostError)
    assert "--report-dir" in done.exception.fix


def test_a_limit_that_nothing_keeps_fails_the_command_after_its_result(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = Found("no configuration keeps the limit", "the lowest p99 is 25 ms", None, pooled(CURRENT))
    monkeypatch.setattr(pipeline, "search", searching(replace(none, nearest=pooled(BEST))))
    done = run(repository)
    assert isinstance(done.exception, HostError)
    assert done.exception.exit_code == 6
    assert "the lowest p99 is 25 ms" in str(done.exception)
    assert done.exception.fix.startswith("give each run more time, as in --stage-time 20s, which narrows the interval")
    assert "nearest: 2 instances of 1 thread" in done.stdout


def test_undoing_says_which_server_was_not_deployed_to(repository: Repository) -> None:
    apply_to(repository)
    before = repository.model("scale").read_config()
    arguments = ["tune", "scale", "--undo", "--repository", str(repository.root)]
    refused = CliRunner().invoke(cli, [*arguments, "--server", "grpc://10.0.0.1:8001"])
    assert isinstance(refused.exception, HostError)
    assert (refused.exception.where, refused.exception.fix) == (
        "grpc://10.0.0.1:8001",
        "leave out --server grpc://10.0.0.1:8001",
    )
    assert repository.model("scale").read_config() == before
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert repository.model("scale").read_config() != before


NONE = Found("no configuration keeps the limit", "why", None, pooled(CURRENT))
SLOW = replace(pooled(BEST), p99_s=about(0.03, 0.1), throughput=about(200.0))
FEW_REQUESTS = {"p99_s": None, "requests": 50, "seconds": 50.0}
OF_RUN = replace(pooled(CURRENT), p99_s=about(0.03, 0.1))
FAULT = "correct what the notes or the server's log say about it, and run the command again"
OPEN = Goal(0.02)
LONGER = "allow a longer latency, as in --max-p99-ms 40"
ONCE = Step(1, 4, CURRENT, LOAD, "search", "to compare")


@pytest.mark.parametrize(
    ("nearest", "goal", "stage_time_s", "run", "fix"),
    [
        (SLOW, OPEN, 5.0, {}, LONGER),
        (SLOW, Goal(0.02, users=1), 5.0, {}, LONGER),
        (SLOW, Goal(0.02, users=8), 5.0, {}, f"{LONGER}, or ask for fewer users with --concurrency"),
        (SLOW, Goal(0.02, rate=100.0), 5.0, {}, f"{LONGER}, or ask for fewer requests with --rate"),
        (SLOW, Goal(0.02, rate=300.0), 5.0, {}, "ask for fewer requests with --rate"),
        (replace(SLOW, p99_s=about(0.0195, 0.1)), OPEN, 600.0, {}, "allow a longer latency, as in --max-p99-ms 26"),
        (None, OPEN, 8.0, {}, "give each run more time, as in --stage-time 32s"),
        (
            None,
            OPEN,
            5.0,
            {"p99_s": None, "requests": 50, "seconds": 50.0},
            "give each run more time, as in --stage-time 44s",
        ),
        (None, OPEN, 5.0, {"error": "it does not load"}, "correct what this names, and run the command again"),
        (None, OPEN, 5.0, {"others": 0.4}, "run the command again when no other program is busy"),
        (None, OPEN, 5.0, {"wrong": 3}, "run `python -m builder verify scale`, which shows what is wrong"),
        (None, OPEN, 5.0, {"batches": {}}, "correct what the note on the batches names, and run the command again"),
        (OF_RUN, OPEN, 5.0, {"failed": 3}, FAULT),
        (OF_RUN, OPEN, 5.0, {"unchecked": 3}, FAULT),
        (OF_RUN, Goal(0.02, rate=100.0), 5.0, {"waiting": 300}, "ask for fewer requests with --rate"),
    ],
)
def test_where_nothing_keeps_the_limit_the_fix_is_one_for_this_tuning(
    nearest: Pooled | None, goal: Goal, stage_time_s: float, run: dict[str, Any], fix: str, repository: Repository
) -> None:
    done = tune(repository, goal=goal, stage_time_s=stage_time_s)
    step = replace(ONCE, measurement=replace(Bench().measure(CURRENT, LOAD), **run))
    record = replace(done.record, found=replace(NONE, why=run.get("error", "why"), nearest=nearest, steps=(step,)))
    with pytest.raises(HostError) as error:
        check(replace(done, record=record))
    assert error.value.fix == fix


def test_the_time_that_is_left_is_that_of_the_runs_before(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.show(step := Step(1, 5, CURRENT, LOAD, "search", "why"))
    progress.show(replace(step, measurement=Bench().measure(CURRENT, LOAD)))
    assert "; at most 0 s left" in capsys.readouterr().err
    progress.show(replace(step, measurement=Bench().measure(CURRENT, LOAD), number=5))
    assert "left" not in capsys.readouterr().err


def test_a_result_that_cannot_be_written_back_any_more_is_kept_and_says_so(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository.model("scale").config_path

    def edited(*given: Any, **more: Any) -> Found:
        path.write_text(path.read_text().replace("max_batch_size: 8", "max_batch_size: 4"))
        return searching(BETTER)(*given, **more)

    monkeypatch.setattr(pipeline, "search", edited)
    done = tune(repository)
    assert done.record.config_diff == ""
    assert any("cannot be written to config.pbtxt now" in note for note in done.record.notes)
    assert record_of(repository)["found"]["verdict"] == "better"
