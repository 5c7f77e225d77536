"""Text from files is shown so that it cannot control the terminal or forge a line."""

import pickle
import unicodedata
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile_text import HOSTILE, READABLE, forged, unsafe
from support.sources import ROOT

import builder.printable
import loadtest.printable
from builder.errors import BuilderError, Listing, ModelError
from builder.printable import escape, printable
from loadtest.errors import LoadTestError, SettingsError


@pytest.mark.parametrize("name", ["printable", "search_path"])
def test_builder_and_loadtest_have_the_same_module(name: str) -> None:
    """They do not import each other, so each has its own copy."""
    assert (ROOT / "builder" / f"{name}.py").read_text() == (ROOT / "loadtest" / f"{name}.py").read_text()


def test_every_character_is_shown_as_it_is_or_as_an_escape() -> None:
    for character in map(
        chr, [*range(0x3100), *range(0xD000, 0x10100), *range(0x1F000, 0x1FB00), *range(0xDFFF0, 0xE0200)]
    ):
        shown = escape(character)
        if character.isprintable() or unicodedata.category(character) == "Zs":
            assert shown == character
        else:
            assert shown.isascii()
            assert shown.encode().decode("unicode_escape") == character


def test_readable_text_stays_as_it_is() -> None:
    for text in (READABLE, "/layer.0/Conv_1", "C:\\models\\digits.onnx", "100\u202f% of 1\u00a0000"):
        assert printable(text) == text


@given(st.text())
def test_shown_text_is_safe_is_one_line_and_is_shown_the_same_again(text: str) -> None:
    shown = printable(text)
    assert unsafe(shown.encode()) == set()
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown


def test_a_name_that_nobody_can_read_is_cut_short_with_its_length() -> None:
    assert printable(f"node {'n' * 200_000} is refused") == f"node {'n' * 200}… (200,000 characters) is refused"
    assert printable("n " * 100_000) == f"{'n ' * 500}… (200,000 characters)"
    assert len(printable("\x1b" * 200_000)) < 1000


def test_a_path_is_not_cut_short() -> None:
    assert printable(f"/{'d/' * 200}x") == f"/{'d/' * 200}x"
    assert escape("d" * 5000) == "d" * 5000


# ---- errors


@pytest.mark.parametrize("kind", [BuilderError, ModelError, LoadTestError, SettingsError])
def test_an_error_keeps_what_it_was_given_and_shows_it_safely_in_two_lines(
    kind: type[BuilderError] | type[LoadTestError],
) -> None:
    error = kind(HOSTILE, HOSTILE, HOSTILE)
    assert (error.where, error.what, error.fix) == (HOSTILE, HOSTILE, HOSTILE)
    shown = str(error)
    assert unsafe(shown.encode()) == set()
    assert [line[:5] for line in shown.splitlines()] == ["a\\x1b", "fix: "]
    assert READABLE in shown


def test_a_listing_has_a_line_for_each_item_whatever_is_in_it() -> None:
    error = ModelError("m.onnx", Listing("these nodes mix samples:", [HOSTILE, "Softmax 's'"]), "export it again")
    first, hostile, other, fix = str(error).split("\n")
    assert first == "m.onnx: these nodes mix samples:"
    assert hostile.startswith("    a\\x1b")
    assert other == "    Softmax 's'"
    assert fix == "fix: export it again"
    assert forged(str(error).encode()) == []
    assert error.what == f"these nodes mix samples:\n    {HOSTILE}\n    Softmax 's'"


def test_a_listing_survives_the_way_to_another_process() -> None:
    listing = Listing("one:", ["two", "three"])
    copy = pickle.loads(pickle.dumps(listing))
    assert (copy, copy.lines) == (listing, ("one:", "two", "three"))


# ---- the checks can fail


def test_unsafe_and_forged_text_is_found() -> None:
    assert {"\x1b", "\x07", "\x9b", "\u202e", "\u2028", "\u200b", "\r"} <= unsafe(HOSTILE.encode())
    assert [line[:11] for line in forged(HOSTILE.encode())] == ["error: forg", "fix: run it"]


@pytest.mark.parametrize("module", [builder.printable, loadtest.printable])
def test_both_copies_are_tested(module: ModuleType) -> None:
    assert module.printable(HOSTILE) == printable(HOSTILE)
