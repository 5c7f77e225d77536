"""Let NVIDIA's compiler build every model of a folder, as it is and as this project makes it, and print a table.

    python benchmarks/plans/run_plans.py FOLDER [--precision fp32,fp16,bf16,int8] [--only WORD]…
        [--jobs N] [--results FILE.json] [--again] [--page FILE.md] [--json]

Nothing needs a GPU: TensorRT for RTX is installed by the extra `rtx` and builds plans without one, which are not run.
*As exported* is what that compiler says to the file itself (`plans_plain.py`, which uses nothing of this project). The
other columns are one `python -m builder inspect --format tensorrt` each; for int8, calibration data is drawn
(`plans_calibration.py`). Each is a process of its own, within limits of time and memory. A model that is built as
exported, and refused by the compiler as this project makes it, is a fault of this project: exit code 1, as for a crash.
With `--results`, outcomes are kept in that file after each model, and a run that was stopped goes on where it was;
`--again` forgets those that it is asked for.

Where the folder has a `manifest.json` that names the axis of a batch, as that of our corpus does, it is passed on.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.progress import track

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
MARKS = ("<!-- plans -->", "<!-- end of plans -->")
PLAIN = "as exported"
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-dynamic")
BY_IT = re.compile(r"TensorRT(?: for RTX)? (?:cannot|does not|built no|refuses)|the plan has no layer")
"""What this project says when the compiler refused."""

SAID = re.compile(r"TensorRT(?: for RTX)? cannot (?:parse the model|build the plan): ")
"""What the table need not repeat."""

REFUSED = (3, 4, 6)
"""The exit codes of this project for a model, its answers, and what a machine has not enough of."""

SECONDS, MEGABYTES = 600, 6000
"""The limits of one process: twice those that the product keeps itself, which are meant to be hit first."""

CALIBRATION = "calibration.npz"

LONGEST = 110
"""How many characters of a reason the table shows."""

Outcome = Mapping[str, Any]


def axes_of(folder: Path) -> dict[str, list[str]]:
    """Return where the batch of each model is, as INPUT=AXIS, by the model's name, from the manifest of the folder."""
    file = folder / "manifest.json"
    if not file.exists():
        return {}
    return {
        entry["stem"]: [
            f"{tensor['name']}={tensor['batch_axis']}" for tensor in entry["inputs"] if tensor["batch_axis"]
        ]
        for entry in json.loads(file.read_text())["models"]
    }


def command(model: Path, precision: str, axes: Iterable[str]) -> list[str]:
    """Return what to run."""
    if precision == PLAIN:
        return [sys.executable, str(HERE / "plans_plain.py"), str(model)]
    limits = [f"--prove-timeout={SECONDS // 2}s", f"--prove-memory={MEGABYTES // 2}MB"]
    shown = [sys.executable, "-m", "builder", "inspect", str(model), "--format=tensorrt", f"--precision={precision}"]
    data = [f"--calibration={CALIBRATION}"] if precision == "int8" else []
    return [*shown, "--json", *limits, *data, *(f"--batch-axis={axis}" for axis in axes)]


def run(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run one process, and return what it printed, its exit code, CPU seconds and largest memory in MB."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "COLUMNS": "1000", "OMP_NUM_THREADS": "1"}
    limited = ["prlimit", f"--as={2 * MEGABYTES << 20}", "timeout", "--kill-after=5", str(SECONDS), *arguments]
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(limited, stdout=out, stderr=err, env=environment, cwd=folder)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = [file.seek(0) or file.read() for file in (out, err)]
    return {"out": texts[0], "err": texts[1], "code": process.returncode,
            "cpu": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss >> 10}  # fmt: skip


def outcome_of(model: Path, precision: str, axes: Sequence[str]) -> dict[str, Any]:
    """Return what came of one model in one precision."""
    with tempfile.TemporaryDirectory() as folder:
        if precision == "int8":
            run(
                [sys.executable, str(HERE / "plans_calibration.py"), str(model.resolve()), CALIBRATION, *axes],
                Path(folder),
            )
        found = run(command(model.resolve(), precision, axes), Path(folder))
    cost = {"cpu": round(found["cpu"], 1), "memory": found["memory"]}
    answer = parsed(found["out"])
    if found["code"] == 0 and precision == PLAIN:
        return answer | cost
    if found["code"] == 0 and answer:
        return built(answer) | cost
    error = re.search(r"^error: (.*)", found["err"], re.MULTILINE | re.DOTALL)
    is_refusal = error is not None and found["code"] in REFUSED and "Traceback (most recent" not in found["err"]
    if error is None or not is_refusal:
        last = (found["err"].strip().splitlines() or ["no output"])[-1]
        return {"outcome": "FAILED", "why": f"exit code {found['code']}: {last}"} | cost
    why = error[1].replace(f"{model.resolve()}: ", "").strip()
    return {"outcome": "refused by it" if BY_IT.search(why) else "refused", "why": why} | cost


def parsed(text: str) -> dict[str, Any]:
    """Return the JSON in a text, or nothing."""
    try:
        found: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found


def built(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `inspect --format tensorrt --json` says of a plan."""
    plan = answer["plan"]
    return {"outcome": "built", "bytes": plan["bytes"], "seconds": plan["seconds"], "layers": plan["layers"]}


def is_fault(outcomes: Mapping[str, Outcome]) -> bool:
    """Return whether a model is refused only because of what this project made of it, or crashed."""
    found = [outcome["outcome"] for precision, outcome in outcomes.items() if precision != PLAIN]
    as_exported = outcomes.get(PLAIN, {}).get("outcome")
    return "FAILED" in found or (as_exported == "built" and "refused by it" in found)


def reason(outcome: Outcome) -> str:
    """Return why it was refused, in a few words: the first line, and the first item where that is a list."""
    lines = [line.strip() for line in str(outcome["why"]).splitlines() if line.strip() and not line.startswith("fix:")]
    text = lines[0] if lines else ""
    if text.endswith(":") and len(lines) > 1:
        text = f"{text} {lines[1]}"
    text = re.sub(r"\s+", " ", SAID.sub("", text))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def cell(outcome: "Outcome | None") -> str:
    """Return what the table says about one outcome."""
    if outcome is None:
        return ""
    if outcome["outcome"] == "built":
        layers = ", ".join(f"{count} {name}" for name, count in sorted(outcome.get("layers", {}).items()))
        return f"{outcome['bytes'] / 1e6:.1f} MB, {outcome['seconds']:.1f} s" + (f": {layers}" if layers else "")
    said = {"refused": "refused by us", "FAILED": "**FAILED**"}.get(outcome["outcome"], outcome["outcome"])
    return f"{said}: {reason(outcome)}"


def escaped(cells: Iterable[str]) -> str:
    """Return a row of a table in Markdown."""
    return "| " + " | ".join(text.replace("|", r"\|").replace("<", "&lt;") for text in cells) + " |"


def totals(outcomes: Mapping[str, Mapping[str, Outcome]], precisions: Sequence[str]) -> Iterator[str]:
    """Yield a table of how many models had which outcome."""
    yield escaped(["", "built", "refused by us", "refused by it", "failed", "layers' outputs, by type"])
    yield "|" + "---|" * 6
    for precision in (PLAIN, *precisions):
        found = [of[precision] for of in outcomes.values() if precision in of]
        by = Counter(outcome["outcome"] for outcome in found)
        layers: Counter[str] = sum((Counter(outcome.get("layers", {})) for outcome in found), Counter())
        types = ", ".join(f"{count:,} {name}" for name, count in layers.most_common())
        yield escaped([precision, *map(str, (by["built"], by["refused"], by["refused by it"], by["FAILED"])), types])


def table(outcomes: Mapping[str, Mapping[str, Outcome]], precisions: Sequence[str]) -> str:
    """Return the tables in Markdown."""
    shown = [precision for precision in precisions if any(precision in of for of in outcomes.values())]
    rows = [[name, *(cell(of.get(column)) for column in (PLAIN, *shown))] for name, of in sorted(outcomes.items())]
    head = [escaped(["model", PLAIN, *shown]), "|" + "---|" * (len(shown) + 2)]
    faults = [name for name, of in sorted(outcomes.items()) if is_fault(of)]
    told = f"Built as exported, but not as we make it: {', '.join(faults) or 'none'}."
    return "\n".join(
        [f"{len(outcomes)} models.", "", *totals(outcomes, shown), "", told, "", *head, *map(escaped, rows)]
    )


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = page.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="fp32,fp16,bf16", help="comma-separated")
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many models at once")
    parser.add_argument("--results", type=Path, metavar="FILE.json")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--page", type=Path, metavar="FILE.md")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def models_of(folder: Path, words: Sequence[str]) -> list[Path]:
    """Return the models whose name contains one of the words, or all of them."""
    return [model for model in sorted(folder.glob("*.onnx")) if not words or any(word in model.stem for word in words)]


def build_all(options: argparse.Namespace, outcomes: dict[str, dict[str, Any]]) -> None:
    """Add what is missing in the outcomes, and keep them after each model."""
    axes, models = axes_of(options.folder), models_of(options.folder, options.only)

    def build(model: Path) -> str:
        of = outcomes.setdefault(model.stem, {})
        for precision in (PLAIN, *options.precision.split(",")):
            if options.again or precision not in of:
                of[precision] = outcome_of(model, precision, axes.get(model.stem, []))
        return model.stem

    with ThreadPoolExecutor(options.jobs) as pool:
        done = as_completed([pool.submit(build, model) for model in models])
        for future in track(done, description="build", total=len(models), disable=not sys.stderr.isatty()):
            of = outcomes[future.result()]
            if options.results:
                options.results.write_text(json.dumps(dict(sorted(outcomes.items())), indent=1))
            if is_fault(of):
                print(f"{future.result()}: {'; '.join(map(cell, of.values()))}", file=sys.stderr)


def main() -> int:
    options = arguments()
    kept = options.results and options.results.exists()
    outcomes: dict[str, dict[str, Any]] = json.loads(options.results.read_text()) if kept else {}
    build_all(options, outcomes)
    text = table(outcomes, PRECISIONS)
    if options.page:
        put_into(options.page, text)
    print(json.dumps(outcomes, indent=1) if options.json else text)
    return 1 if any(map(is_fault, outcomes.values())) else 0


if __name__ == "__main__":
    sys.exit(main())
