"""Measure how the cost of `publish`, and of opening what it published, grows with the number of nodes.

    python benchmarks/growth.py [--nodes 700 2800 11200 44800] [--rounds 3] [--json]

Three kinds of chains are published, each node a small one, so that the time goes into the graph and not into numbers:

    heads      blocks as attention writes them: Reshape, Transpose, Tanh, Transpose, Reshape, MatMul, Add
    folded     blocks with the batch folded into the rows: Reshape to `[rows, C]`, Gemm, and back
    functions  the blocks of `heads` in functions that call functions, four times each

In every round, each size is published in a new process, and then the original and the published file are opened in ONNX
Runtime, each in a new process, with its optimizations off and with all of them. The results are medians over the
rounds of processor time (user and system, all threads). What publishing a chain of one block takes, mostly imports, is
taken off, so that the cost of a node can be compared from size to size. The time of opening leaves imports out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import TensorProto, helper
from publish_cost import publish_command, run
from random_networks import CACHE, Network

ROWS, HEADS, WIDTH = 4, 2, 8
BLOCK = 7
"""The nodes of a block."""
FAN = 4
"""How many calls a function makes of the next one."""
LEVELS = ("off", "all")


def heads(count: int) -> onnx.ModelProto:
    """Return `count` blocks that split the features into heads and join them again."""
    network, x = Network(), "x"
    for _ in range(count):
        h = network.node("Reshape", [x, _target(network, 1, ROWS, HEADS, WIDTH // HEADS)])
        h = network.node("Transpose", [h], perm=[0, 2, 1, 3])
        h = network.node("Transpose", [network.node("Tanh", [h])], perm=[0, 2, 1, 3])
        h = network.node("Reshape", [h, _target(network, 1, ROWS, WIDTH)])
        h = network.node("MatMul", [h, _weight(network)])
        x = network.node("Add", [h, x])
    return _model(network)


def folded(count: int) -> onnx.ModelProto:
    """Return `count` blocks that fold the batch into the rows."""
    network, x = Network(), "x"
    for _ in range(count):
        h = network.node("Reshape", [x, _target(network, ROWS, WIDTH)])
        h = network.node("Gemm", [h, _weight(network)])
        h = network.node("Reshape", [h, _target(network, 1, ROWS, HEADS, WIDTH // HEADS)])
        h = network.node("Transpose", [network.node("Tanh", [h])], perm=[0, 2, 1, 3])
        h = network.node("Reshape", [h, _target(network, 1, ROWS, WIDTH)])
        x = network.node("Add", [h, x])
    return _model(network)


def functions(count: int) -> onnx.ModelProto:
    """Return the least power of four of blocks that is not below `count`, in functions that call functions."""
    model = heads(1)
    opsets = [*model.opset_import, helper.make_opsetid("own", 1)]
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    nodes = [*constants, *model.graph.node]
    bodies = [helper.make_function("own", "f0", ["x"], ["y"], nodes, opsets)]
    size = 1
    while size < count:
        values = ["x", *(f"v{k}" for k in range(1, FAN)), "y"]
        callee = bodies[-1].name
        calls = [helper.make_node(callee, [a], [b], domain="own") for a, b in pairwise(values)]
        bodies.append(helper.make_function("own", f"f{len(bodies)}", ["x"], ["y"], calls, opsets))
        size *= FAN
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.append(helper.make_node(bodies[-1].name, ["x"], ["y"], domain="own"))
    model.opset_import.append(opsets[-1])
    model.functions.extend(bodies)
    return model


KINDS: Mapping[str, Callable[[int], onnx.ModelProto]] = {"heads": heads, "folded": folded, "functions": functions}


def _target(network: Network, *dims: int) -> str:
    return network.constant(np.asarray(dims, np.int64))


def _weight(network: Network) -> str:
    """Add a matrix so small that thousands of blocks neither blow up a difference nor make it vanish."""
    return network.constant(network.rng.standard_normal((WIDTH, WIDTH), np.float32) / 1000)


def _model(network: Network) -> onnx.ModelProto:
    network.nodes[-1].output[:] = ["y"]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, ROWS, WIDTH]) for name in ("x", "y"))
    graph = helper.make_graph(network.nodes, "chain", [x], [y], network.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@dataclass(frozen=True, slots=True)
class Result:
    """The medians for one chain, in seconds of processor time.

    Attributes:
        kind: Which chain.
        nodes: How many nodes it has, those of a function counted at every call.
        publish_s: The time to publish it, without what one block takes.
        node_ms: The same for one node, in milliseconds.
        original_s: The time to open the original, by ONNX Runtime's level of optimization.
        published_s: The time to open the published file.
    """

    kind: str
    nodes: int
    publish_s: float
    node_ms: float
    original_s: Mapping[str, float]
    published_s: Mapping[str, float]


def open_file(path: str, level: str) -> None:
    """Print the processor time that opening a file takes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, "ORT_DISABLE_ALL" if level == "off" else "ORT_ENABLE_ALL"
    )
    before = time.process_time()
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    print(time.process_time() - before)


def opening_s(path: Path, level: str) -> float:
    """Return the processor time that opening a file takes in a new process."""
    command = [sys.executable, __file__, "--open", level, str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(kind: str, sizes: Sequence[int], rounds: int, folder: Path) -> list[Result]:
    """Publish and open the chains of one kind in turns."""
    files = {count: folder / f"{kind}_{count}.onnx" for count in (1, *(max(1, n // BLOCK) for n in sizes))}
    for count, path in files.items():
        onnx.save(KINDS[kind](count), path)
    publishes: dict[int, list[float]] = {count: [] for count in files}
    openings: dict[tuple[int, str, str], list[float]] = {}
    for i in range(rounds):
        for count, path in files.items():
            repository = folder / f"repository_{i}"
            publishes[count].append(run(publish_command(path, repository)).cpu_s)
            published = repository / path.stem / "1" / "model.onnx"
            for side, file in (("original", path), ("published", published)):
                for level in LEVELS:
                    openings.setdefault((count, side, level), []).append(opening_s(file, level))
    return [_result(kind, count, publishes, openings) for count in files if count > 1]


def _result(
    kind: str,
    count: int,
    publishes: Mapping[int, Sequence[float]],
    openings: Mapping[tuple[int, str, str], Sequence[float]],
) -> Result:
    blocks = count
    if kind == "functions":
        blocks = 1
        while blocks < count:
            blocks *= FAN
    spent = median(a - b for a, b in zip(publishes[count], publishes[1], strict=True))
    original, published = (
        {level: median(openings[count, side, level]) for level in LEVELS} for side in ("original", "published")
    )
    return Result(kind, blocks * BLOCK, spent, spent * 1000 / (blocks * BLOCK), original, published)


def show_head() -> None:
    """Print the head of the table."""
    print(
        f"{'':10} {'nodes':>7} {'publish CPU s':>14} {'ms per node':>12}"
        f" {'open off: original':>19} {'published':>10} {'open all: original':>19} {'published':>10}"
    )


def show(results: Sequence[Result]) -> None:
    """Print rows of the table."""
    for each in results:
        opened = [side[level] for level in LEVELS for side in (each.original_s, each.published_s)]
        print(
            f"{each.kind:10} {each.nodes:7} {each.publish_s:14.2f} {each.node_ms:12.2f}"
            f" {opened[0]:19.2f} {opened[1]:10.2f} {opened[2]:19.2f} {opened[3]:10.2f}",
            flush=True,
        )


def main() -> None:
    """Measure every kind of chain and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[700, 2800, 11200, 44800])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--open", nargs=2, metavar=("LEVEL", "FILE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.open:
        level, path = asked.open
        open_file(path, level)
        return
    CACHE.mkdir(exist_ok=True)
    results: list[Result] = []
    if not asked.json:
        show_head()
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        for kind in asked.kinds:
            found = measure(kind, asked.nodes, asked.rounds, Path(name))
            results += found
            if not asked.json:
                show(found)
    if asked.json:
        print(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
