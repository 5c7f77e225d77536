"""Options that name inputs take several of them, and a mistake is quoted with the text that it is in."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from builder.cli.faults import describe
from builder.cli.options import batch_axes, dynamic, outputs, python_constants
from builder.cli.tensor_types import constant


def given(option: Any, *arguments: str) -> Any:
    """Return the value of an option, or the message for what is wrong with it."""
    found: dict[str, Any] = {}

    def command(**values: Any) -> None:
        found.update(values)

    result = CliRunner().invoke(click.command(option(command)), list(arguments), standalone_mode=False)
    if isinstance(result.exception, click.UsageError):
        return describe(result.exception)
    if result.exception is not None:
        raise result.exception
    (value,) = found.values()
    return value


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["image:2=height,3=width"], {"image": {2: "height", 3: "width"}}),
        (["ids:1=length,mask:1=length"], {"ids": {1: "length"}, "mask": {1: "length"}}),
        (["a:1=n,2=m,b.c:0=k,1=l"], {"a": {1: "n", 2: "m"}, "b.c": {0: "k", 1: "l"}}),
        (["a:1=n", "b:1=n", "a:2=m"], {"a": {1: "n", 2: "m"}, "b": {1: "n"}}),
        (["input:0:2=h", "a,b:1=n"], {"input:0": {2: "h"}, "a,b": {1: "n"}}),
        ([" a:1 = n , b:2=m "], {"a": {1: "n"}, "b": {2: "m"}}),
    ],
)
def test_axes_of_several_inputs_are_named_in_one_option(texts: list[str], expected: object) -> None:
    assert given(dynamic, *(argument for text in texts for argument in ("--dynamic", text))) == expected


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["ids:1=length,mask1=length"], "'mask1=length' in 'ids:1=length,mask1=length' is not of the form INPUT:AXIS"),
        (["ids:1=length,"], "'' in 'ids:1=length,' is not of the form"),
        (["1=length"], "'1=length' is not of the form INPUT:AXIS=NAME"),
        (["ids:x=length"], "'ids:x=length' is not of the form"),
        (["ids:1=2"], "'ids:1=2' is not of the form"),
        (["ids:1=n,1=m"], "axis 1 of 'ids' is named twice\nfix: give axis 1 of 'ids' one name"),
        (["ids:1=n", "ids:1=n"], "axis 1 of 'ids' is named twice"),
        ([""], "'' is not of the form"),
    ],
)
def test_an_axis_that_cannot_be_read_is_quoted(texts: list[str], said: str) -> None:
    assert said in given(dynamic, *(argument for text in texts for argument in ("--dynamic", text)))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["h=1,c=1"], {"h": 1, "c": 1}),
        (["h=1", "state.0=none,c=-1"], {"h": 1, "state.0": None, "c": -1}),
        (["a=b:0=2"], {"a=b:0": 2}),
        (["a,b=2"], {"a,b": 2}),
    ],
)
def test_the_batch_of_several_inputs_is_named_in_one_option(texts: list[str], expected: object) -> None:
    assert given(batch_axes, *(argument for text in texts for argument in ("--batch-axis", text))) == expected


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["h=1,c=x"], "'x' is neither the number of an axis nor the word none\nfix: write c=1 for axis 1, or c=none"),
        (["h=1,c"], "'c' in 'h=1,c' is not of the form INPUT=AXIS"),
        (["h=1,"], "'' in 'h=1,' is not of the form"),
        (["h=1,h=1"], "'h' is named twice"),
    ],
)
def test_a_batch_axis_that_cannot_be_read_is_quoted(texts: list[str], said: str) -> None:
    assert said in given(batch_axes, *(argument for text in texts for argument in ("--batch-axis", text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k=2", 2), ("k=0.5", 0.5), ("k=1e-3", 1e-3), ("k=-inf", float("-inf")), ("k=true", True), ("k=False", False),
        ("k=none", None), ("k=[1, 2.5]", [1, 2.5]), ("k=(1, 2)", (1, 2)), ("k={'a': 1}", {"a": 1}), ("k=mean", "mean"),
        ("k='true'", "true"), ("k=a=b", "a=b"), ("k=w.npy", Path("w.npy")), ("k=9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
def test_a_constant_is_a_python_value_a_text_or_a_file(text: str, expected: object) -> None:
    (value,) = given(python_constants, "--constant", text).values()
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("text", ["k=[1, 2", "k={1: ", "k='a", "k=[f()]", "k", "=1", "k="])
def test_a_constant_that_cannot_be_read_is_refused(text: str) -> None:
    assert "fix: write it as" in given(python_constants, "--constant", text)


def test_a_constant_of_an_onnx_model_is_a_number_or_a_file() -> None:
    assert [constant.convert(text, None, None) for text in ("k=2", "k=w.npy")] == [("k", 2), ("k", Path("w.npy"))]
    for text in ("k=two", "k=[1]", "k=none"):
        with pytest.raises(click.BadParameter, match=r"neither a number nor the name of a \.npy file"):
            constant.convert(text, None, None)


def test_outputs_are_separated_by_commas_or_repeated() -> None:
    assert given(outputs, "--output", "logits, states", "--output", "loss,logits") == ("logits", "states", "loss")
    assert given(outputs) == ()
