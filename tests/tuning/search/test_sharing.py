"""Several models on one server are searched in turns, and nothing is used that helps one model and harms all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from builder.tuning import Configuration, Interval, Load, Measurement
from builder.tuning.search.beside import Beside, Wanted
from builder.tuning.search.found import Found, Result, Verdict
from builder.tuning.search.goal import Goal
from builder.tuning.search.pooling import Runs
from builder.tuning.search.sharing import Shared, search_together
from builder.tuning.search.space import Space

GOAL = Goal(max_p99_s=0.1, users=8)
NOW = Configuration(1, 1, 8)
CURRENT = {"a": NOW, "b": NOW}

Speed = Callable[[Mapping[str, int]], Mapping[str, float]]
"""The rows per second of each model, from the instances of each."""


@dataclass
class Server:
    """A server on which the throughput of each model depends on the instances of all.

    Attributes:
        speed: The throughput of each model.
        p99_s: The p99 of each model.
        wrong: The models that answer wrongly where they have 2 instances.
        calls: What was measured.
    """

    speed: Speed
    p99_s: Mapping[str, Callable[[Mapping[str, int]], float]] = field(default_factory=dict)
    wrong: str = ""
    calls: list[Mapping[str, int]] = field(default_factory=list)

    def measure(self, wanted: Wanted) -> Mapping[str, Measurement]:
        counts = {name: configuration.instances for name, (configuration, _) in wanted.items()}
        self.calls.append(counts)
        rows = self.speed(counts)
        return {
            name: Measurement(
                *(
                    configuration,
                    load,
                    about(rows[name]),
                    about(self.p99_s[name](counts) if name in self.p99_s else 0.01),
                ),
                wrong=int(name == self.wrong and counts[name] == 2),
            )
            for name, (configuration, load) in wanted.items()
        }


def about(value: float) -> Interval:
    return Interval(value, value * 0.999, value * 1.001)


def exhaustively(bench: object, space: Space, goal: Goal, **_: object) -> Found:
    """Measure one and two instances, and take the better one."""
    runs = [bench.measure(replace(space.current, instances=count), goal.loads[0]) for count in (1, 2)]  # type: ignore[attr-defined]
    results = {
        run.configuration.instances: Result(
            run.configuration, run.load, run.throughput, run.p99_s, 1, goal.is_kept(run)
        )
        for run in runs
    }
    now = results[space.current.instances]
    kept = [result for result in results.values() if result.keeps]
    best = max(kept, key=lambda one: one.throughput.value, default=None)
    verdict: Verdict = "no configuration keeps the limit" if best is None else "better" if best != now else "as it is"
    return Found(verdict, verdict, best, now)


def space_of(name: str, configuration: Configuration) -> Space:
    return Space(configuration, (configuration,), 2, 8)


def run(server: Server, goal: Goal = GOAL) -> Shared:
    return search_together(CURRENT, goal, server.measure, space_of, searching=exhaustively)


def apart(counts: Mapping[str, int]) -> Mapping[str, float]:
    """Models that do not get in each other's way: a second instance gives half as much again."""
    return {name: 1000 * (1 + count) / 2 for name, count in counts.items()}


def greedy(counts: Mapping[str, int]) -> Mapping[str, float]:
    """A second instance of one takes more from the other than it gives."""
    return {"a": 1000 * counts["a"] ** 0.3 / counts["b"], "b": 1000 * counts["b"] ** 0.3 / counts["a"]}


def alone(counts: Mapping[str, int]) -> Mapping[str, float]:
    """Only a gains from a second instance."""
    return {"a": 1000.0 * counts["a"], "b": 1000.0 / counts["b"]}


def test_each_model_gets_what_is_better_for_it() -> None:
    server = Server(apart)
    found = run(server)
    assert found.is_better
    assert {name: one.instances for name, one in found.chosen.items()} == {"a": 2, "b": 2}
    assert found.gain is not None
    assert found.gain.value == pytest.approx(1.5)
    assert "a +50%, b +50%" in found.why


def test_the_others_are_measured_with_the_best_so_far() -> None:
    server = Server(apart)
    found = run(server)
    first, second = server.calls[:2], server.calls[2:4]
    assert first == [{"a": 1, "b": 1}, {"a": 2, "b": 1}]
    assert second == [{"a": 2, "b": 1}, {"a": 2, "b": 2}]
    assert found.turns[1].fixed == ("a was under load meanwhile: 2 instances of 1 thread, batches up to 8, 8 users",)


def test_whoever_had_its_turn_before_another_changed_gets_a_second_one() -> None:
    assert [(turn.name, turn.number) for turn in run(Server(apart)).turns] == [("a", 1), ("b", 1), ("a", 2)]
    assert [(turn.name, turn.number) for turn in run(Server(alone)).turns] == [("a", 1), ("b", 1)]


def test_what_harms_the_others_more_is_not_used() -> None:
    found = run(Server(greedy))
    assert not found.is_better
    assert found.chosen == CURRENT
    assert found.turns[0].why == "not used, because all models together lose: a +23%, b -50%"
    assert found.turns[0].found.verdict == "better"  # by itself


def test_the_limit_holds_for_every_model() -> None:
    slow = {"b": lambda counts: 0.2 if counts["a"] == 2 else 0.01}
    found = run(Server(alone, slow))
    assert found.chosen == CURRENT
    assert found.why == "no model gets other settings"


def test_a_model_that_answers_wrongly_beside_another_puts_it_out() -> None:
    assert run(Server(alone, wrong="a")).chosen == CURRENT


def test_wrong_answers_of_another_model_are_not_those_of_the_one_that_is_searched() -> None:
    server = Server(apart, wrong="b")
    every = {"a": (NOW, GOAL.loads[0]), "b": (replace(NOW, instances=2), GOAL.loads[0])}
    measured = Beside("a", every, server.measure, GOAL).measure(NOW, GOAL.loads[0])
    assert (measured.wrong, measured.error) == (0, "b beside it: 1 wrong answer")
    assert not GOAL.is_kept(measured)


@pytest.mark.parametrize(("waiting", "rows", "is_sound"), [(0, 300, True), (90, 300, False), (0, 200, False)])
def test_a_model_that_falls_behind_its_rate_beside_another_puts_its_settings_out(
    waiting: int, rows: int, is_sound: bool
) -> None:
    goal = Goal(0.1, rate=300)
    (load,) = goal.loads

    def measure(wanted: Wanted) -> Mapping[str, Measurement]:
        a, b = (Measurement(one, load, about(300), about(0.01), requests=3000) for one, _ in wanted.values())
        return {"a": a, "b": replace(b, throughput=about(rows), waiting=waiting)}

    measured = Beside("a", {"a": (NOW, load), "b": (NOW, load)}, measure, goal).measure(NOW, load)
    assert goal.is_sound(measured) == is_sound
    assert measured.notes == (() if is_sound else ("b beside it does not keep up with its rate",))


def test_settings_that_are_fine_one_by_one_and_not_together_are_not_used() -> None:
    server = Server(apart)
    late = {"a": lambda counts: 0.2 if len(server.calls) > 6 and counts == {"a": 2, "b": 2} else 0.01}
    server.p99_s = late
    found = run(server)
    assert not found.is_better
    assert found.chosen == CURRENT
    assert "not every model keeps the limit" in found.why


def test_old_settings_that_miss_the_limit_are_replaced_by_any_that_keep_it() -> None:
    late = {"a": lambda counts: 0.2 if counts["a"] == 1 else 0.01}
    found = run(Server(alone, late))
    assert found.is_better
    assert found.gain is None
    assert found.chosen["a"].instances == 2


@pytest.mark.parametrize("gain", [1.2, 1.01])
def test_old_settings_that_may_keep_the_limit_are_replaced_only_by_what_gives_more(gain: float) -> None:
    server = Server(lambda counts: {"a": 1000.0 * (gain if counts["a"] == 2 else 1), "b": 1000.0 / counts["b"]})

    def measure(wanted: Wanted) -> Mapping[str, Measurement]:
        found = dict(server.measure(wanted))
        if wanted["a"][0].instances == 1:
            found["a"] = replace(found["a"], p99_s=Interval(0.095, 0.08, 0.11))
        return found

    found = search_together(CURRENT, GOAL, measure, space_of, searching=exhaustively)
    assert found.turns[0].accepted
    assert found.is_better == (gain == 1.2)
    assert found.gain is not None


def test_runs_that_other_programs_disturbed_show_nothing() -> None:
    server = Server(alone)

    def measure(wanted: Wanted) -> Mapping[str, Measurement]:
        is_last = len(server.calls) >= 4  # two turns of two runs
        return {name: replace(run, others=0.3 * is_last) for name, run in server.measure(wanted).items()}

    found = search_together(CURRENT, GOAL, measure, space_of, searching=exhaustively)
    assert not found.is_better
    assert found.chosen == CURRENT
    assert "other programs disturbed" in found.why


def test_a_gain_that_may_be_none_is_not_used() -> None:
    server = Server(lambda counts: {"a": 1000 + 5 * counts["a"], "b": 1000.0 / counts["b"]})
    found = run(server)
    assert not found.is_better
    assert "not distinguishable" in found.why


def test_at_a_rate_what_counts_is_the_latency() -> None:
    goal = Goal(max_p99_s=0.1, rate=100)
    faster = {"a": lambda counts: 0.02 / counts["a"], "b": lambda counts: 0.01}
    server = Server(lambda counts: dict.fromkeys(counts, 100.0), faster)
    found = search_together(CURRENT, goal, server.measure, space_of, searching=_by_p99)
    assert found.chosen["a"].instances == 2
    assert found.gain is not None
    assert found.gain.value == pytest.approx(2**0.5)


def _by_p99(bench: object, space: Space, goal: Goal, **_: object) -> Found:
    found = exhaustively(bench, space, goal)
    run = bench.measure(replace(space.current, instances=2), goal.loads[0])  # type: ignore[attr-defined]
    best = Result(run.configuration, run.load, run.throughput, run.p99_s, 1, True)
    assert found.baseline is not None
    is_better = best.p99_s.value < found.baseline.p99_s.value
    return replace(found, verdict="better", best=best) if is_better else found


def test_every_load_is_the_one_of_the_goal() -> None:
    loads: set[Load] = set()
    server = Server(apart)

    def measure(wanted: Wanted) -> Mapping[str, Measurement]:
        loads.update(load for _, load in wanted.values())
        return server.measure(wanted)

    search_together(CURRENT, GOAL, measure, space_of, searching=exhaustively)
    assert loads == {Load(users=8)}


def test_models_that_ran_at_the_same_time_do_not_make_up_for_each_others_errors() -> None:
    found = run(Server(apart))
    each = Runs(GOAL).ratio(found.after["a"], found.before["a"])
    assert found.gain is not None
    assert (found.gain.low, found.gain.high) == pytest.approx((each.low, each.high))


def test_disturbed_runs_do_not_show_that_a_model_misses_the_limit() -> None:
    server = Server(alone)
    server.p99_s = {"a": lambda counts: 0.2 if len(server.calls) > 4 and counts["a"] == 2 else 0.01}

    def measure(wanted: Wanted) -> Mapping[str, Measurement]:
        is_last = len(server.calls) >= 4
        return {name: replace(run, others=0.3 * is_last) for name, run in server.measure(wanted).items()}

    found = search_together(CURRENT, GOAL, measure, space_of, searching=exhaustively)
    assert "other programs disturbed" in found.why
