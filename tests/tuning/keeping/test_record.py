"""What a tuning measured is kept after every run, and used again only where it still holds."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.artifacts import scale

from builder.config import ConfigOptions
from builder.errors import RepositoryError
from builder.publishing import install, reconfigure, roll_back
from builder.repository import Repository
from builder.tuning.bench.machine import MachineFacts
from builder.tuning.keeping.conditions import Conditions, ModelFacts
from builder.tuning.keeping.record import Record
from builder.tuning.keeping.store import Resumed, tuning
from builder.tuning.measurement import BatchTimes, Configuration, Interval, Load, Measurement
from builder.tuning.search.found import Found, Step
from builder.tuning.search.goal import Goal

HERE = MachineFacts(cpu="Fast CPU", cores=2, memory=8_000_000_000, kernel="Linux 6.1", virtual=False)
ROWS = ((1, 8.0), (16, 0.5))
GOAL = Goal(0.02, users=16, rows=ROWS)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "models")
    install(repository, "scale", scale())
    return repository


def conditions(repository: Repository, **changes: Any) -> Conditions:
    model = ModelFacts.of(repository.model("scale"), repository.model("scale").served_version())
    made = Conditions(model, GOAL, 5.0, "grpc", None, HERE, {"tritonserver": "2.51.0"})
    return replace(made, **changes)


def measured(throughput: float = 100.0) -> Measurement:
    return Measurement(
        configuration=Configuration(2, None, 8, preferred=(2, 4), delay_us=100),
        load=Load(users=16, rows=ROWS),
        throughput=Interval(throughput, throughput - 1 / 3, throughput + 1e-9),
        p99_s=None,
        requests=1000,
        batches={1: BatchTimes(10, 0.1 + 0.2), 16: BatchTimes(3, 1e-7)},
        server_cpu_s=None,
        others=0.01,
        notes=("größer",),
    )


def record(under: Conditions, *measurements: Measurement) -> Record:
    steps = tuple(
        Step(n, 10, m.configuration, m.load, "search", f"try {n}", measurement=m) for n, m in enumerate(measurements, 1)
    )
    last = Step(len(steps) + 1, 10, Configuration(1, 1, 8), Load(users=16), "search", "begun, and interrupted")
    return Record("scale", under, Configuration(1, None, 8), 10, "2026-11-28T03:00:00+00:00", steps=(*steps, last))


def write(repository: Repository, under: Conditions, *measurements: Measurement) -> None:
    with tuning(repository, "scale", "tune scale") as store:
        store.resume(under)
        store.write(record(under, *measurements))


def resume(repository: Repository, under: Conditions, *, is_fresh: bool = False) -> Resumed:
    with tuning(repository, "scale", "tune scale") as store:
        return store.resume(under, is_fresh=is_fresh)


def folder(repository: Repository) -> Path:
    return repository.root.parent / ".models.tune"


def test_a_tuning_goes_on_after_its_last_measurement_to_the_last_bit(repository: Repository) -> None:
    now = conditions(repository)
    assert resume(repository, now) == Resumed()
    write(repository, now, measured(), measured(200.0))

    again = resume(repository, now)

    assert again == Resumed((measured(), measured(200.0)), "2026-11-28T03:00:00+00:00")


def test_the_file_has_the_keys_of_the_dataclasses_and_the_runs_once(repository: Repository) -> None:
    under = conditions(repository)
    found = Found("as it is", "nothing is better", None, None, steps=record(under, measured()).steps)

    document = json.loads(json.dumps(replace(record(under, measured()), found=found).to_document(), allow_nan=False))

    assert list(document) == [
        "schema", "builder", "name", "started", "finished", "model", "goal", "stage_time_s", "protocol", "server",
        "machine", "software", "fixed", "current", "runs", "steps", "found", "config_diff", "applied", "notes",
    ]  # fmt: skip
    assert document["steps"][0]["measurement"]["batches"] == {
        "1": {"count": 10, "seconds": 0.1 + 0.2},
        "16": {"count": 3, "seconds": 1e-7},
    }
    assert "steps" not in document["found"]
    assert document["found"]["verdict"] == "as it is"


@pytest.mark.parametrize(
    ("spoilt", "what"),
    [
        ({"others": 0.3}, "1 that other programs disturbed"),
        ({"error": "the server ended"}, "1 that gave no figures"),
        ({"wrong": 1}, "1 with wrong answers"),
        ({"failed": 1}, "1 without all answers"),
        ({"unchecked": 1}, "1 without all answers"),
    ],
)
def test_a_run_that_something_disturbed_is_measured_again(
    repository: Repository, spoilt: dict[str, Any], what: str
) -> None:
    now = conditions(repository)
    write(repository, now, replace(measured(), **spoilt), measured(200.0))

    again = resume(repository, now)

    assert again.done == (measured(200.0),)
    assert again.notes == (f"earlier runs that are measured again: {what}",)


def test_a_tuning_that_found_something_better_is_not_measured_again_to_be_applied(repository: Repository) -> None:
    now, disturbed = conditions(repository), replace(measured(), others=0.3)
    better = replace(record(now, disturbed, measured(200.0)), found=Found("better", "it is", None, None))
    with tuning(repository, "scale", "tune scale") as store:
        store.write(better)

    assert resume(repository, now) == Resumed((disturbed, measured(200.0)), better.started)


Change = Callable[[Repository], Conditions]

OTHERS: dict[str, tuple[Change, str]] = {
    "limit": (lambda r: conditions(r, goal=Goal(0.01, users=16, rows=ROWS)), "the limit was 20 ms, and is 10 ms now"),
    "users": (lambda r: conditions(r, goal=Goal(0.02, rows=ROWS)), "load was 16 users, and is part of the answer now"),
    "rows": (lambda r: conditions(r, goal=Goal(0.02, users=16)), "had rows of 1=8,16=0.5, and have 1 row now"),
    "time": (lambda r: conditions(r, stage_time_s=2.0), "a run took 5 s, and takes 2 s now"),
    "protocol": (lambda r: conditions(r, protocol="http"), "were sent over grpc, and are sent over http now"),
    "server": (lambda r: conditions(r, server="grpc://a:1"), "the embedded server was measured, and grpc://a:1 is"),
    "cpu": (lambda r: conditions(r, machine=replace(HERE, cpu="Slow")), "2 cores of Fast CPU, and it has 2 of Slow"),
    "memory": (lambda r: conditions(r, machine=replace(HERE, memory=16_000_000_000)), "had 8 GB of memory"),
    "kernel": (lambda r: conditions(r, machine=replace(HERE, kernel="Linux 7")), "the kernel was Linux 6.1"),
    "software": (lambda r: conditions(r, software={"tritonserver": "2.60.0"}), "tritonserver was 2.51.0, and is 2.60"),
    "fixed": (lambda r: conditions(r, fixed=("b has 2 users",)), "held fixed was: nothing; now it is: b has 2 users"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_measurements_of_other_conditions_are_kept_but_not_used_and_it_is_said_what_differs(
    repository: Repository, name: str
) -> None:
    change, what = OTHERS[name]
    write(repository, conditions(repository), measured())
    other = change(repository)

    anew = resume(repository, other)

    assert (anew.done, anew.started) == ((), None)
    (note,) = anew.notes
    assert note.startswith("the measurements of 2026-11-28T03:00:00+00:00 are kept, but not used: ")
    assert what in note
    write(repository, other, measured(300.0))
    assert resume(repository, conditions(repository)).done == (measured(),)
    assert resume(repository, other).done == (measured(300.0),)


def test_another_config_or_version_is_another_tuning_and_a_comment_is_not(repository: Repository) -> None:
    write(repository, conditions(repository), measured())
    path = repository.model("scale").config_path
    path.write_text(f"# a comment\n{path.read_text()}")
    assert resume(repository, conditions(repository)).done == (measured(),)

    reconfigure(repository, "scale", ConfigOptions(instances=2))
    note = resume(repository, conditions(repository)).notes[0]
    assert note.endswith("config.pbtxt has another instance_group now")

    roll_back(repository, "scale")
    assert resume(repository, conditions(repository)).done == (measured(),)
    install(repository, "scale", scale(3.0))
    assert "version 1 was measured, and it is version 2 now" in resume(repository, conditions(repository)).notes[0]


def test_fresh_measures_anew_and_keeps_what_there_was(repository: Repository) -> None:
    now = conditions(repository)
    write(repository, now, measured())

    anew = resume(repository, now, is_fresh=True)

    assert anew == Resumed(notes=("the earlier measurements are kept, but not used: --fresh",))
    assert (folder(repository) / "scale.tune-1.json").exists()
    assert resume(repository, now, is_fresh=True) == Resumed()


def test_only_nine_earlier_records_are_kept_the_newest_first(repository: Repository) -> None:
    for number in range(12):
        write(repository, conditions(repository, stage_time_s=1.0 + number), measured(1.0 + number))

    names = sorted(path.name for path in folder(repository).glob("*.json"))
    assert names == [*(f"scale.tune-{number}.json" for number in range(1, 10)), "scale.tune.json"]
    assert json.loads((folder(repository) / "scale.tune-1.json").read_text())["stage_time_s"] == 11.0
    assert resume(repository, conditions(repository, stage_time_s=4.0)).done == (measured(4.0),)
    assert resume(repository, conditions(repository, stage_time_s=1.0)).done == ()


def damage(document: dict[str, Any], name: str) -> str:
    step = document["steps"][0]["measurement"]
    if name == "half":
        return json.dumps(document)[:200]
    if name == "binary":
        return "\udcff"
    changes: dict[str, Callable[[], object]] = {
        "schema": lambda: document.update(schema=2),
        "other model": lambda: document.update(name="other"),
        "no steps": lambda: document.pop("steps"),
        "text for a number": lambda: step.update(requests="many"),
        "negative": lambda: step.update(wrong=-1),
        "interval": lambda: step["throughput"].update(low=1e9),
        "no p99": lambda: step.update(p99_s={"value": 0.0, "low": 0.0, "high": 1.0}),
        "before its time": lambda: step.update(latency_s=-1.0),
        "more than all": lambda: step.update(others=1.5),
        "no rows": lambda: step.update(batches={"0": {"count": 1, "seconds": 1.0}}),
        "in no time": lambda: step.update(batches={"1": {"count": 1, "seconds": 0.0}}),
        "no instance": lambda: step["configuration"].update(instances=0),
        "size": lambda: step.update(batches={"x": {"count": 1, "seconds": 1.0}}),
        "rows": lambda: step["load"].update(rows=[[1, 2, 3]]),
        "goal": lambda: document["goal"].update(rate=1.0),
    }
    changes[name]()
    return json.dumps(document)


@pytest.mark.parametrize(
    "name",
    ["half", "binary", "schema", "other model", "no steps", "text for a number", "negative", "interval", "no p99",
     "before its time", "more than all", "no rows", "in no time", "no instance", "size", "rows", "goal"],
)  # fmt: skip
def test_a_damaged_record_is_refused_with_a_way_on(repository: Repository, name: str) -> None:
    now = conditions(repository)
    write(repository, now, measured())
    path = folder(repository) / "scale.tune.json"
    path.write_bytes(damage(json.loads(path.read_text()), name).encode(errors="surrogateescape"))

    with pytest.raises(RepositoryError, match="this record cannot be read") as caught:
        resume(repository, now)

    assert (caught.value.where, caught.value.fix) == (
        str(path),
        "delete the file, or tune with --fresh, which keeps it aside",
    )
    assert resume(repository, now, is_fresh=True).done == ()
    assert (folder(repository) / "scale.tune-1.json").exists()


def test_a_link_in_place_of_a_record_is_not_followed(repository: Repository, tmp_path: Path) -> None:
    now = conditions(repository)
    write(repository, now, measured())
    path = folder(repository) / "scale.tune.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    before = (tmp_path / "elsewhere.json").read_bytes()

    with pytest.raises(RepositoryError, match="cannot be read"):
        resume(repository, now)
    with tuning(repository, "scale", "tune scale") as store:
        store.write(record(now))
    assert (tmp_path / "elsewhere.json").read_bytes() == before


def test_a_model_that_does_not_exist_creates_nothing(repository: Repository) -> None:
    with pytest.raises(RepositoryError, match="no such model"), tuning(repository, "missing", "tune missing"):
        pass
    assert not folder(repository).exists()
