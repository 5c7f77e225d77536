"""Publish trained models in lower precisions, let an independent program judge the files, and print a table.

    python benchmarks/int8/run_int8.py FOLDER [--only NAME]… [--way WAY]… [--modelopt PYTHON]
        [--results FILE.json] [--page FILE.md] [--json]

`FOLDER` gets the models and their data (`int8_models.py`; it needs PyTorch) unless they are there. Each model is
published as a user would, in each precision, by a `python -m builder publish` with labelled samples. Where that is
refused, it is published once more without limits, so that there is something to measure, and the table has the reason.
Beside it stand what `onnxruntime.quantization` and NVIDIA's ModelOpt make of the same files by their documentation
(`int8_plain.py`; `--modelopt` is the Python of an environment that has it). `int8_judge.py`, which shares no code with
this project, measures all files alike. What it measures on a file that this project published is compared with what
the project says of it. Exit code 1: they do not agree, or something failed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
MARKS = ("<!-- int8 -->", "<!-- end of int8 -->")
MODELS = ("digits", "residual", "encoder", "detector")
METRICS = {"detector": "int8_metric:average_precision"}
WITHOUT_LIMITS = ("--max-error=1", "--max-accuracy-drop=99%", "--min-speedup=0")
AGREED, FASTER = 0.0015, 1.35
"""How far the project's accuracy may be from the judge's, and how many times its speed.

A row whose two best classes are as good as equal may change with the batch that it is in. For fp16 the project takes
the worse of the file and of the same with every value rounded, which shows how a GPU rounds.
"""

LONGEST = 160
"""How many characters of a reason the table shows."""

Outcome = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to a lower precision.

    Attributes:
        name: What the table calls it.
        options: Of `publish`; None if it is another program's.
        is_calibrated: Whether it is given the calibration file.
        has_speed: Whether its speed on this CPU says anything.
        has_plan: Whether NVIDIA's compiler is asked for a plan of it.
    """

    name: str
    options: "tuple[str, ...] | None" = None
    is_calibrated: bool = False
    has_speed: bool = True
    has_plan: bool = False


WAYS = (
    Way("fp32", (), has_plan=True),
    Way("fp16", ("--precision=fp16",), has_plan=True),
    Way("int8", ("--precision=int8",), is_calibrated=True),
    Way(
        "int8 --for tensorrt",
        ("--precision=int8", "--for=tensorrt"),
        is_calibrated=True,
        has_speed=False,
        has_plan=True,
    ),
    Way("int8-dynamic", ("--precision=int8-dynamic",)),
    Way("onnxruntime-static"),
    Way("onnxruntime-dynamic"),
    Way("modelopt", has_speed=False),
)


class Bench:
    """The models, and what is made of them."""

    def __init__(self, folder: Path, modelopt: "str | None") -> None:
        self.folder = folder.resolve()
        self.modelopt = modelopt
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(PROJECT), str(HERE)]),
            "COLUMNS": "1000",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Run one program in the folder."""
        return subprocess.run(arguments, capture_output=True, text=True, cwd=self.folder, env=self.environment)

    def file(self, model: str, way: Way) -> Path:
        """Return where the file is that a way makes of a model."""
        name = re.sub(r"[^a-z0-9]+", "-", way.name)
        if way.options is None:
            return self.folder / f"{model}.{name}.onnx"
        return self.folder / "repository" / f"{model}.{name}" / "1" / "model.onnx"

    def data(self, model: str, way: Way) -> list[str]:
        """Return the options that name the data of a model."""
        calibration = [f"--calibration={model}_calibration.npz"] if way.is_calibrated else []
        metric = [f"--metric={METRICS[model]}"] if model in METRICS else []
        return [f"--samples={model}_samples.npz", *calibration, *metric, *(way.options or ())]

    def publish(self, model: str, way: Way, *options: str) -> "subprocess.CompletedProcess[str]":
        """Publish a model as a user would."""
        target = self.file(model, way).parents[1]
        self.run(["rm", "-rf", str(target)])
        where = ["--repository=repository", f"--name={target.name}", "--json", "--intra-op-thread-count=1"]
        command = [sys.executable, "-m", "builder", "publish", f"{model}.onnx", *where]
        return self.run([*command, *self.data(model, way), *options])

    def plan(self, model: str, way: Way) -> dict[str, Any]:
        """Return what NVIDIA's compiler makes of a model, and why if it makes nothing."""
        options = [option for option in self.data(model, way) if option != "--for=tensorrt"]
        command = [sys.executable, "-m", "builder", "inspect", f"{model}.onnx", "--format=tensorrt", "--json"]
        done = self.run([*command, *options])
        if done.returncode:
            return {"why": said(done.stderr)}
        plan: dict[str, Any] = json.loads(done.stdout)["plan"]
        return {key: plan[key] for key in ("bytes", "seconds", "layers")}

    def ours(self, model: str, way: Way) -> dict[str, Any]:
        """Publish a model, without limits where it is refused with them, and return what the project says of it."""
        done = self.publish(model, way)
        found: dict[str, Any] = {"outcome": "published"}
        if done.returncode:
            found = {"outcome": "refused", "why": said(done.stderr)}
            done = self.publish(model, way, *WITHOUT_LIMITS)
        if done.returncode == 0:
            manifest = json.loads(done.stdout)["manifest"]
            found["says"] = {key: manifest.get(key) for key in ("proof", "accuracy", "speed", "quantization")}
            found["printed"] = done.stderr
        elif "error: " not in done.stderr or "Traceback" in done.stderr:
            found |= {"outcome": "FAILED", "why": done.stderr.strip()[-500:]}
        return found

    def theirs(self, model: str, way: Way) -> dict[str, Any]:
        """Let another program quantize the file that this project published in fp32."""
        file = self.file(model, way)
        file.unlink(missing_ok=True)
        python = self.modelopt if way.name == "modelopt" else sys.executable
        made = [str(self.file(model, WAYS[0])), f"{model}_calibration.npz", str(file)]
        done = self.run([str(python), str(HERE / "int8_plain.py"), way.name, *made])
        if done.returncode or not file.exists():
            lines = done.stderr.strip().splitlines() or ["it made no file"]
            return {"outcome": "fails", "why": lines[-1]}
        return {"outcome": "made"}

    def outcome(self, model: str, way: Way) -> dict[str, Any]:
        """Make and judge one file."""
        found = self.theirs(model, way) if way.options is None else self.ours(model, way)
        file = self.file(model, way)
        if file.exists():
            files = [f"{model}.onnx", str(self.file(model, WAYS[0])), str(file), f"{model}_samples.npz"]
            metric = [f"--metric={METRICS[model]}"] if model in METRICS else []
            level = ["--basic"] if "level: 1" in config_of(file) else []
            done = self.run([sys.executable, str(HERE / "int8_judge.py"), *files, *metric, *level])
            found["judged"] = json.loads(done.stdout) if done.returncode == 0 else None
            if done.returncode:
                found |= {"outcome": "FAILED", "why": f"the judge cannot run the file: {done.stderr.strip()[-300:]}"}
        if way.has_plan:
            found["plan"] = self.plan(model, way)
        return found


def config_of(file: Path) -> str:
    """Return the config.pbtxt that a file is served with; nothing if it is not in a repository."""
    config = file.parents[1] / "config.pbtxt"
    return config.read_text() if config.exists() else ""


def said(text: str) -> str:
    """Return the error in what was printed."""
    error = re.search(r"^error: (.*)", text, re.MULTILINE | re.DOTALL)
    return error[1].strip() if error else text.strip()[-500:]


def disagreements(way: Way, outcome: Outcome) -> Iterator[str]:
    """Yield where the project and the judge differ on a file."""
    says, judged = outcome.get("says"), outcome.get("judged")
    if not says or not judged:
        return
    accuracy, speed = says.get("accuracy"), says.get("speed")
    for key in ("before", "after") if accuracy else ():
        if abs(accuracy[key] - judged[key]) > AGREED:
            yield f"accuracy {key}: {accuracy[key]:.4f}, and the judge has {judged[key]:.4f}"
    if speed and way.has_speed:
        yield from slower(speed, judged["speed"])


def slower(speed: Mapping[str, Any], judged: Mapping[str, float]) -> Iterator[str]:
    """Yield the speeds that the project gives, where the judge has others."""
    for batch in speed["batches"]:
        ratio, size = batch["ratio"], str(batch["batch_size"])
        if size in judged and not 1 / FASTER < ratio / judged[size] < FASTER:
            yield f"speed at batch {size}: {ratio:.2f}, and the judge has {judged[size]:.2f}"


def percent(value: float) -> str:
    """Return a part as a percentage with two digits."""
    return f"{value * 100:.2g} %" if value < 1 else f"{value * 100:.0f} %"


def row(model: str, way: Way, outcome: Outcome) -> list[str]:
    """Return a row of the table."""
    judged = outcome.get("judged") or {}
    reason = re.sub(r"\s+", " ", str(outcome.get("why", ""))).replace(f"{model}.onnx: ", "")
    shown = reason if len(reason) <= LONGEST else reason[: LONGEST - 1] + "…"
    cells = [model, way.name, outcome["outcome"] + (f": {shown}" if reason else "")]
    if not judged:
        return [*cells, *[""] * 7]
    errors = [", ".join(percent(value) for value in judged[key].values()) for key in ("largest_error", "mean_error")]
    rows = "row" if judged["changed"] == 1 else "rows"
    changed = f" ({judged['changed']} {rows})" if judged["changed"] else ""
    accuracy = f"{judged['before'] * 100:.1f} → {judged['after'] * 100:.1f}{changed}"
    speed = ", ".join(f"{value:.2f}" for value in judged["speed"].values()) if way.has_speed else ""
    return [
        *cells,
        *errors,
        accuracy,
        percent(judged["neighbours"]),
        speed,
        f"{judged['bytes'] / 1e3:,.0f} kB",
        layers(outcome),
    ]


def layers(outcome: Outcome) -> str:
    """Return the types of the outputs of a plan's layers, or why there is no plan."""
    plan = outcome.get("plan")
    if not plan:
        return ""
    types = sorted(plan.get("layers", {}).items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {name}" for name, count in types) or f"**{plan['why']}**"


def table(outcomes: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Return the table in Markdown."""
    head = [
        "model",
        "way",
        "outcome",
        "largest error",
        "mean error",
        "accuracy",
        "neighbours",
        "speed",
        "file",
        "layers of the plan",
    ]
    rows = [row(m, way, outcomes[m][way.name]) for m in MODELS for way in WAYS if way.name in outcomes.get(m, {})]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    kept = [f"- {m}, {w}: {stays(o)}" for m in outcomes for w, o in outcomes[m].items() if stays(o)]
    return "\n".join([*lines, "", "What stays in float, of what this project quantized:", "", *kept])


def stays(outcome: Outcome) -> str:
    """Return what was not quantized, and why."""
    quantization = (outcome.get("says") or {}).get("quantization")
    if not quantization:
        return ""
    reasons = [
        f"{', '.join(f'{count} {kind}' for kind, count in kinds.items())} ({why})"
        for why, kinds in quantization["kept"].items()
    ]
    told = "; ".join(reasons) or "nothing that could be int8"
    return f"{percent(quantization['weights'])} of the weights are int8; {told}"


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = page.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def chosen(options: argparse.Namespace) -> list[tuple[str, Way]]:
    """Return the models and ways that were asked for; the files in fp32 are made in any case."""
    if not options.modelopt:
        print("--modelopt is not given: its rows are left out", file=sys.stderr)
    return [
        (model, way)
        for model in MODELS
        for way in WAYS
        if (not options.only or model in options.only)
        and (not options.way or way.name in ("fp32", *options.way))
        and (way.name != "modelopt" or options.modelopt)
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", default=[], choices=MODELS)
    parser.add_argument("--way", action="append", default=[], choices=[way.name for way in WAYS])
    parser.add_argument("--modelopt", metavar="PYTHON")
    parser.add_argument("--results", type=Path, metavar="FILE.json")
    parser.add_argument("--page", type=Path, metavar="FILE.md")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def problems_of(model: str, way: Way, outcome: Outcome) -> list[str]:
    """Return what is wrong with an outcome, and print it."""
    problems = [str(outcome["why"])] if outcome["outcome"] == "FAILED" else list(disagreements(way, outcome))
    problems += [f"no plan: {outcome['plan']['why']}"] if "why" in outcome.get("plan", {}) else []
    for problem in problems:
        print(f"{model}, {way.name}: {problem}", file=sys.stderr)
    return problems


def main() -> int:
    options = arguments()
    if not all((options.folder / f"{model}_samples.npz").exists() for model in MODELS):
        subprocess.run([sys.executable, str(HERE / "int8_models.py"), str(options.folder)], check=True)
    kept = options.results and options.results.exists()
    outcomes: dict[str, dict[str, Any]] = json.loads(options.results.read_text()) if kept else {}
    bench, problems = Bench(options.folder, options.modelopt), []
    for model, way in track(chosen(options), description="publish and judge", disable=not sys.stderr.isatty()):
        outcome = outcomes.setdefault(model, {})[way.name] = bench.outcome(model, way)
        problems += problems_of(model, way, outcome)
        if options.results:
            options.results.write_text(json.dumps(outcomes, indent=1))
    text = table(outcomes)
    if options.page:
        put_into(options.page, text)
    print(json.dumps(outcomes, indent=1) if options.json else text)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
