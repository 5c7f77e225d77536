"""Print the tree of `builder` and `loadtest` for the layout section of docs/design.md, a line for each module.

    python docs/layout.py

Each line is a name and the first line of its docstring. tests/test_layout.py checks that docs/design.md has every name.
"""

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("builder", "loadtest")
WIDTH = 24
"""Columns before the descriptions."""

LINE_WIDTH = 120
"""Longer descriptions are cut off."""


def entries(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each package and module below a folder, as its path and the file with its docstring.

    A package comes before its modules, and modules come before the packages beside them. A package's `__init__.py` has
    no line of its own: the line of the package shows its docstring.
    """
    yield folder, folder / "__init__.py"
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            yield file, file
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and any(path.rglob("*.py"))):
        yield from entries(inner)


def first_line(file: Path) -> str:
    """Return the first line of a module's docstring; empty when it has none, or when there is no such file."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) if file.exists() else None
    return (docstring or "").partition("\n")[0]


def line(path: Path, described_by: Path) -> str:
    """Return the tree's line for a package or module, indented by two columns for each folder it is in."""
    depth = len(path.relative_to(ROOT).parts) - 1
    name = "  " * depth + path.name + ("/" if path.is_dir() else "")
    description = textwrap.shorten(first_line(described_by), LINE_WIDTH - WIDTH, placeholder=" …")
    return f"{name:{WIDTH}}{description}".rstrip()


def tree() -> list[str]:
    """Return the lines of the whole tree."""
    return [line(*entry) for package in PACKAGES for entry in entries(ROOT / package)]


if __name__ == "__main__":
    print("\n".join(tree()))
