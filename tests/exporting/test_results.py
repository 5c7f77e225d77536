"""What `forward` returns becomes named tensors, of which some can be kept, whatever the others are."""

import importlib.util
from collections import namedtuple
from typing import Any

import pytest

from builder.errors import ModelError

HAS_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("onnxscript") is not None
pytestmark = pytest.mark.torch
if HAS_TORCH:
    import torch

    from builder.exporting.results import choose, flatten

    ONE, TWO = torch.ones(1, 2), torch.ones(3)

Pair = namedtuple("Pair", "first second")


def named(value: Any, taken: tuple[str, ...] = ()) -> list[str]:
    return [result.name for result in flatten(value, taken)]


def test_results_are_named_by_the_keys_and_positions_that_lead_to_them() -> None:
    assert named(ONE) == ["output"]
    assert named((ONE, None, [TWO])) == ["output_0", "output_2_0"]
    assert named({"a": ONE, "states": (ONE, None, {"last": TWO}), "pair": Pair(ONE, TWO)}) == [
        "a", "states_0", "states_2_last", "pair_first", "pair_second",
    ]  # fmt: skip


def test_two_results_never_have_the_same_name_nor_that_of_an_input() -> None:
    assert named({"a_b": ONE, "a": {"b": ONE}, "a_b_2": TWO}) == ["a_b", "a_b_2", "a_b_2_2"]
    assert named({"x": ONE, "h": TWO}, taken=("x", "h", "output_h")) == ["output_x", "output_h_2"]


def chosen(value: Any, *wanted: str, taken: tuple[str, ...] = ()) -> list[str]:
    return [result.name for result in choose("nets:make", flatten(value, taken), wanted, ("x", "use_cache"))]


def test_only_the_outputs_that_were_asked_for_are_kept_in_their_own_order() -> None:
    value = {"loss": TWO, "logits": ONE, "states": (ONE, (TWO, TWO)), "cache": object(), "h": ONE}
    assert chosen(value, "states", "logits") == ["logits", "states_0", "states_1_0", "states_1_1"]
    assert chosen(value, "states_1") == ["states_1_0", "states_1_1"]
    assert chosen(value, "h", taken=("h",)) == ["output_h"]
    assert chosen({"loss": TWO, "logits": ONE}) == ["loss", "logits"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("logit",), r"--output names 'logit'.*\n.*use one of logits \[1, 2\], cache \(Cache, which is not a tensor\)"),
        (("cache",), r"an object of type Cache as 'cache'\n.*use_cache=false; or .*--output logits; or return"),
        ((), r"an object of type Cache as 'cache'\n.*use_cache=false; or .*--output logits; or return"),
    ],
)
def test_an_output_that_is_missing_or_no_tensor_is_refused_with_those_that_can_be_kept(
    wanted: tuple[str, ...], said: str
) -> None:
    value = {"logits": ONE, "cache": type("Cache", (), {})()} if HAS_TORCH else {}
    with pytest.raises(ModelError, match=said):
        chosen(value, *wanted)


def test_a_result_without_tensors_is_refused() -> None:
    with pytest.raises(ModelError, match="forward returns no tensors"):
        chosen(None)
    with pytest.raises(ModelError, match="an object of type str\n"):
        chosen("text")
