"""The import rules of docs/design.md, read from the sources with `ast`, and what `--help` may cost."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOW = ["errors", "model", "batching", "samples", "record", "naming", "config", "proof", "lowering", "tensorrt",
        "repository", "publishing", "exporting", "cli", "__main__"]  # fmt: skip
"""The parts of `builder` from left to right: none may reach one to its right, not even through others."""

ONLY_IN = {
    "onnxruntime": {"builder.proof.session", "builder.proof.verification", "builder.server.backends.onnxruntime.model"},
    "tensorrt": {f"builder.tensorrt.{module}" for module in ("building", "host", "running")},
    "polygraphy": {f"builder.tensorrt.{module}" for module in ("building", "running")},
    "torch": {f"builder.exporting.{module}" for module in ("exporters", "frozen", "subject")},
    "triton_python_backend_utils": {"builder.server.backends.onnxruntime.model"},
}
HEAVY = {"google.protobuf", "gevent", "grpc", "locust", "matplotlib", "ml_dtypes", "numpy", "onnx", "onnx_ir",
         "onnxruntime", "tensorrt", "tritonclient"}  # fmt: skip
EMPTY_NAMES = {"base", "common", "core", "handler", "handlers", "helper", "helpers", "manager", "misc", "util", "utils"}

Imports = Mapping[str, set[str]]
"""What each module imports: full dotted names, wherever the import stands."""


def module_name(path: Path) -> str:
    """Return the dotted name of a source file below the repository's root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for package in ("builder", "loadtest") for path in (ROOT / package).rglob("*.py")}


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Yield every name that `source` imports; `from a import b` yields `a.b`, and relative names made absolute."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                base = [*package[: len(package) - level + 1]] if level else []
                yield from (".".join([*base, *filter(None, [origin]), alias.name]) for alias in names)


def read_imports() -> dict[str, set[str]]:
    return {
        module: set(imported(path.read_text(), module, is_package=path.name == "__init__.py"))
        for module, path in SOURCES.items()
    }


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


def reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Return everything `start` imports, directly or through others."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph.get(ahead.pop(), set()) - found
        found |= new
        ahead.extend(new)
    return found


def users(imports: Imports, library: str) -> set[str]:
    """Return the modules that import `library` or something of it."""
    return {module for module, names in imports.items() if any(f"{name}.".startswith(f"{library}.") for name in names)}


def backward(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Return the pairs of FLOW where the left one reaches the right one."""
    return [
        (left, right) for index, left in enumerate(FLOW) for right in FLOW[index + 1 :] if right in reached(graph, left)
    ]


IMPORTS = read_imports()


def test_no_step_reaches_a_later_step_of_the_flow() -> None:
    assert backward(part_graph(IMPORTS, "builder")) == []


def test_errors_stand_on_nothing() -> None:
    assert part_graph(IMPORTS, "builder")["errors"] == set()


@pytest.mark.parametrize("package", ["builder", "loadtest"])
def test_no_two_parts_import_each_other(package: str) -> None:
    TopologicalSorter(part_graph(IMPORTS, package)).prepare()


@pytest.mark.parametrize(("library", "allowed"), ONLY_IN.items())
def test_a_runtime_is_imported_only_where_the_design_says(library: str, allowed: set[str]) -> None:
    assert users(IMPORTS, library) <= allowed


def test_locust_is_imported_only_by_the_load_test() -> None:
    assert {module for module in users(IMPORTS, "locust") if not module.startswith("loadtest")} == set()


def test_builder_and_loadtest_meet_on_disk_and_over_the_wire_only() -> None:
    assert {module for module in users(IMPORTS, "builder") if module.startswith("loadtest")} == set()
    assert {module for module in users(IMPORTS, "loadtest") if module.startswith("builder")} == set()


def test_the_backend_that_runs_inside_triton_needs_nothing_of_the_package() -> None:
    assert not {name for name in IMPORTS["builder.server.backends.onnxruntime.model"] if name.startswith("builder")}


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert {module for module in SOURCES if EMPTY_NAMES & set(module.split("."))} == set()


def test_nothing_catches_every_exception() -> None:
    def catches_all(handler: ast.ExceptHandler) -> bool:
        return handler.type is None or "Exception" in [
            name.id for name in ast.walk(handler.type) if isinstance(name, ast.Name)
        ]

    guilty = {
        f"{module}:{node.lineno}"
        for module, path in SOURCES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and catches_all(node)
    }
    assert guilty == set()


def modules_loaded(*command: str) -> set[str]:
    """Return the names of all modules that a Python process imports while it runs `command`."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip() for line in lines}


def test_help_imports_nothing_heavy() -> None:
    loaded = modules_loaded("-m", "builder", "--help")
    assert "builder.cli" in loaded
    assert loaded & HEAVY == set()


# ---- each check above can fail


def test_the_reader_sees_imports_wherever_they_stand() -> None:
    source = (
        "from __future__ import annotations\n"
        "import onnx.helper as h\n"
        "from . import rules\n"
        "from ..model import load\n"
        "def f():\n    from onnxruntime import InferenceSession\n"
        "if TYPE_CHECKING:\n    import locust\n"
    )
    assert set(imported(source, "builder.batching.walk")) == {
        "__future__.annotations", "onnx.helper", "builder.batching.rules", "builder.model.load",
        "onnxruntime.InferenceSession", "locust",
    }  # fmt: skip
    assert set(imported("from .walk import Walk", "builder.batching", is_package=True)) == {
        "builder.batching.walk.Walk"
    }


def test_a_backward_import_through_a_third_module_is_found() -> None:
    imports = {"builder.errors": {"builder.naming.X"}, "builder.naming": {"builder.cli.main"}}
    assert backward(part_graph(imports, "builder")) == [("errors", "naming"), ("errors", "cli"), ("naming", "cli")]


def test_two_parts_that_import_each_other_are_found() -> None:
    imports = {"builder.model": {"builder.naming.X"}, "builder.naming": {"builder.model.loading.Model"}}
    with pytest.raises(CycleError):
        TopologicalSorter(part_graph(imports, "builder")).prepare()


def test_a_library_used_where_it_should_not_be_is_found() -> None:
    assert users(
        {"builder.a": {"onnxruntime.InferenceSession"}, "builder.b": {"onnxruntime_tools"}}, "onnxruntime"
    ) == {"builder.a"}


def test_the_probe_sees_a_heavy_import() -> None:
    assert {"numpy"} <= modules_loaded("-c", "import numpy") & HEAVY
