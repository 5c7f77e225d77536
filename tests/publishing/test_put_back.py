"""A config that a change replaced is put back byte for byte."""

from pathlib import Path

import pytest
from support.artifacts import scale, tree

from builder.config import ConfigOptions
from builder.errors import RepositoryError
from builder.publishing import install, put_back, roll_back
from builder.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "models")
    for factor in (2.0, 3.0):
        install(repository, "scale", scale(factor))
    return repository


def test_a_switch_says_what_it_changed_and_what_it_replaced(repository: Repository) -> None:
    path = repository.model("scale").config_path
    before = path.read_bytes()

    switch = roll_back(repository, "scale")

    assert switch.replaced == before
    first, second, *lines = switch.diff.splitlines()
    assert (first, second) == ("--- scale/config.pbtxt", "+++ scale/config.pbtxt")
    assert {"-    versions: [2]", "+    versions: [1]"} <= set(lines)
    assert roll_back(repository, "scale", 1).diff == ""


def test_an_install_says_what_it_changed_in_the_config(repository: Repository) -> None:
    published = install(repository, "scale", scale(3.0), ConfigOptions(max_queue_delay_us=100))

    changed = [line for line in published.config_diff.splitlines()[2:] if line[0] in "+-"]
    assert "+  max_queue_delay_microseconds: 100" in changed
    assert install(repository, "scale", scale(3.0)).config_diff == ""
    assert install(repository, "new", scale()).config_diff.startswith("--- /dev/null\n+++ new/config.pbtxt\n")


@pytest.mark.parametrize("edit", [b"", b"# a comment, with other ends of lines\r\n"], ids=["as made", "by hand"])
def test_a_replaced_config_is_put_back_byte_for_byte(repository: Repository, edit: bytes) -> None:
    path = repository.model("scale").config_path
    path.write_bytes(path.read_bytes() + edit)
    before = path.read_bytes()
    switch = roll_back(repository, "scale")
    after = path.read_bytes()
    assert after != before

    back = put_back(repository, "scale", switch.replaced, instead_of=after)

    assert path.read_bytes() == before
    assert (back.before, back.after, back.replaced) == (1, 2, after)
    assert "+    versions: [2]" in back.diff.splitlines()


@pytest.mark.parametrize(
    ("content", "instead_of", "message"),
    [
        (b"name: 'scale'", b"something else", "somebody has changed this file"),
        (b"name: [", None, "not a valid model configuration"),
        (b"name: '\xff'", None, "not UTF-8"),
    ],
)
def test_what_cannot_be_put_back_changes_nothing(
    repository: Repository, content: bytes, instead_of: bytes | None, message: str
) -> None:
    before = tree(repository.root)

    with pytest.raises(RepositoryError, match=message):
        put_back(repository, "scale", content, instead_of=instead_of)
    assert tree(repository.root) == before
