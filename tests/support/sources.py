"""Read what the sources of `builder` and `loadtest` say about themselves: imports, front doors, asserts.

Everything here is read with `ast`: no module of the project is imported. Names are dotted: `builder.model`.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

Imports = Mapping[str, set[str]]
"""What each module imports: full dotted names, wherever the import stands."""

Graph = Mapping[str, set[str]]
"""What each node needs."""


@dataclass(frozen=True, slots=True)
class FrontDoor:
    """What a package's `__init__.py` shows.

    Attributes:
        docstring: Empty when there is none.
        offered: The names in `__all__`; None when it has no `__all__`.
    """

    docstring: str
    offered: tuple[str, ...] | None

    @property
    def named(self) -> set[str]:
        """The words that stand in backticks in the docstring; modules among them are open to other packages."""
        return set(re.findall(r"`(\w+)`", self.docstring))


def module_name(path: Path) -> str:
    """Return the dotted name of a source file below the repository's root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for package in ("builder", "loadtest") for path in (ROOT / package).rglob("*.py")}
PACKAGES = {module for module, path in SOURCES.items() if path.name == "__init__.py"}


@cache
def parsed(source: str) -> ast.Module:
    """Return the syntax tree of a source; every check reads the same one."""
    return ast.parse(source)


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Yield every name that `source` imports; `from a import b` yields `a.b`, and relative names made absolute."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(parsed(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                base = [*package[: len(package) - level + 1]] if level else []
                yield from (".".join([*base, *filter(None, [origin]), alias.name]) for alias in names)


@cache
def read_imports() -> dict[str, set[str]]:
    """Return what each module of the project imports."""
    return {
        module: set(imported(path.read_text(), module, is_package=module in PACKAGES))
        for module, path in SOURCES.items()
    }


@cache
def read_front_doors() -> dict[str, FrontDoor]:
    """Return the front door of each package of the project."""
    return {package: front_door(SOURCES[package].read_text()) for package in PACKAGES}


def front_door(source: str) -> FrontDoor:
    """Return what the source of an `__init__.py` shows."""
    tree = parsed(source)
    offered = None
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                offered = tuple(ast.literal_eval(value))
            case ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value):
                offered = tuple(ast.literal_eval(value))
    return FrontDoor(ast.get_docstring(tree) or "", offered)


def part(name: str, package: str = "builder") -> str | None:
    """Return the part of `package` that a dotted name belongs to: `builder.batching.walk.Walk` is in `batching`."""
    first, *rest = name.split(".")
    return rest[0] if first == package and rest else None


def part_graph(imports: Imports, package: str) -> dict[str, set[str]]:
    """Return which parts of `package` each of its parts imports."""
    graph: dict[str, set[str]] = {}
    for module, names in imports.items():
        if (here := part(module, package)) is not None:
            graph.setdefault(here, set()).update({part(name, package) or here for name in names} - {here})
    return graph


def defining(name: str, modules: set[str]) -> tuple[str, str] | None:
    """Split a dotted name into the module it is imported from and the name in it.

    `builder.model.load` is (`builder.model`, `load`); of a module itself, the second is empty. None when the name is of
    no module of `modules`.
    """
    if name in modules:
        return name, ""
    origin, _, attribute = name.rpartition(".")
    return (origin, attribute) if origin in modules else None


def entered(module: str, origin: str, packages: set[str]) -> list[str]:
    """Return the packages that `module` is not in itself and enters by importing `origin`, outermost first."""
    steps = origin.split(".")
    on_the_way = [".".join(steps[: count + 1]) for count in range(len(steps))]
    return [p for p in on_the_way if p in packages and not f"{module}.".startswith(f"{p}.")]


def module_graph(imports: Imports, packages: set[str]) -> dict[str, set[str]]:
    """Return which modules must have run before each module can.

    These are the modules it imports from, and the packages it enters on the way to them: their `__init__.py` run first.
    The packages that a module is in itself do not count, because Python is running them already; unless the module
    imports a name from one of them, which is then not there yet.
    """
    modules = set(imports)
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for module, names in imports.items():
        for name in names:
            if found := defining(name, modules):
                graph[module].update({found[0], *entered(module, found[0], packages)} - {module})
    return graph


def reached(graph: Graph, start: str) -> set[str]:
    """Return everything `start` needs, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting.extend(new)
    return found


def in_circles(graph: Graph) -> set[str]:
    """Return the nodes that need themselves through others."""
    return {node for node in graph if node in reached(graph, node)}


def users(imports: Imports, library: str) -> set[str]:
    """Return the modules that import `library` or something of it."""
    return {module for module, names in imports.items() if any(f"{name}.".startswith(f"{library}.") for name in names)}


def side_entrances(imports: Imports, doors: Mapping[str, FrontDoor]) -> set[tuple[str, str]]:
    """Return the imports, as (module, name), that pass by the front door of a package they enter.

    A name must come from the package's `__all__`, or from a module that the package's docstring names in backticks; and
    what `__all__` offers must come from there.
    """
    modules, packages = set(imports), set(doors)
    found = set()
    for module, names in imports.items():
        for name in names:
            origin, attribute = defining(name, modules) or ("", "")
            if _is_offered(name, doors):
                continue
            if any(_passes_by(doors[p], p, origin, attribute) for p in entered(module, origin, packages)):
                found.add((module, name))
    return found


def _is_offered(name: str, doors: Mapping[str, FrontDoor]) -> bool:
    """Whether a package offers this name: it then hides a module of the same name, as `exporting.export` does."""
    package, _, attribute = name.rpartition(".")
    return package in doors and attribute in (doors[package].offered or ())


def _passes_by(door: FrontDoor, package: str, origin: str, attribute: str) -> bool:
    if origin == package:
        return bool(attribute)
    submodule = origin.removeprefix(f"{package}.").split(".")[0]
    return attribute in (door.offered or ()) or submodule not in door.named


def asserts(source: str) -> list[ast.Assert]:
    """Return the `assert` statements of a source."""
    return [node for node in ast.walk(parsed(source)) if isinstance(node, ast.Assert)]


def says_not_none(node: ast.Assert) -> bool:
    """Whether an assert has an `… is not None` in it, which a type should say."""
    return any(
        isinstance(test, ast.Compare)
        and any(isinstance(operator, ast.IsNot) for operator in test.ops)
        and any(isinstance(value, ast.Constant) and value.value is None for value in test.comparators)
        for test in ast.walk(node.test)
    )
