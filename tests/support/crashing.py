"""Run `crashes.py`, which kills a change of a repository before each of its calls."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def crash(before: Path, out: Path, change: str = "install") -> list[Path]:
    """Kill a change before each of its calls; return the folders left, the last of a change that completed."""
    script = [sys.executable, "-W", "ignore", str(TESTS / "support" / "crashes.py"), str(before), str(out), change]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "OPENBLAS_NUM_THREADS": "1",
    }
    subprocess.run(script, check=True, env=environment)
    return sorted(out.iterdir(), key=lambda folder: int(folder.name))
