"""Run the tables on a machine with a GPU and without a network, from the folders that `gpu_wheels.py` has packed.

    python3 benchmarks/gpu/gpu_machine.py take FOLDER…                     take in folders that came with this call
    python3 benchmarks/gpu/gpu_machine.py run SET -- ARGUMENTS OF PYTHON   install a set, once, and run Python with it

It imports nothing but the standard library. What was taken in and installed is kept in `$GPU_KIT` (/tmp/gpu-kit).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[2]
KIT = Path(os.environ.get("GPU_KIT", "/tmp/gpu-kit"))
ONE_PYTHON = "triton"
"""The set with an environment of its own: Triton's stub starts the first `python3` on PATH, and needs NumPy 1."""


def take(folders: Sequence[str]) -> None:
    """Copy the pieces of some folders, and put the wheels together that are complete.

    Raises:
        SystemExit: A wheel is damaged.
    """
    for name in folders:
        folder = Path(name)
        target = KIT / "wheels" / folder.name.rstrip("0123456789")
        target.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            shutil.copy(file, target)
        for digest in target.glob("*.sha256"):
            _put_together(digest)
        print("has", ", ".join(sorted(wheel.name for wheel in target.glob("*.whl"))) or "no whole wheel yet")


def _put_together(digest: Path) -> None:
    wheel = digest.with_suffix("")
    pieces = sorted(wheel.parent.glob(f"{wheel.name}.[0-9][0-9]"))
    with wheel.open("wb") as whole:
        for piece in pieces:
            whole.write(piece.read_bytes())
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != digest.read_text():
        wheel.unlink()
        raise SystemExit(f"gpu_machine: {wheel.name} is damaged, or was not sent whole: {len(pieces)} pieces")
    for done in (*pieces, digest):
        done.unlink()


def install(name: str) -> None:
    """Install the wheels of a set, and of the set that all have in common, unless that was done before."""
    for one in dict.fromkeys(("common", name)):
        target, wheels = KIT / "site" / one, sorted((KIT / "wheels" / one).glob("*.whl"))
        if target.exists() or not wheels:
            continue
        started = time.monotonic()
        if one == ONE_PYTHON:
            target = _make_environment(target)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--no-cache-dir", "--upgrade", f"--target={target}", *wheels], check=True)
        print(f"installed {one} in {time.monotonic() - started:.0f} s", flush=True)


def _make_environment(folder: Path) -> Path:
    """Make a virtual environment on top of this machine's packages; return its folder of packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "below.pth").write_text(f"{KIT / 'site' / 'common'}\n{sysconfig.get_path('purelib')}\n")
    return packages


def run(name: str, arguments: Sequence[str]) -> int:
    """Run Python with a set, and with CUDA's libraries where PyTorch has them; return its exit code."""
    install(name)
    python, paths = Path(sys.executable), [PROJECT, KIT / "site" / name, KIT / "site" / "common"]
    if name == ONE_PYTHON:
        python, paths = KIT / "site" / name / "bin" / "python", [PROJECT]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "LD_LIBRARY_PATH": os.pathsep.join([*_libraries(), os.environ.get("LD_LIBRARY_PATH", "")]),
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]),
    }
    return subprocess.run([python, *arguments], env=environment, cwd=PROJECT, check=False).returncode


def _libraries() -> Iterator[str]:
    """Yield the folders with CUDA's libraries: of NVIDIA's packages, and of CUDA itself."""
    for folder in sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob("*/lib")):
        yield str(folder)
    yield "/usr/local/cuda/lib64"


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says, and return the exit code."""
    match list(arguments):
        case ["take", *folders] if folders:
            take(folders)
            return 0
        case ["run", name, "--", *rest] if rest:
            return run(name, rest)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
