"""Load tests of a real MLServer: what its models answer right and wrong, and how many requests it answers.

    python benchmarks/load_mlserver.py

installs MLServer into a virtual environment in a temporary folder, serves three models that add up four numbers, and
sends them rows with right answers over both protocols. `bare` does not say what it takes, `listed` does, and `wrong`
is off by 1 in every answer. It prints a table in Markdown.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.load_run import Server, environment  # noqa: E402
from support.mlserver import install, serving_mlserver  # noqa: E402


def main() -> None:
    """Run every combination and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32)
        np.savez(folder / "rows.npz", **{"input:x": rows, "output:y": rows.sum(axis=1, keepdims=True)})
        program = install(folder / "mlserver")
        (folder / "models").mkdir()
        print("| protocol | model | requests/s | p50 us | requests | wrong | not checked | failed | exit code |")
        print("|---|---|---|---|---|---|---|---|---|")
        with serving_mlserver(program, folder / "models") as server:
            for protocol in ("http", "grpc"):
                for model in ("bare", "listed", "wrong"):
                    print(_line(server, protocol, model, folder), flush=True)


def _line(server: Server, protocol: str, model: str, folder: Path) -> str:
    report = folder / f"{protocol}-{model}"
    command = [sys.executable, "-m", "loadtest", "run", "--host", f"http://{server.http_address}", "--model", model]
    command += ["--grpc-address", server.grpc_address, "--protocol", protocol, "--input-data", str(folder / "rows.npz")]
    command += ["--concurrency", "4", "--stage-time", "10", "--report-dir", str(report)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    result: dict[str, Any] = json.loads((report / "result.json").read_text())
    (stage,), totals = result["stages"], result["totals"]
    figures = [f"{stage['throughput_requests_per_s']:.0f}", f"{stage['latency_us']['p50']:.0f}"]
    counts = [totals["requests"], sum(totals["wrong"].values()), totals["unchecked"], sum(totals["failures"].values())]
    return f"| {' | '.join(map(str, [protocol, model, *figures, *counts, done.returncode]))} |"


if __name__ == "__main__":
    main()
