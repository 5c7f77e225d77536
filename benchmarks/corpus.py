"""Publish every static-batch model of a corpus, let an independent program judge the results, and measure the time.

    python benchmarks/corpus.py ../shared/corpus [--labels static|both|inputs] [--json]

The corpus is a folder with models, a `manifest.json` with the expected result for each, and a `judge.py` that shares no
code with this project: it runs each published model and its original at many batch sizes. Models are published with
default options, except for the axis of the batch where the manifest says that it is not axis 0. With `--labels both` or
`--labels inputs`, the inputs and outputs, or the inputs alone, are said to have a symbolic batch before, and the body
stays as it is; the reference is still the original. Times are CPU seconds of one process after its imports;
`publish_cost.py` measures whole processes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import onnx
from rich.progress import track

from builder.errors import BuilderError
from builder.publishing import PublishOptions, publish

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits" / "digits.onnx"
LABELS = {"static": (), "both": ("inputs", "outputs"), "inputs": ("inputs",)}
STEPS = ("load", "batch", "rename", "verify", "install")


def publish_all(corpus: Path, entries: Sequence[Mapping[str, Any]], root: Path) -> dict[str, dict[str, float]]:
    """Publish each model into `root`, and return the CPU seconds of its steps."""
    publish(EXAMPLE, root / "imports", options=PublishOptions())
    times = {}
    for entry in track(entries, description="publish", disable=not sys.stderr.isatty()):
        axes = {tensor["name"]: tensor["batch_axis"] for tensor in entry["inputs"] if tensor["batch_axis"]}
        spent: dict[str, float] = defaultdict(float)
        before = time.process_time()

        def report(step: str, what: str) -> None:
            nonlocal before
            now = time.process_time()
            spent[step] += now - before  # noqa: B023 - called within this iteration
            before = now

        options = PublishOptions(batch_axes=axes)
        try:
            publish(corpus / entry["file"], root / "models", name=entry["stem"], options=options, report=report)
        except BuilderError:
            report("refuse", "")
        times[str(entry["stem"])] = dict(spent)
    return times


def relabel(corpus: Path, entries: Sequence[Mapping[str, Any]], folder: Path, sides: Sequence[str]) -> Path:
    """Write the models with the name `batch` in place of the number, and return their folder."""
    folder.mkdir()
    for data in corpus.glob("*.data"):
        (folder / data.name).write_bytes(data.read_bytes())
    for entry in entries:
        model = onnx.load(corpus / entry["file"], load_external_data=False)
        axes = {tensor["name"]: tensor.get("batch_axis") for side in sides for tensor in entry[side]}
        for value in (*model.graph.input, *model.graph.output):
            axis, dims = axes.get(value.name), value.type.tensor_type.shape.dim
            if axis is not None and axis < len(dims) and dims[axis].dim_value == entry["B0"]:
                dims[axis].dim_param = "batch"
        onnx.save(model, folder / entry["file"])
    return folder


def judge(corpus: Path, root: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the judge's verdict on each model."""
    verdicts = folder / "verdicts.json"
    command = [sys.executable, str(corpus / "judge.py"), "--manifest", str(corpus / "manifest.json")]
    command += ["--produced", str(root / "models"), "--json", str(verdicts)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results: list[dict[str, Any]] = json.loads(verdicts.read_text())["results"]
    return results


def summarize(
    entries: Sequence[Mapping[str, Any]],
    verdicts: Sequence[Mapping[str, Any]],
    times: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Return the verdicts by expected result, and the times over all models."""
    expected = {entry["stem"]: entry["expect"] for entry in entries}
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        statuses[expected[verdict["stem"]]][verdict["status"]] += 1
    totals = {stem: sum(steps.values()) for stem, steps in times.items()}
    slowest = max(totals, key=lambda stem: totals[stem])
    everything = sum(totals.values())
    return {
        "models": len(verdicts),
        "not_as_expected": [verdict["stem"] for verdict in verdicts if not verdict["ok"]],
        "statuses": {expect: dict(counts) for expect, counts in statuses.items()},
        "cpu_s": {"median": median(totals.values()), "slowest": totals[slowest], "slowest_model": slowest},
        "share": {step: sum(t.get(step, 0.0) for t in times.values()) / everything for step in (*STEPS, "refuse")},
    }


def show(result: Mapping[str, Any]) -> None:
    """Print the summary as text."""
    print(f"{result['models']} models; not as expected: {', '.join(result['not_as_expected']) or 'none'}")
    for expect, counts in result["statuses"].items():
        print(f"  expected {expect:7} {', '.join(f'{status} {count}' for status, count in counts.items())}")
    cost = result["cpu_s"]
    print(
        f"CPU time of a model: median {cost['median']:.2f} s, slowest {cost['slowest']:.1f} s ({cost['slowest_model']})"
    )
    print("where it goes: " + ", ".join(f"{step} {share:.0%}" for step, share in result["share"].items()))


def main() -> None:
    """Publish, judge, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--labels", choices=LABELS, default="static", help="what the files say of their batch")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    entries = json.loads((asked.corpus / "manifest.json").read_text())["models"]
    with tempfile.TemporaryDirectory() as name:
        sides = LABELS[asked.labels]
        models = relabel(asked.corpus, entries, Path(name, "relabelled"), sides) if sides else asked.corpus
        times = publish_all(models, entries, Path(name))
        verdicts = judge(asked.corpus, Path(name), Path(name))
    result = summarize(entries, verdicts, times)
    if asked.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
