"""docs/cli.md is what the code says."""

from pathlib import Path

import pytest

from builder.cli import cli
from builder.cli.reference import write_reference

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.mark.parametrize("columns", ["40", "80", "300"])
def test_the_page_is_what_the_command_writes_at_any_width(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert PAGE.read_text() == write_reference(), "run python -m builder.cli.reference > docs/cli.md"


def test_another_help_text_makes_another_page(monkeypatch: pytest.MonkeyPatch) -> None:
    (option,) = [param for param in cli.commands["prune"].params if param.name == "keep"]
    monkeypatch.setattr(option, "help", "Something else.")
    assert PAGE.read_text() != write_reference()
    assert "| `--keep N` | Something else. [required] |" in write_reference()
