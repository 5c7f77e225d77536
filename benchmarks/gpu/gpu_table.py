"""Run what needs an NVIDIA GPU, or as much of it as goes without one, and print a table.

    python benchmarks/gpu/gpu_table.py probe
    python benchmarks/gpu/gpu_table.py plans [--build-only]
    python benchmarks/gpu/gpu_table.py onnx [--cpu]
    python benchmarks/gpu/gpu_table.py triton [--cpu]

`probe` shows what the machine has. `plans` builds plans with the TensorRT, or TensorRT for RTX, that is installed, runs
them on the GPU and compares each row with the original model; `--build-only` needs no GPU. `onnx` publishes ONNX files
in each precision and verifies them with ONNX Runtime on the GPU. `triton` asks a real Triton with an instance on the
CPU, and one with an instance on the GPU.

Options: `--models` and `--precisions` for some of them only, and `--out FOLDER` for the table as JSON, as `PART.json`.
Exit code 1: a row is not as it should be. `README.md` says what to look for.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path

PROJECT = Path(__file__).parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(Path(__file__).parent)]

from builder.errors import ModelError  # noqa: E402

MODELS = ("conv_view_ts11", "encoder_layer_ts17", "text_encoder_ts13", "upscaler_ts12", "class_token_dynamo18")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
PACKAGES = (
    *("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "polygraphy", "tensorrt", "tensorrt-rtx-cu13-libs"),
    *("torch", "nvidia-pytriton", "tritonclient", "click", "protobuf", "pytest"),
)
COMMANDS = (
    ("nvidia-smi", "-L"),
    ("nvidia-smi", "--query-gpu=driver_version,compute_cap,memory.total", "--format=csv,noheader"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        what: What was tried: a model and a precision, or a package.
        result: What came out, in a word or two, or the reason why nothing did.
        is_fine: Whether that is as it should be.
        details: Figures, by the name of their column.
    """

    what: str
    result: str
    is_fine: bool = True
    details: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """What to try: these models in these precisions, with a GPU or as far as it goes without."""

    models: Sequence[str] = MODELS
    precisions: Sequence[str] = PRECISIONS
    has_gpu: bool = True

    def pairs(self) -> Iterator[tuple[Path, str]]:
        """Yield the file of each model with each precision."""
        for name in self.models:
            for precision in self.precisions:
                yield PROJECT / "tests" / "models" / f"{name}.onnx", precision


def reason(error: BaseException, longest: int = 300) -> str:
    """Return an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:longest]


def failed(what: str, error: BaseException) -> Row:
    """Return the row of what raised an error. A model that cannot be in a precision is refused, as it should be.

    What the compiler refuses, or builds without a layer in the precision, is a result to look at.
    """
    from builder.tensorrt import UnbuildableError

    if isinstance(error, ModelError) and not isinstance(error, UnbuildableError):
        return Row(what, f"refused: {' '.join(error.what.split())}"[:150])
    return Row(what, reason(error), is_fine=False)


def probe(_: Asked) -> Iterator[Row]:
    """Show the machine and the versions of what is installed."""
    yield Row("machine", f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for command in COMMANDS:
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            yield Row(" ".join(command), "; ".join((said.stdout or said.stderr).split("\n")).strip("; "))
        except (OSError, subprocess.TimeoutExpired) as error:
            yield Row(" ".join(command), reason(error))
    for package in PACKAGES:
        try:
            yield Row(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Row(package, "not installed")


def table_of(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown, with a column for each detail."""
    columns = list(dict.fromkeys(name for row in rows for name in row.details))
    lines = [["what", "result", *columns], ["---"] * (len(columns) + 2)]
    for row in rows:
        result = row.result if row.is_fine else f"**NOT FINE** {row.result}"
        lines.append([row.what, result, *(str(row.details.get(name, "")) for name in columns)])
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _part(name: str) -> Callable[[Asked], Iterator[Row]]:
    """Import a part when it is run: what another one needs may be missing."""
    if name == "plans":
        import gpu_plans

        return gpu_plans.rows
    if name == "onnx":
        import gpu_onnx

        return gpu_onnx.rows
    if name == "triton":
        import gpu_triton

        return gpu_triton.rows
    return probe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one part, print each row when it is known and then the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("probe", "plans", "onnx", "triton"))
    parser.add_argument("--build-only", "--cpu", action="store_true", help="do without a GPU what goes without one")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="the folder for PART.json")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    started, rows = time.monotonic(), []
    with redirect_stdout(sys.stderr):  # where Polygraphy logs
        for row in _part(asked.part)(Asked(asked.models, asked.precisions, has_gpu=not asked.build_only)):
            rows.append(row)
            print(f"{time.monotonic() - started:6.1f} s  {row.what}: {row.result}", flush=True)
            told = json.dumps([asdict(row) for row in rows], indent=1, default=str)
            (asked.out / f"{asked.part}.json").write_text(told)
    print(f"{table_of(rows)}\n\n{asked.part}: {time.monotonic() - started:.0f} s")
    return 0 if rows and all(row.is_fine for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
