"""The text of a factory's call gives literal arguments, runs nothing, and has one form for the same arguments."""

import re
from typing import Any

import pytest

from builder.errors import ModelError
from builder.exporting.sources import Kind, Source
from builder.user_code import parse


@pytest.mark.parametrize(
    ("text", "name", "args", "kwargs"),
    [
        ("nets:make", "make", (), {}),
        ("nets:make()", "make", (), {}),
        (" pkg.nets:make(8) ", "make", (8,), {}),
        ("nets:make('a b', depth=8)", "make", ("a b",), {"depth": 8}),
        ("nets:make(flags=[1, 2.5], by={'k': None})", "make", (), {"flags": [1, 2.5], "by": {"k": None}}),
        ("nets:make(-1, True)", "make", (-1, True), {}),
        ("nets:make('a:b/c(d)')", "make", ("a:b/c(d)",), {}),
        ("nets:Net.small(width=4)", "Net.small", (), {"width": 4}),
    ],
)
def test_arguments_are_read_as_literals(text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    call = parse(text)
    assert (call.name, call.args, call.kwargs) == (name, args, kwargs)
    assert Source.of(text).kind is Kind.FACTORY
    assert Source.of(text).name == name


def test_the_same_arguments_are_stored_in_the_same_way_however_they_are_written() -> None:
    written = ["nets:make(1, b='x', a=[1,2])", 'nets:make( 1,a = [1, 2],b="x" )']
    assert {parse(text).text for text in written} == {"nets:make(1, a=[1, 2], b='x')"}
    assert parse("nets:make()").text == "nets:make"
    assert {Source.of(text).shown for text in written} == {"nets:make(1, a=[1, 2], b='x')"}


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("nets", "not of the form package.module:factory", "nets:make_model"),
        ("nets:", "not of the form", "nets:make_model"),
        ("nets:1", "not of the form", "nets:make_model"),
        ("nets:a+b", "not of the form", "nets:make_model"),
        ("nets:a()()", "not of the form", "nets:make_model"),
        ("nets:make(depth=8", "'(' was never closed", "quote them for the shell"),
        ("nets:make(small)", "the argument small is not a literal", "for a text write 'small'"),
        ("nets:make(print(1))", "the argument print(1) is not a literal", "use numbers"),
        ("nets:make(*[1])", "not a literal", "use numbers"),
        ("nets:make(**{'a': 1})", "** is not supported", "NAME=VALUE"),
        (f"nets:make({'(' * 400}1{')' * 400})", "cannot be read", "write them as in Python"),
    ],
)
def test_what_is_no_literal_is_refused_with_the_form_to_write(text: str, what: str, fix: str) -> None:
    with pytest.raises(ModelError, match=rf"{re.escape(what)}(.|\n)*fix: .*{re.escape(fix)}"):
        parse(text)


def make(width: int, depth: int, *, name: str = "") -> None: ...


def no_arguments() -> None: ...


@pytest.mark.parametrize(
    ("text", "factory", "said"),
    [
        ("nets:make", make, "make needs the arguments width, depth\nfix: give .* 'nets:make\\(width=…, depth=…\\)'"),
        ("nets:make(1, name='a')", make, "make needs the argument depth\n"),
        ("nets:make(1, 2, 3)", make, "does not take these arguments: too many(.|\n)*it takes width, depth, name"),
        ("nets:make(1, 2, deep=3)", make, "unexpected keyword argument 'deep'"),
        ("nets:make(1)", no_arguments, "too many positional arguments\nfix: write nets:make: it takes no arguments"),
    ],
)
def test_arguments_that_a_factory_does_not_take_are_named(text: str, factory: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        parse(text).check(factory)


def test_a_factory_with_all_its_arguments_is_accepted() -> None:
    parse("nets:make(1, depth=2)").check(make)
    parse("nets:make").check(no_arguments)
