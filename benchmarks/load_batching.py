"""Measure what dynamic batching gains: one model served static, padded to a fixed maximum batch, and dynamic.

    python benchmarks/load_batching.py [MODEL.onnx] [--concurrency 16] [--stage-time 6] [--rounds 3]

In all three ways, the same users send single rows, and all answers are checked, so a way that is fast but wrong fails.
`static` serves the original model. `padded` is what people do without dynamic batching: each request is filled up to
the maximum batch, and only one of its rows counts. `dynamic` is what this project publishes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from builder.server import Server  # noqa: E402

MODEL = ROOT / "tests" / "models" / "encoder_layer_ts17.onnx"
WAYS = ("static", "padded", "dynamic")


def publish(model: Path, repository: Path, name: str, *options: str) -> None:
    command = [sys.executable, "-m", "builder", "publish", str(model), "--repository", str(repository), "--name", name]
    subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True)


def stop_batching(config: Path) -> None:
    message = text_format.Parse(config.read_text(), ModelConfig())
    message.ClearField("dynamic_batching")
    config.write_text(text_format.MessageToString(message))


def load(server: Server, repository: Path, model: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one constant load and return its stage."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), "--headless"]
        command += ["--only-summary", "--host", f"http://{server.http_address}", "--server-metrics", "none"]
        command += ["--model", model, "--repository", str(repository), "--rows", str(rows), "--scenario", "constant"]
        command += ["--concurrency", str(options.concurrency), "--stage-time", str(options.stage_time)]
        done = subprocess.run([*command, "--report-dir", folder], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (stage,) = json.loads((Path(folder) / "result.json").read_text())["stages"]
    return dict(stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--max-batch-size", type=int, default=16)
    parser.add_argument("--stage-time", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = {"static": 1, "padded": options.max_batch_size, "dynamic": 1}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        batch = ("--max-batch-size", str(options.max_batch_size))
        publish(options.model, repository, "static", "--static")
        publish(options.model, repository, "padded", *batch)
        stop_batching(repository / "padded" / "config.pbtxt")
        publish(options.model, repository, "dynamic", *batch)
        with Server.start(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
            rounds = [
                {way: load(server, repository, way, rows[way], options) for way in WAYS} for _ in range(options.rounds)
            ]
    print(f"{options.model.name}, {options.concurrency} users, medians of {options.rounds} rounds")
    print("way      useful rows/s   / static   p50 us   p99 us       mean batch size")
    useful = {way: statistics.median([one[way]["throughput_requests_per_s"] for one in rounds]) for way in WAYS}
    for way in WAYS:
        p50, p99 = (statistics.median([one[way]["latency_us"][name] for one in rounds]) for name in ("p50", "p99"))
        mean_batch = statistics.median([one[way]["server"]["mean_batch"] for one in rounds])
        ratio = useful[way] / useful["static"]
        print(f"{way:8} {useful[way]:13.0f} {ratio:10.2f} {p50:8.0f} {p99:8.0f} {mean_batch:21.2f}")


if __name__ == "__main__":
    main()
