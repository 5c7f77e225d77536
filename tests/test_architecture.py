"""Rules that the sources must follow: the order of the packages, their front doors, their names and their sizes."""

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from importlib import import_module

import lizard
import pytest
from support.sources import (
    PACKAGES,
    ROOT,
    SOURCES,
    Graph,
    asserts,
    defining,
    in_circles,
    module_graph,
    parsed,
    part,
    part_graph,
    reached,
    read_front_doors,
    read_imports,
    says_not_none,
    side_entrances,
    users,
)

FLOWS = {
    "builder": ["version", "search_path", "printable", "errors", "installing", "progress", "files", "cores", "digest",
                "tensors", "interrupts", "bounded", "arrays", "user_code", "model", "batching", "samples", "record",
                "naming", "config", "proof", "lowering", "tensorrt", "repository", "bucket", "fetching", "publishing",
                "exporting", "api", "cli", "__main__"],
    "loadtest": ["search_path", "printable", "errors", "console", "files", "wire", "scenarios", "options", "settings",
                 "checking", "server", "run", "report", "locustfile", "launch", "commands",
                 "__main__"],
}  # fmt: skip
"""The parts of a package from left to right: none may reach one to its right, not even through others."""

BESIDE = {"deployment", "server", "tuning"}
"""The parts of `builder` that are no step of the flow. Only `api` and the command line use them."""

ONLY_IN = {
    "onnxruntime": {
        "builder.lowering.int8.inserting",
        "builder.proof.session",
        "builder.proof.verification",
        "builder.server.backends.onnxruntime.model",
    },
    "tensorrt": set(),  # `builder.tensorrt.library` imports what is installed by its name
    "polygraphy": {f"builder.tensorrt.{name}" for name in ("building", "library", "messages", "parsing", "running")},
    "torch": {
        f"builder.exporting.{module}"
        for module in (
            "branches",
            "exporters",
            "factories",
            "found",
            "frozen",
            "hugging_face",
            "programs",
            "quiet",
            "repeating",
            "results",
            "scripts",
            "state",
            "subject",
            "torch_files",
        )
    },
    "triton_python_backend_utils": {"builder.server.backends.onnxruntime.model"},
    "httptools": {"loadtest.wire.http1"},
    "hpack": {"loadtest.wire.http2"},
    "hdrh": {"loadtest.run.latencies"},
    "matplotlib": {"loadtest.report.compare.picture"},
    "flask": {"loadtest.report.web"},
    "opentelemetry": {"loadtest.run.telemetry"},
    "locust": {
        "loadtest.launch",
        "loadtest.locustfile",
        "loadtest.run.leader",
        "loadtest.run.locust_stats",
        "loadtest.run.processes",
        "loadtest.run.telemetry",
        "loadtest.run.worker",
        "loadtest.report.outcome",
        "loadtest.report.web",
    },
}
HEAVY = {"google.protobuf", "gevent", "grpc", "locust", "matplotlib", "ml_dtypes", "numpy", "onnx", "onnx_ir",
         "onnxruntime", "tensorrt", "tritonclient"}  # fmt: skip
EMPTY_NAMES = {"base", "common", "core", "handler", "handlers", "helper", "helpers", "manager", "misc", "util", "utils"}

MOST_COMPLEX = 15
"""The most paths through one function, counted with every `and` and `or`."""

MOST_ASSERTS = 10
"""In all of `builder`."""


# ---- The order of packages and modules


def backward(graph: Graph, flow: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of a flow where the left one reaches the right one."""
    return [
        (left, right) for index, left in enumerate(flow) for right in flow[index + 1 :] if right in reached(graph, left)
    ]


def test_every_part_of_builder_is_in_the_flow_or_beside_it() -> None:
    parts = {name for module in SOURCES if (name := part(module)) is not None}
    assert sorted([*FLOWS["builder"], *BESIDE]) == sorted(parts)


@pytest.mark.parametrize("package", FLOWS)
def test_no_step_reaches_a_later_step_of_the_flow(package: str) -> None:
    assert backward(part_graph(read_imports(), package), FLOWS[package]) == []


def test_no_step_but_the_command_line_uses_what_is_beside_the_flow() -> None:
    graph = part_graph(read_imports(), "builder")
    assert {name for name in FLOWS["builder"] if BESIDE & reached(graph, name)} == {"api", "cli", "__main__"}


def test_the_errors_import_only_what_makes_their_text_safe_to_print() -> None:
    assert part_graph(read_imports(), "builder")["errors"] == {"printable"}
    assert part_graph(read_imports(), "builder")["printable"] == set()


@pytest.mark.parametrize("package", ["builder", "loadtest"])
def test_no_two_parts_import_each_other(package: str) -> None:
    TopologicalSorter(part_graph(read_imports(), package)).prepare()


def test_no_module_imports_itself_through_others() -> None:
    assert in_circles(module_graph(read_imports(), PACKAGES)) == set()


# ---- The front doors of packages


def test_every_module_has_a_docstring() -> None:
    assert {module for module, path in SOURCES.items() if not ast.get_docstring(parsed(path.read_text()))} == set()


def test_every_package_says_what_it_offers() -> None:
    assert {package for package, door in read_front_doors().items() if door.offered is None} == set()


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_has_all_that_it_offers(package: str) -> None:
    offered = read_front_doors()[package].offered or ()
    assert [name for name in offered if not hasattr(import_module(package), name)] == []
    assert len(offered) == len(set(offered))


def test_other_packages_are_entered_by_their_front_door() -> None:
    """A name comes from `__all__`, or from a module that the package's docstring names in backticks."""
    by = {defining(name, set(SOURCES)) for _, name in side_entrances(read_imports(), read_front_doors())}
    assert {found[0] for found in by if found} == set()


def test_no_module_imports_a_private_name() -> None:
    private = {
        (module, name)
        for module, names in read_imports().items()
        for name in names
        if (found := defining(name, set(SOURCES))) and found[1].startswith("_") and not found[1].startswith("__")
    }
    assert private == set()


# ---- Who may use which library


@pytest.mark.parametrize(("library", "allowed"), ONLY_IN.items())
def test_a_runtime_is_imported_only_where_the_design_says(library: str, allowed: set[str]) -> None:
    assert users(read_imports(), library) <= allowed


def test_locust_is_imported_only_by_the_load_test() -> None:
    assert {module for module in users(read_imports(), "locust") if not module.startswith("loadtest")} == set()


def test_builder_and_loadtest_do_not_import_each_other() -> None:
    assert {module for module in users(read_imports(), "builder") if module.startswith("loadtest")} == set()
    assert {module for module in users(read_imports(), "loadtest") if module.startswith("builder")} == set()


PRINTERS = {
    "builder.cli.output",
    "builder.cli.reference",  # prints docs/cli.md
    "builder.proof.session",  # prints what it held back, line by line and escaped
    "builder.server.foreground",  # prints the addresses of its own server
    "loadtest.console",
}
"""The modules that print. All others hand their text to these, which make it safe to print."""


def printing(source: str) -> list[str]:
    """Return the calls in a source that print."""
    called = [ast.unparse(node.func) for node in ast.walk(parsed(source)) if isinstance(node, ast.Call)]
    return [
        call for call in called if re.fullmatch(r"(.*[cC]onsole\.)?print|.*\bs?echo|.*\bstd(out|err)\w*\.write", call)
    ]


def test_text_leaves_the_program_in_few_places() -> None:
    assert {module for module, path in SOURCES.items() if printing(path.read_text())} == PRINTERS


def test_the_backend_that_runs_inside_triton_needs_nothing_of_the_package() -> None:
    assert not {
        name for name in read_imports()["builder.server.backends.onnxruntime.model"] if name.startswith("builder")
    }


def modules_loaded(*command: str) -> set[str]:
    """Return the names of all modules that a Python process imports while it runs `command`."""
    done = subprocess.run([sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip() for line in lines}


def test_help_imports_nothing_heavy() -> None:
    loaded = modules_loaded("-m", "builder", "--help")
    assert "builder.cli" in loaded
    assert loaded & HEAVY == set()


# ---- Names


def repeats_its_package(module: str) -> bool:
    """Whether a module is named like the package it is in, as `proof.proof` and `rules.rule` are."""
    *_, package, name = ["", *module.split(".")]
    return package.removesuffix("s") in [word.removesuffix("s") for word in name.split("_")]


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert {module for module in SOURCES if EMPTY_NAMES & set(module.split("."))} == set()


def test_no_module_repeats_the_name_of_its_package() -> None:
    assert {module for module in SOURCES if repeats_its_package(module)} == set()


# ---- The code of functions


def paths_through(source: str) -> dict[str, int]:
    """Return for each function one path, and one more for every branch, `and` and `or` in it."""
    found = lizard.analyze_file.analyze_source_code("source.py", source)
    return {function.name: function.cyclomatic_complexity for function in found.function_list}


def test_no_function_has_too_many_paths() -> None:
    folders = ("benchmarks", "builder", "docs", "examples", "loadtest", "tests")
    found = [path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py")]
    files = [path for path in found if ".cache" not in path.parts]  # what a benchmark downloaded
    counted = {f"{f}:{name}": paths for f in files for name, paths in paths_through((ROOT / f).read_text()).items()}
    assert {name for name, paths in counted.items() if paths > MOST_COMPLEX} == set()


def test_batching_asserts_nowhere_that_something_is_not_none() -> None:
    batching = {module: path for module, path in SOURCES.items() if part(module) == "batching"}
    found = {module for module, path in batching.items() if any(map(says_not_none, asserts(path.read_text())))}
    assert found == set()


def test_builder_asserts_little() -> None:
    """An assert is for what no type can say; anything that a caller may do wrong raises its own error."""
    found = sum(len(asserts(path.read_text())) for module, path in SOURCES.items() if module.startswith("builder"))
    assert found <= MOST_ASSERTS


def catching_everything(source: str) -> list[int]:
    """Return the lines of a source where `except` names no exception, or Exception."""
    handlers = [node for node in ast.walk(parsed(source)) if isinstance(node, ast.ExceptHandler)]
    return [h.lineno for h in handlers if h.type is None or "Exception" in ast.unparse(h.type).strip("()").split(", ")]


GUARDS = {
    "builder.batching.walk": 1,
    "builder.model.loading": 1,
    "builder.model.pickles": 1,
    "builder.publishing.blame": 1,
    "loadtest.errors": 1,
    "loadtest.run.traffic": 1,
}
"""Where foreign data comes in, an unexpected exception becomes an error that names the file, and the node if it can.
In a load test it fails the run, while Locust would log and forget it."""


def test_nothing_but_the_guards_catches_every_exception() -> None:
    found = {module: len(catching_everything(path.read_text())) for module, path in SOURCES.items()}
    assert {module: count for module, count in found.items() if count} == GUARDS


# ---- The checks of this module can fail; tests/test_sources.py shows it of those it borrows


def test_a_backward_import_through_a_third_module_is_found() -> None:
    imports = {"builder.errors": {"builder.naming.X"}, "builder.naming": {"builder.cli.main"}}
    assert backward(part_graph(imports, "builder"), FLOWS["builder"]) == [
        ("errors", "naming"),
        ("errors", "cli"),
        ("naming", "cli"),
    ]


def test_two_parts_that_import_each_other_are_found() -> None:
    imports = {"builder.model": {"builder.naming.X"}, "builder.naming": {"builder.model.loading.Model"}}
    with pytest.raises(CycleError):
        TopologicalSorter(part_graph(imports, "builder")).prepare()


def test_a_module_that_prints_is_found() -> None:
    calls = [
        "print('a')",
        "click.echo('a')",
        "click.secho('a')",
        "echo('a')",
        "sys.stderr.write('a')",
        "console.print('a')",
    ]
    assert [len(printing(call)) for call in calls] == [1] * len(calls)
    assert printing("output.print_result('a')\nstream.write('a')\nrun.echoes()") == []


def test_the_probe_sees_a_heavy_import() -> None:
    assert {"numpy"} <= modules_loaded("-c", "import numpy") & HEAVY


@pytest.mark.parametrize(
    ("module", "repeats"),
    [("builder.proof.proof", True), ("builder.rules.size_rule", True), ("builder.proof.prover", False)],
)
def test_a_module_that_repeats_its_package_is_found(module: str, repeats: bool) -> None:
    assert repeats_its_package(module) is repeats


def test_every_and_and_or_counts_as_a_path() -> None:
    source = "def simple(a):\n    return a\n\ndef long(a, b, c):\n    if a and b or c:\n        return a\n"
    assert paths_through(source) == {"simple": 1, "long": 4}


def test_an_except_that_catches_everything_is_found() -> None:
    handlers = ["except:", "except Exception:", "except (ValueError, Exception) as e:", "except ValueError:"]
    assert [bool(catching_everything(f"try:\n    pass\n{handler}\n    pass\n")) for handler in handlers] == [
        True,
        True,
        True,
        False,
    ]
