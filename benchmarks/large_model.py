"""Measure what `publish` costs for a model of several gigabytes, compared with loading it twice and copying it.

    python benchmarks/large_model.py [--gigabytes 3] [--rounds 3] [--json]

It makes a network of matrix products with its weights in a separate file, larger than any protobuf message can be. Then
it alternates between publishing the network and the floor: a process that opens the file in ONNX Runtime, closes it,
opens it again, and copies it, flushed to disk. Each runs in a new process. The results are medians over the rounds of
processor time, elapsed time and peak resident memory. It needs disk space for three copies of the model.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import TensorProto, helper
from random_networks import CACHE

WIDTH = 4096
LAYER_BYTES = 4 * WIDTH * WIDTH
WEIGHTS = "weights.bin"


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one process: processor time of all its threads, elapsed time, and peak resident memory."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def make_model(folder: Path, size_bytes: int) -> Path:
    """Write a network with a batch of 1 and with weights of about `size_bytes`."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    with (folder / WEIGHTS).open("wb") as stream:
        for layer in range(max(1, round(size_bytes / LAYER_BYTES))):
            weight = TensorProto(
                name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[WIDTH] * 2, data_location=TensorProto.EXTERNAL
            )
            place = {"location": WEIGHTS, "offset": stream.tell(), "length": LAYER_BYTES}
            weight.external_data.extend(onnx.StringStringEntryProto(key=k, value=str(v)) for k, v in place.items())
            weights.append(weight)
            values = rng.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
            stream.write(values.tobytes())
            nodes.append(helper.make_node("MatMul", [f"x{layer}", weight.name], [f"x{layer + 1}"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in ("x0", nodes[-1].output[0]))
    graph = helper.make_graph(nodes, "large", [x], [y], weights)
    path = folder / "large.onnx"
    path.write_bytes(
        helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    )
    return path


def run_floor(model: Path, target: Path) -> None:
    """Load the model twice and copy it."""
    import onnxruntime

    for _ in range(2):
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    target.mkdir()
    for file in (model, model.parent / WEIGHTS):
        copied = shutil.copyfile(file, target / file.name)
        with copied.open("rb+") as stream:
            os.fsync(stream.fileno())


def run(command: Sequence[str | Path], target: Path) -> Cost:
    """Run a command that writes to `target`, delete what it wrote, and return what it cost."""
    started = time.perf_counter()
    process = subprocess.Popen([*command, target], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with process:
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    elapsed = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(errors.decode())
    shutil.rmtree(target)
    return Cost(usage.ru_utime + usage.ru_stime, elapsed, usage.ru_maxrss / 1e3)


def median_of(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(
        cpu_s=median(cost.cpu_s for cost in costs),
        wall_s=median(cost.wall_s for cost in costs),
        peak_mb=median(cost.peak_mb for cost in costs),
    )


def main() -> None:
    """Measure both in turns, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--floor", nargs=2, type=Path, metavar=("MODEL", "TARGET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.floor:
        run_floor(*arguments.floor)
        return
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        model = make_model(folder, round(arguments.gigabytes * 1e9))
        size = (folder / WEIGHTS).stat().st_size
        publish: list[str | Path] = [sys.executable, "-m", "builder", "publish", model, "--repository"]
        floor: list[str | Path] = [sys.executable, __file__, "--floor", model]
        run(floor, folder / "warm")
        pairs = [(run(publish, folder / "models"), run(floor, folder / "copy")) for _ in range(arguments.rounds)]
    published, floors = (median_of(costs) for costs in zip(*pairs, strict=True))
    result = {
        "bytes": size,
        "rounds": arguments.rounds,
        "publish": asdict(published),
        "floor": asdict(floors),
        "cpu_ratio": median(a.cpu_s / b.cpu_s for a, b in pairs),
        "wall_ratio": median(a.wall_s / b.wall_s for a, b in pairs),
        "peak_above_floor_mb": median(a.peak_mb - b.peak_mb for a, b in pairs),
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{size / 1e9:.2f} GB of weights{'CPU s':>10} {'wall s':>8} {'peak MB':>9}")
    for side, cost in (("publish", published), ("floor", floors)):
        print(f"{side:18} {cost.cpu_s:11.1f} {cost.wall_s:8.1f} {cost.peak_mb:9.0f}")
    above = result["peak_above_floor_mb"]
    print(f"{'ratio':18} {result['cpu_ratio']:11.2f} {result['wall_ratio']:8.2f} {above:+9.0f}")


if __name__ == "__main__":
    main()
