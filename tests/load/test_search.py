"""The search for the highest load within a limit: which loads it tries, and what it finds."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.simulated_servers import CASES, find

from loadtest.scenarios.evidence import FEWEST_REQUESTS, Verdict, describe_doubt, find_dispersion, find_margin, judge
from loadtest.scenarios.search import Search, Trial, find_bracket


def run(search: Search, p99_us: Callable[[float], float], spoilt: tuple[int, ...] = ()) -> list[Trial]:
    """Search a server without noise, except that the stages with these numbers say the opposite."""
    trials: list[Trial] = []
    while (load := search.next_load(trials)) is not None:
        value = p99_us(load)
        within = (value <= search.limit_us) != (len(trials) in spoilt)
        trials.append(Trial(load, within, value))
    return trials


def test_the_search_of_its_documentation() -> None:
    search = Search(1, 256, 20_000, 0.05)
    trials = run(search, lambda users: 800 * users)
    assert [trial.load for trial in trials] == [1, 4, 16, 32, 24, 26, 25, 25, 26]
    assert find_bracket(trials) == (25, 26)
    assert search.is_settled(trials)
    assert search.most_stages == 23


@given(st.integers(1, 600), st.floats(0.01, 0.5), st.floats(0.3, 3.0), st.booleans())
def test_without_noise_the_answer_is_right_within_the_precision(
    edge: int, precision: float, power: float, is_open_loop: bool
) -> None:
    """Whatever the shape of the curve: p99 crosses the limit between `edge` and `edge + 1`."""
    search = Search(1, 512, 1000, precision, is_open_loop)
    trials = run(search, lambda load: 1000 * (load / (edge + 0.5)) ** power)
    kept, missed = find_bracket(trials)
    assert search.is_settled(trials)
    if edge >= 512:
        assert (kept, missed) == (512, None)
    else:
        assert kept is not None
        assert missed is not None
        assert kept <= edge + 0.5 < missed
        assert missed <= max(kept * (1 + precision), 0 if is_open_loop else kept + 1)


@given(st.integers(2, 500), st.integers(0, 12), st.booleans())
def test_one_stage_that_says_the_opposite_does_not_change_the_answer(
    edge: int, spoilt: int, is_open_loop: bool
) -> None:
    search = Search(1, 512, 1000, 0.05, is_open_loop)
    trials = run(search, lambda load: 1000 * load / (edge + 0.5), (spoilt,))
    kept, missed = find_bracket(trials)
    assert kept is not None
    assert missed is None or kept < missed
    assert kept <= edge + 0.5
    assert kept >= (edge + 0.5) / 1.05 - 1


def test_a_cliff_is_found_by_halving() -> None:
    trials = run(Search(1, 1000, 1000, 0.01), lambda users: 10 if users < 700 else math.inf)
    assert find_bracket(trials) == (699, 703)
    assert len(trials) <= 20
    assert [trial.load for trial in trials].count(703) == 3


def test_a_wrong_answer_ends_the_search() -> None:
    search = Search(1, 256, 1000, 0.05)
    trials = [Trial(1, True, 10), Trial(4, True, 40, wrong=True)]
    assert search.next_load(trials) is None
    assert not search.is_settled(trials)


@pytest.mark.parametrize("is_open_loop", [False, True])
def test_where_even_the_lowest_load_misses_the_limit_three_stages_say_so(is_open_loop: bool) -> None:
    search = Search(4, 64, 1000, 0.05, is_open_loop)
    trials = run(search, lambda _: 5000)
    assert [trial.load for trial in trials] == [4, 4, 4]
    assert find_bracket(trials) == (None, 4)
    assert search.is_settled(trials)


def test_where_even_the_highest_load_keeps_the_limit_two_stages_say_so() -> None:
    trials = run(Search(4, 40, 100_000, 0.05), lambda users: 10 * users)
    assert [trial.load for trial in trials] == [4, 16, 40, 40]
    assert find_bracket(trials) == (40, None)


def test_a_search_that_never_agrees_with_itself_ends() -> None:
    search = Search(1, 256, 1000, 0.05)
    trials = run(search, lambda users: 40 * users, tuple(range(0, 100, 2)))
    assert len(trials) == search.most_stages
    assert not search.is_settled(trials)


def test_the_evidence_of_its_documentation() -> None:
    """10,000 requests in windows that agree: 74 late ones are within the limit, 126 have missed it."""
    verdicts = {late: judge([(late // 2, 5000), (late - late // 2, 5000), (0, 0)]) for late in (74, 75, 125, 126)}
    assert verdicts == {
        74: Verdict.WITHIN,
        75: Verdict.UNDECIDED,
        125: Verdict.UNDECIDED,
        126: Verdict.MISSED,
    }
    assert find_dispersion([(0, 100), (4, 100), (8, 100)]) == pytest.approx(16 / 3.84)


def test_bursts_widen_the_margin() -> None:
    even, bursts = [(10, 2500)] * 4, [(40, 2500), (0, 2500), (0, 2500), (0, 2500)]
    assert judge(even) is Verdict.WITHIN
    assert judge(bursts) is Verdict.UNDECIDED
    assert find_margin(bursts) > 6 * find_margin(even)


def test_few_requests_or_windows_decide_nothing() -> None:
    assert judge([]) is judge([(0, 0)] * 5) is Verdict.UNDECIDED
    assert judge([(0, 100)] * 3) is Verdict.UNDECIDED
    assert judge([(0, 100_000)] * 2) is Verdict.UNDECIDED
    assert judge([(0, FEWEST_REQUESTS - 1), (0, 0), (0, 0)]) is Verdict.UNDECIDED
    assert judge([(0, FEWEST_REQUESTS), (0, 0), (0, 0)]) is Verdict.WITHIN
    assert judge([(30, 30)] * 3) is Verdict.MISSED
    assert describe_doubt(Verdict.UNDECIDED, FEWEST_REQUESTS - 1) == ", too few requests to be sure"
    assert describe_doubt(Verdict.UNDECIDED, FEWEST_REQUESTS) == ", too close to call"
    assert describe_doubt(Verdict.WITHIN, 10) == ""


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("closed loop", 23),
        ("uneven service", 65),
        ("one stage in 20 disturbed", 23),
        ("cliff at 17 users", 16),
        ("open loop, constant gaps", 1170),
    ],
)
def test_on_servers_with_noise_the_answer_is_within_5_percent_in_a_few_stages(name: str, answer: float) -> None:
    """Searches with fixed seeds; benchmarks/search_simulation.py tries more kinds of servers, with more seeds."""
    found = [find(CASES[name], seed) for seed in range(4)]
    for one in found:
        assert one.load == pytest.approx(answer, rel=0.055, abs=1)
    assert sum(len(one.trials) for one in found) <= 4 * 16
