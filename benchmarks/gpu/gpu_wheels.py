"""Pack what a machine with a GPU and without a network needs, in folders that are small enough to be sent one by one.

    python benchmarks/gpu/gpu_wheels.py [--for common rtx onnx triton] [--python 3.12] [--most 50] [--into .gpu-kit]

It downloads wheels from PyPI with pip, in the versions of constraints.txt, cuts large ones into pieces, and writes
`calls.txt`: what to send and to run, call by call. `gpu_machine.py` puts the pieces together there. It is taken for
granted that the machine has PyTorch for CUDA 13 with what that brings, ONNX and ONNX Runtime: `--for` says what else to
pack. NVIDIA's wheels are for your own tests: do not pass them on.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[2]
MIB = 1 << 20
SETS = {
    "common": ("onnx-ir", "click", "filelock", "tritonclient", "python-rapidjson"),
    "rtx": ("polygraphy", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"),
    "onnx": ("onnxruntime-gpu",),
    "triton": ("nvidia-pytriton", "numpy"),
}
"""The packages of each set."""

SAME_VERSION = {"onnxruntime-gpu": "onnxruntime"}
GLIBC = ("2_35", "2_34", "2_28", "2_27", "2_24", "2_17")
LEFT_OUT = {"onnxruntime-gpu": re.compile(r"libonnxruntime\.so|providers_tensorrt")}
"""Files that Python does not load: the library for C programs, and the provider for a TensorRT that is not there."""

MACHINE = "python3 benchmarks/gpu/gpu_machine.py"
TABLE = "benchmarks/gpu/gpu_table.py"
PYTEST = "-m pytest --noconftest -p no:cacheprovider -m gpu"


@dataclass(frozen=True, slots=True)
class Run:
    """What is run when a set is complete: its name in the log, its seconds at most, and the arguments of Python."""

    log: str
    seconds: int
    arguments: str


def tests_in(folder: str) -> str:
    """Return the files with tests marked `gpu`. Others may import what is not there."""
    files = sorted((PROJECT / "tests" / folder).glob("test_*.py"))
    return " ".join(str(file.relative_to(PROJECT)) for file in files if "mark.gpu" in file.read_text())


RUNS = {
    "common": (Run("probe", 30, f"{TABLE} probe"),),
    "rtx": (
        Run("plans", 200, f"{TABLE} plans"),
        Run("plans-tests", 80, f"{PYTEST} {tests_in('tensorrt')}"),
    ),
    "onnx": (
        Run("onnx", 100, f"{TABLE} onnx"),
        Run("onnx-tests", 80, f"{PYTEST} {tests_in('lowering')}"),
    ),
    "triton": (
        Run("triton", 60, f"{TABLE} triton"),
        Run("triton-tests", 60, f"{PYTEST} {tests_in('server')}"),
    ),
}


def pinned(package: str, python: str) -> str:
    """Return the version of a package in constraints.txt, for a version of Python."""
    name = SAME_VERSION.get(package, package)
    for line in (PROJECT / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        found = Requirement(line)
        if found.name == name and (found.marker is None or found.marker.evaluate({"python_version": python})):
            return str(found.specifier).removeprefix("==")
    raise SystemExit(f"gpu_wheels: constraints.txt has no {name}")


def download(packages: Sequence[str], python: str, folder: Path) -> list[Path]:
    """Download the wheels of packages, without what they need, for Linux x86-64 and a version of Python."""
    platforms = [f"--platform=manylinux_{version}_x86_64" for version in GLIBC]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    pip += [f"--python-version={python}", "--implementation=cp", *platforms, "--platform=manylinux2014_x86_64"]
    pip += ["--platform=manylinux1_x86_64", f"--dest={folder}"]
    subprocess.run([*pip, *(f"{package}=={pinned(package, python)}" for package in packages)], check=True)
    for package in packages:
        if package in LEFT_OUT:
            (wheel,) = folder.glob(f"{package.replace('-', '_')}-*.whl")
            leave_out(wheel, LEFT_OUT[package])
    return sorted(folder.glob("*.whl"))


def leave_out(wheel: Path, files: re.Pattern[str]) -> None:
    """Write a wheel again without some of its files, and compressed as well as it goes."""
    smaller = wheel.with_suffix(".smaller")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(smaller, "w") as new:
        for item in old.infolist():
            if not files.search(item.filename):
                new.writestr(item, old.read(item), zipfile.ZIP_DEFLATED, 9)
    smaller.replace(wheel)


def cut(wheels: Sequence[Path], most: int) -> Iterator[list[tuple[str, bytes]]]:
    """Yield the files of one folder after the other, each of at most `most` bytes: wheels, or pieces of them.

    Each wheel has its digest beside its last piece, which shows that all of it is there.
    """
    together: list[tuple[str, bytes]] = []
    room = most
    for wheel in wheels:
        content, start, number = wheel.read_bytes(), 0, 1
        while start < len(content):
            if not room:
                yield together
                together, room = [], most
            piece = content[start : start + room]
            together.append((f"{wheel.name}.{number:02d}", piece))
            start, number, room = start + len(piece), number + 1, room - len(piece)
        together.append((f"{wheel.name}.sha256", hashlib.sha256(content).hexdigest().encode()))
    yield together


def lay(name: str, wheels: Sequence[Path], into: Path, most: int) -> list[Path]:
    """Write the folders of one set, `NAME1`, `NAME2` and so on, and return them."""
    for old in into.glob(f"{name}[0-9]*"):
        shutil.rmtree(old)
    folders = []
    for number, files in enumerate(cut(wheels, most), 1):
        folder = into / f"{name}{number}"
        folder.mkdir(parents=True)
        for file, content in files:
            (folder / file).write_bytes(content)
        folders.append(folder)
    return folders


def calls(laid: dict[str, list[Path]]) -> Iterator[str]:
    """Yield what to send and to run, call by call: `FOLDERS | seconds | command`. The common set goes with the next."""
    sent: list[Path] = []
    runs: list[tuple[str, Run]] = []
    for name, folders in laid.items():
        for folder in folders:
            sent.append(folder)
            if folder == folders[-1]:
                runs += [(name, run) for run in RUNS[name]]
            if name == "common" and len(laid) > 1:
                continue
            shown = " ".join(map(str, sent))
            steps = [f"{MACHINE} take {shown}", *(_step(name, run) for name, run in runs)]
            yield f"{shown} | {30 + sum(run.seconds for _, run in runs)} | {'; '.join(steps)}"
            sent, runs = [], []


def _step(name: str, run: Run) -> str:
    log = f"$OUT/{run.log}.log"
    return f"timeout {run.seconds} {MACHINE} run {name} -- {run.arguments} > {log} 2>&1; tail -n 25 {log}"


def main() -> None:
    """Download, cut and write the sets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--for", dest="sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--python", default="3.12", help="the version of Python on that machine")
    parser.add_argument("--most", type=int, default=50, help="the size of a folder in MiB, at most")
    parser.add_argument("--into", type=Path, default=Path(".gpu-kit"))
    asked = parser.parse_args()
    laid = {}
    for name in asked.sets:
        with tempfile.TemporaryDirectory() as folder:
            laid[name] = lay(name, download(SETS[name], asked.python, Path(folder)), asked.into, asked.most * MIB)
    (asked.into / "calls.txt").write_text("".join(f"{line}\n\n" for line in calls(laid)))
    for place in (place for places in laid.values() for place in places):
        print(f"{sum(file.stat().st_size for file in place.iterdir()) / MIB:5.1f} MiB  {place}")
    print(f"{asked.into / 'calls.txt'} says what to send and to run")


if __name__ == "__main__":
    main()
