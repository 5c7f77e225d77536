"""Other sizes are found near those that work, and axes that depend on each other keep their relation."""

from collections.abc import Callable

import pytest

from builder.samples import Sizes, mended, never_varied, other_sizes

Model = Callable[[Sizes], str | None]


def sums(text: str) -> Model:
    """A model that fails as ONNX Runtime does unless the axis on the left has the size on the right."""
    name, _, formula = text.partition(" = ")

    def why_not(sizes: Sizes) -> str | None:
        wanted = eval(formula, {}, dict(sizes))  # the formulas are those below
        what = "running Add node. Name:'node_7' Status Message: /a/element_wise_ops.h:563 Append(ptrdiff_t) axis == 1"
        return None if sizes[name] == wanted else f"{what} other than 1. {wanted} by {sizes[name]}"

    return why_not


def multiples(unit: int) -> Model:
    return lambda sizes: "" if any(size % unit for size in sizes.values()) else None


CASES = [
    # What it shows; given sizes; the model; what is found near half, 3/2 and twice the sizes.
    ("any size", {"time": 16000}, lambda sizes: None, [{"time": 8000}, {"time": 24000}, {"time": 32000}]),
    ("the past and one new token", {"past": 7, "total": 8}, sums("total = past + 1"),
     [{"past": 3, "total": 4}, {"past": 10, "total": 11}, {"past": 14, "total": 15}]),
    ("frames of a strided convolution", {"time": 1600, "frames": 79}, sums("frames = (time - 10) // 20"),
     [{"time": 800, "frames": 39}, {"time": 2400, "frames": 119}, {"time": 3200, "frames": 159}]),
    ("patches of an image", {"h": 64, "w": 96, "patches": 24}, sums("patches = (h // 16) * (w // 16)"),
     [{"h": 32, "w": 48, "patches": 6}, {"h": 96, "w": 144, "patches": 54}, {"h": 128, "w": 192, "patches": 96}]),
    ("a sum of two", {"a": 5, "b": 9, "both": 14}, sums("both = a + b"),
     [{"a": 2, "b": 4, "both": 6}, {"a": 7, "b": 13, "both": 20}, {"a": 10, "b": 18, "both": 28}]),
    ("multiples of 32", {"h": 224, "w": 96}, multiples(32), [{"h": 96, "w": 32}, {"h": 320, "w": 128},
     {"h": 448, "w": 192}]),
    ("one that has to stay", {"h": 48, "w": 100}, lambda sizes: None if sizes["h"] == 48 else "",
     [{"h": 48, "w": 50}, {"h": 48, "w": 150}, {"h": 48, "w": 200}]),
    ("a table of 64 positions", {"n": 64}, lambda sizes: None if sizes["n"] <= 64 else "index 70 is out of [-64,63]",
     [{"n": 32}]),
    ("one step", {"n": 1}, lambda sizes: None, [{"n": 3}, {"n": 2}]),
    ("only one size", {"n": 64}, lambda sizes: None if sizes["n"] == 64 else "64 by 128", []),
    ("as long, said by no message", {"a": 9, "b": 8}, lambda s: None if s["a"] == s["b"] + 1 else "",
     [{"a": 5, "b": 4}, {"a": 13, "b": 12}, {"a": 17, "b": 16}]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "model", "found"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_other_sizes_keep_the_relations_between_axes(given: Sizes, model: Model, found: list[Sizes]) -> None:
    assert model(given) is None
    assert list(other_sizes(given, model)) == found


def test_what_is_kept_is_in_all_sizes() -> None:
    assert list(other_sizes({"n": 8, "batch": 1}, lambda sizes: None, kept={"batch"})) == [
        {"n": 4, "batch": 1}, {"n": 12, "batch": 1}, {"n": 16, "batch": 1},
    ]  # fmt: skip
    assert not list(other_sizes({"batch": 1}, lambda sizes: None, kept={"batch"}))


def test_a_model_that_fails_everywhere_is_run_a_few_times() -> None:
    runs: list[Sizes] = []

    def fail(sizes: Sizes) -> str:
        runs.append(sizes)
        return f"{' by '.join(map(str, range(1, 40)))} by {' by '.join(map(str, sizes.values()))}"

    assert list(other_sizes(dict.fromkeys("abcdefgh", 30), fail)) == []
    assert len(runs) <= 60


def test_an_axis_that_never_varied_is_named() -> None:
    assert never_varied({"h": 48, "w": 100}, [{"h": 48, "w": 50}, {"h": 48, "w": 200}]) == ["h"]
    assert never_varied({"h": 48, "w": 100}, []) == ["h", "w"]


MESSAGES = [
    ("The size of tensor a (12) must match the size of tensor b (16) at non-singleton dimension 1", 12),
    ("mat1 and mat2 shapes cannot be multiplied (2x16 and 12x4)", 12),
    ("Sizes of tensors must match except in dimension 2. Expected size 12 but got size 16 for tensor number 1", 12),
    ("Got invalid dimensions for input: x index: 2 Got: 16 Expected: 12", 12),
    ("an axis of size 1 fits all others: 1 by 16", None),
    ("Input shape:{1,3,16,12}, so it cannot be reshaped to the requested shape {1,36}", None),
    ("shape '[1, 12]' is invalid for input of size 16", None),
    ("nets.py:12: it is wrong for 16", None),
    ("", None),
]


@pytest.mark.parametrize(("message", "size"), MESSAGES)
def test_a_message_tells_the_size_that_it_expects(message: str, size: int | None) -> None:
    found = mended({"n": 16}, lambda sizes: None if sizes["n"] == size else message)
    assert found == (None if size is None else {"n": size})


def test_a_wrong_suggestion_is_not_believed() -> None:
    assert mended({"n": 16}, lambda sizes: "12 by 16") is None
    assert mended({"n": 16, "m": 5}, lambda sizes: "12 by 16" if sizes["n"] == 16 else None, kept={"n"}) is None
