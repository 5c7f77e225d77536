"""All models of a server are under load for the same time, and each gets the result that holds for all of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.tunings import document as tuning_document

from builder.errors import VerificationError
from builder.tuning import Configuration, Goal, Interval, Load, Measurement, TuneOptions, table
from builder.tuning.search.found import Found, Result
from builder.tuning.search.sharing import Shared, Turn
from builder.tuning.together import found_of, measure_all, refusing_wrong, summary_of
from loadtest.report import read_schema

NOW, THEN = Configuration(1, 1, 8), Configuration(2, 1, 8)
LOAD = Load(users=4)
OPTIONS = TuneOptions(Goal(0.02, users=4))


@dataclass
class Ended:
    cpu_s: float = 0.1


@dataclass
class Bench:
    """A bench whose load test takes as long as its model needs; it writes down what it is told."""

    name: str
    needs_s: float
    told: list[str]
    stage_time_s: float = 1.0
    problem: str | None = None
    error: str = ""
    process: int | None = None
    running: bool = field(default=False)

    def prepare(self) -> None: ...

    def load(self, configuration: Configuration) -> str | None:
        return self.problem

    def start(self, load: Load) -> None:
        self.told.append(f"start {self.name}")
        self.running = True

    def wait(self) -> Ended:
        self.told.append(f"wait {self.name}")
        return Ended()

    def stop(self) -> None:
        self.running = False

    def read(self, ended: Ended, configuration: Configuration, load: Load, busy: object) -> Measurement:
        return Measurement(
            configuration,
            load,
            None,
            None,
            seconds=0.0 if self.error else max(self.needs_s, self.stage_time_s),
            server_cpu_s=1,
            error=self.error,
        )


def benches(told: list[str], *, slow_s: float = 1.0) -> dict[str, Any]:
    return {"a": Bench("a", 1.0, told), "b": Bench("b", slow_s, told)}


WANTED: Mapping[str, tuple[Configuration, Load]] = {"a": (NOW, LOAD), "b": (THEN, LOAD)}


def test_all_load_tests_run_at_the_same_time() -> None:
    told: list[str] = []
    found = measure_all(benches(told), WANTED)
    assert told == ["start a", "start b", "wait a", "wait b"]
    assert {name: one.configuration for name, one in found.items()} == {"a": NOW, "b": THEN}
    assert {one.server_cpu_s for one in found.values()} == {None}  # it is that of all models


def test_a_slow_model_is_not_measured_after_the_others_have_ended() -> None:
    told: list[str] = []
    of_all = benches(told, slow_s=5.0)
    found = measure_all(of_all, WANTED)
    assert {one.seconds for one in found.values()} == {5.0}
    assert len(told) == 8
    told.clear()
    measure_all(of_all, WANTED)
    assert len(told) == 4  # the time is known by now


def test_a_configuration_that_does_not_load_is_an_error_of_all() -> None:
    told: list[str] = []
    of_all = benches(told)
    of_all["b"].problem = "no memory"
    found = measure_all(of_all, WANTED)
    assert not told
    assert {name: one.error for name, one in found.items()} == {
        "a": "b beside it does not load: no memory",
        "b": "no memory",
    }


def test_an_interrupted_run_stops_every_load_test(monkeypatch: pytest.MonkeyPatch) -> None:
    of_all = benches([])

    def interrupted() -> Ended:
        raise KeyboardInterrupt

    of_all["a"].wait = interrupted
    with pytest.raises(KeyboardInterrupt):
        measure_all(of_all, WANTED)
    assert not any(bench.running for bench in of_all.values())


def test_a_model_that_answers_wrongly_as_it_is_ends_the_tuning_of_all_at_once() -> None:
    def measure(wanted: Mapping[str, tuple[Configuration, Load]]) -> Mapping[str, Measurement]:
        return {name: Measurement(*each, None, None, requests=9, wrong=wrong[name]) for name, each in wanted.items()}

    wrong, measured = {"a": 0, "b": 1}, refusing_wrong(measure, {"a": NOW, "b": NOW})
    measured(WANTED)  # these are other settings of b
    with pytest.raises(VerificationError, match="1 wrong answer in a run with 1 instance of 1 thread") as found:
        measured({"a": (THEN, LOAD), "b": (NOW, LOAD)})
    assert found.value.where == "b"


def result(configuration: Configuration, throughput: float) -> Result:
    return Result(
        configuration, LOAD, Interval(throughput, throughput, throughput), Interval(0.01, 0.01, 0.01), 2, True
    )


def shared(*, is_better: bool, accepted: bool = True) -> tuple[Shared, Turn]:
    found = Found("better", "by itself", result(THEN, 200), result(NOW, 100))
    turn = Turn("a", 1, ("b was under load meanwhile",), found, accepted, "the turn's reason")
    chosen = {"a": THEN if is_better else NOW}
    before, after = {"a": result(NOW, 100)}, {"a": result(THEN, 150)}
    return Shared((turn,), chosen, before, after, None, is_better, "all together"), turn


def test_the_result_of_a_model_is_the_one_beside_the_others() -> None:
    of_all, turn = shared(is_better=True)
    found = found_of("a", NOW, of_all, turn, OPTIONS)
    assert (found.verdict, found.why) == ("better", "all together")
    assert found.best == result(THEN, 150)
    assert found.gain is not None
    assert found.gain.value == pytest.approx(1.5)


@pytest.mark.parametrize(("accepted", "why"), [(True, "all together"), (False, "the turn's reason")])
def test_what_is_not_better_for_all_is_not_the_best_of_one(accepted: bool, why: str) -> None:
    of_all, turn = shared(is_better=False, accepted=accepted)
    found = found_of("a", NOW, of_all, turn, OPTIONS)
    assert (found.verdict, found.why, found.best) == ("not distinguishable", why, result(NOW, 100))


def test_what_a_single_turn_found_stays_where_it_changes_nothing() -> None:
    of_all, turn = shared(is_better=False)
    turn = replace(turn, found=replace(turn.found, verdict="as it is"))
    assert found_of("a", NOW, of_all, turn, OPTIONS) == turn.found


def test_settings_that_keep_the_limit_only_beside_the_new_ones_of_others_stay_as_they_are() -> None:
    of_all, turn = shared(is_better=True)
    of_all = replace(of_all, chosen={"a": NOW}, after={"a": result(NOW, 120)})
    none = Found("no configuration keeps the limit", "too slow", None, result(NOW, 90), nearest=result(NOW, 90))
    told = found_of("a", NOW, of_all, replace(turn, found=none), OPTIONS)
    assert (told.verdict, told.why, told.best, told.nearest) == ("as it is", "all together", result(NOW, 120), None)
    alone = replace(of_all, is_better=False)
    assert found_of("a", NOW, alone, replace(turn, found=none), OPTIONS) == none


def test_the_table_and_the_json_have_both_sides() -> None:
    of_all, _ = shared(is_better=True)
    assert [*table.to_shared_rows(of_all)] == [
        ("a", "2 instances of 1 thread", "100 ± 0.0%", "150 ± 0.0%", "10 (10 to 10)", "10 (10 to 10)")
    ]
    document = summary_of(of_all)
    whole = {"schema": 1, "models": {"a": tuning_document()}, "together": document}
    schema = Draft202012Validator(json.loads(read_schema("sharing")))
    assert [error.message for error in schema.iter_errors(json.loads(json.dumps(whole)))] == []
    assert [*schema.iter_errors({**whole, "models": {"a": document}})]
    assert document["turns"] == [
        {
            "name": "a",
            "number": 1,
            "fixed": ["b was under load meanwhile"],
            "verdict": "better",
            "accepted": True,
            "why": "the turn's reason",
            "runs": 0,
        }
    ]
    assert document["after"]["a"]["throughput"]["value"] == 150


def test_models_of_which_one_gives_no_answer_are_not_measured_again_for_that() -> None:
    told: list[str] = []
    of_all = benches(told)
    of_all["b"].error = "no request was answered"
    found = measure_all(of_all, WANTED)
    assert len(told) == 4
    assert found["b"].error


def test_settings_of_an_earlier_turn_that_are_not_used_are_not_the_best_of_a_later_one() -> None:
    """Its second turn found nothing better than its first one, and all models together did not get better."""
    third = Configuration(4, 1, 8)
    of_all, turn = shared(is_better=False)
    as_it_is = Found("as it is", "nothing is better", result(THEN, 200), result(THEN, 200))
    better = Found("better", "by itself", result(third, 300), result(THEN, 200))
    for found in (as_it_is, better):
        told = found_of("a", NOW, of_all, replace(turn, number=2, found=found), OPTIONS)
        assert (told.verdict, told.why, told.best) == ("not distinguishable", "all together", result(NOW, 100))
        assert told.baseline == told.best


def test_a_turn_that_went_back_to_the_current_settings_leaves_them_as_they_are() -> None:
    of_all, turn = shared(is_better=False)
    back = Found("better", "by itself", result(NOW, 300), result(THEN, 200))
    told = found_of("a", NOW, replace(of_all, before={}, after={}), replace(turn, number=2, found=back), OPTIONS)
    assert (told.verdict, told.best, told.gain) == ("as it is", result(NOW, 300), None)
