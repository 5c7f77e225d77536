"""The exit codes are stated once, and every page that repeats one agrees."""

import re
from pathlib import Path

import click
import pytest

from builder import errors
from builder.cli import cli
from builder.cli.exit_codes import BUG, exit_codes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHER_PROGRAM = {"load-testing.md", "load-testing-figures.md", "result-schema.md"}
"""Pages on the exit codes of the load test."""


def codes_in(text: str) -> set[int]:
    """Return the exit codes that a page names: in a table of them, in a sentence, or in brackets.

    That is `| exit code | … |` and its rows, `Exit codes: 0 done, 2 wrong usage.`, and `(exit 6)` or `exits with 3`.
    """
    tables = re.findall(r"^\| *(?:exit )?code *\|.*\n\|[-| ]+\n((?:\|.*\n?)*)", text, re.MULTILINE | re.IGNORECASE)
    rows = [code for table in tables for code in re.findall(r"^\| *(\d+) *\|", table, re.MULTILINE)]
    sentences = re.findall(r"exit codes?:((?:[^.]|\.\S)*)", text, re.IGNORECASE)
    listed = [code for sentence in sentences for code in re.findall(r"(?:^|[,\s])(\d+)\s", sentence)]
    single = re.findall(r"\bexits?(?: with| code)? (\d+)\b", text, re.IGNORECASE)
    return set(map(int, [*rows, *listed, *single]))


def test_every_error_class_has_its_own_code_and_meaning() -> None:
    kinds = errors.BuilderError.__subclasses__()
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert exit_codes()[kind.exit_code].endswith(".")
    assert list(exit_codes()) == sorted(exit_codes())
    assert exit_codes().keys() >= {0, 1, 2, 130}


def test_help_lists_every_exit_code() -> None:
    with click.Context(cli, terminal_width=200) as ctx:
        listed = cli.get_help(ctx).partition("Exit codes:\n")[2]
    assert dict(re.findall(r"^ +(\d+) +(.*)$", listed, re.MULTILINE)) == {
        str(code): meaning for code, meaning in exit_codes().items()
    }


def test_the_reference_lists_every_exit_code() -> None:
    assert codes_in((ROOT / "docs" / "cli.md").read_text()) == exit_codes().keys()


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES if page.name not in OTHER_PROGRAM])
def test_no_page_names_an_exit_code_that_does_not_exist(page: Path) -> None:
    assert codes_in(page.read_text()) <= exit_codes().keys()


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_a_page_that_lists_the_exit_codes_lists_all_that_a_user_can_meet(page: Path) -> None:
    for marked in page.read_text().split("<!-- exit codes -->")[1:]:
        assert codes_in(f"Exit codes: {marked.partition(chr(10) * 2)[0]}") == exit_codes().keys() - {BUG}


def test_the_tree_of_errors_shows_the_codes_of_its_classes() -> None:
    tree = dict(re.findall(r"(\w+Error) +(\d+)", errors.__doc__ or ""))
    kinds: list[type[errors.BuilderError]] = [errors.BuilderError, *errors.BuilderError.__subclasses__()]
    assert tree == {kind.__name__: str(kind.exit_code) for kind in kinds}


def test_an_exit_code_is_found_wherever_it_is() -> None:
    assert codes_in("| exit code | meaning |\n|---|---|\n| 4 | differs |\n| 5 | none |\n\n| 7 | another table |\n") == {
        4,
        5,
    }
    assert codes_in("Exit codes: 0 done, 2\nwrong usage, 130 interrupted. In 2026 there were 12 of them.") == {
        0,
        2,
        130,
    }
    assert codes_in("It says so before any work (exit 6), and then exits with 9.") == {6, 9}
    assert codes_in("There are 12 of them.") == set()
