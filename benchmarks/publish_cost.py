"""Measure what `publish` costs as a whole process, compared with the least it could cost (`floor.py`).

    python benchmarks/publish_cost.py [--rounds 7] [--json] [MODEL.onnx …]

Both run once without being measured and then alternate, each in a new process with a new repository. The results are
medians over the rounds: of processor time (user and system, all threads), of elapsed time, and of the ratios of each
pair. Without models, it uses the example and a network of the size of ResNet-50.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from random_networks import CACHE, resnet50

from builder.proof.prover import batches

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "digits" / "digits.onnx"


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one process: processor time of all its threads, and elapsed time, both in seconds."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """The medians over the rounds for one model."""

    model: str
    megabytes: float
    rounds: int
    publish: Cost
    floor: Cost
    cpu_ratio: float
    wall_ratio: float


def run(command: Sequence[str | Path]) -> Cost:
    """Run a command without showing its output, and return its cost."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with process:
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(errors.decode())
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - started)


def publish_command(model: Path, repository: Path) -> list[str | Path]:
    """Return the command that publishes `model` under its own name."""
    return [sys.executable, "-m", "builder", "publish", model, "--repository", repository]


def floor_command(model: Path, version_dir: Path, folder: Path) -> list[str | Path]:
    """Return the command that does only what publishing `version_dir` could not avoid."""
    proof = json.loads((version_dir / "manifest.json").read_text())["proof"]
    proven = folder / "batches.json"
    proven.write_text(json.dumps(list(batches(proof["batch_sizes"], proof["rows"]))))
    files = (version_dir / "model.onnx", version_dir / "reference.npz", proven, folder / "out.onnx")
    return [sys.executable, HERE / "floor.py", model, *files]


def measure(model: Path, rounds: int) -> Result:
    """Run both in turns, and return the medians."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        run(publish_command(model, folder / "first"))
        (version_dir,) = (folder / "first").glob("*/1")
        floor = floor_command(model, version_dir, folder)
        run(floor)
        pairs = [(run(publish_command(model, folder / f"round_{i}")), run(floor)) for i in range(rounds)]
    publishes, floors = zip(*pairs, strict=True)
    return Result(
        model=model.name,
        megabytes=model.stat().st_size / 1e6,
        rounds=rounds,
        publish=median_of(publishes),
        floor=median_of(floors),
        cpu_ratio=median(a.cpu_s / b.cpu_s for a, b in pairs),
        wall_ratio=median(a.wall_s / b.wall_s for a, b in pairs),
    )


def median_of(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(median(cost.cpu_s for cost in costs), median(cost.wall_s for cost in costs))


def main() -> None:
    """Measure every model and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [measure(model, arguments.rounds) for model in arguments.models or [EXAMPLE, resnet50()]]
    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
        return
    print(f"{'model':24} {'MB':>7} {'publish CPU s':>14} {'floor CPU s':>12} {'CPU ratio':>10} {'wall ratio':>11}")
    for each in results:
        print(
            f"{each.model:24} {each.megabytes:7.1f} {each.publish.cpu_s:14.2f} {each.floor.cpu_s:12.2f}"
            f" {each.cpu_ratio:10.2f} {each.wall_ratio:11.2f}"
        )


if __name__ == "__main__":
    main()
