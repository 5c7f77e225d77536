"""Random graphs of the operators that have rules are refused, or right for every sample."""

from pathlib import Path
from random import Random

import onnx
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from support.batched import Case, batch, compare
from support.random_graphs import grow

from builder.errors import ModelError

EXAMPLES = 250


def holds(model: onnx.ModelProto, folder: Path) -> bool:
    """Return whether the model was batched, and check its answers; False says that it was refused."""
    try:
        batched = batch(model, folder)
    except ModelError:
        return False
    compare(Case("a random graph", "", "", rtol=1e-4), model, batched)
    return True


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rng=st.randoms(use_true_random=False), static_batch=st.sampled_from([1, 3]), nodes=st.integers(5, 15))
def test_a_random_graph_is_refused_or_answers_each_sample_as_the_original_does(
    rng: Random, static_batch: int, nodes: int, tmp_path: Path
) -> None:
    event("batched" if holds(grow(rng, static_batch, nodes), tmp_path) else "refused")


@pytest.mark.slow
@pytest.mark.parametrize(("static_batch", "least"), [(1, 0.45), (3, 0.25)])
def test_random_graphs_are_batched_often_enough_to_prove_something(
    static_batch: int, least: float, tmp_path: Path
) -> None:
    seeds = range(60)
    batched = [holds(grow(Random(seed), static_batch, 4), tmp_path) for seed in seeds]
    assert sum(batched) / len(seeds) >= least
