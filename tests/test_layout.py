"""The tree in docs/design.md names every package and module of `builder` and `loadtest`."""

import runpy
from collections.abc import Sequence
from pathlib import Path

from support.sources import ROOT

LAYOUT = runpy.run_path(str(ROOT / "docs" / "layout.py"))


def names(lines: Sequence[str]) -> list[str]:
    """Return the paths in a tree that indents by two columns for each folder; only the first word of a line is read.

    The tree starts at `builder/` and ends before the first line that is neither indented nor a package of the project.
    """
    roots = [f"{package}/" for package in LAYOUT["PACKAGES"]]
    found: list[str] = []
    folders: list[str] = []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        name = "".join(line.split()[:1])
        if indent == 0 and name not in roots:
            if found:
                break
        elif found or name in roots:
            folders[indent // 2 :] = [name]
            found.append("".join(folders))
    return found


def test_the_tree_of_the_design_names_every_package_and_module() -> None:
    documented = names((ROOT / "docs" / "design.md").read_text().splitlines())
    assert sorted(documented) == sorted(names(LAYOUT["tree"]())), "put what `python docs/layout.py` prints into it"


def test_the_tree_has_every_file() -> None:
    files = {str(f.relative_to(ROOT)) for p in LAYOUT["PACKAGES"] for f in (ROOT / p).rglob("*.py")}
    assert {name for name in names(LAYOUT["tree"]()) if name.endswith(".py")} == {
        file for file in files if not file.endswith("__init__.py")
    }


def test_a_module_that_is_missing_in_the_tree_is_found() -> None:
    tree = LAYOUT["tree"]()
    complete = names(["README.md  what it is", *tree, "tests/  a line that ends the tree", "  more.py"])
    assert complete == names(tree)
    assert set(complete) - set(names([line for line in tree if "digest.py" not in line])) == {"builder/digest.py"}


def test_a_line_shows_the_first_line_of_the_docstring(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text('"""Say one thing.\n\nAnd more.\n"""\n')
    assert LAYOUT["first_line"](tmp_path / "x.py") == "Say one thing."
    assert LAYOUT["first_line"](tmp_path / "missing.py") == ""


def test_the_names_of_a_tree_are_read_with_their_folders() -> None:
    tree = [
        "builder/   a",
        "  errors.py   b",
        "  batching/",
        "    rules/   c",
        "      axes.py",
        "loadtest/",
        "  web.py",
    ]
    assert names(tree) == [
        "builder/",
        "builder/errors.py",
        "builder/batching/",
        "builder/batching/rules/",
        "builder/batching/rules/axes.py",
        "loadtest/",
        "loadtest/web.py",
    ]
