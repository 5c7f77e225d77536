"""Publish PyTorch modules of many kinds, let an independent program judge the files, and print a table.

    python benchmarks/torch_table/run_table.py [--only WORD]… [--results FILE.json] [--page FILE.md] [--json]

Each module is published as a user would, by a `python -m builder publish` of its own. `torch_judge.py`, which shares no
code with this project, then compares each published file with its module, row by row. A module that cannot be right has
to be refused, with the reason. With `--results`, the outcomes are kept in that file, so that a run of some rows with
`--only` brings a table up to date. CPU seconds are those of the whole `publish` process. Exit code 1: a row is not as
expected. The models of Hugging Face's architectures need transformers, and are left out without it.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track
from torch_cases import CASES, Case

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
MARKS = ("<!-- table -->", "<!-- end of table -->")
WAYS = re.compile(r"^(?:torch\.export|TorchScript|static|then batched|[;, ])+: ")
"""The ways that failed, in front of the reason."""

LONGEST = 150
"""How many characters of a reason the table shows."""

Outcome = Mapping[str, Any]


def publish(case: Case, folder: Path) -> dict[str, Any]:
    """Publish one module in `folder`, and return the exit code, what was printed, and CPU seconds."""
    command = [sys.executable, "-m", "builder", "publish", *case.command(), "--repository", "models", "--name", "it"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    return {"code": process.returncode, "output": text, "cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss}


class Judge:
    """The independent program, which stays open for all cases."""

    def __init__(self) -> None:
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        """Start the program, away from this project."""
        command = [sys.executable, str(HERE / "torch_judge.py")]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE)

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return its verdict on one file."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(job), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            self.process = self.start()
            return {"is_right": False, "why": "the file ends the process that runs it"}
        verdict: dict[str, Any] = json.loads(answer)
        return verdict


def outcome_of(case: Case, judge: Judge, files: Path) -> dict[str, Any]:
    """Publish and judge one case, in a folder with a copy of `files`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "work")
        shutil.copytree(files, folder)
        found = publish(case, folder)
        models = sorted(folder.glob("models/it/1/*.onnx"))
        error = re.search(r"^error: (.*)", found["output"], re.MULTILINE | re.DOTALL)
        if found["code"] == 0 and models:
            found |= judge.ask(case.job(str(models[0])))
            found["outcome"] = "published, right" if found["is_right"] else "published, WRONG"
            found["is_expected"] = found["is_right"] and not case.expected
        elif error and "Traceback (most recent call last)" not in found["output"]:
            found["outcome"] = "refused"
            found["why"] = error[1].strip()
            found["is_expected"] = bool(case.expected) and bool(re.search(case.expected, error[1], re.IGNORECASE))
        else:
            found["outcome"] = "FAILED"
            found["why"] = found["output"].strip().splitlines()[-1] if found["output"].strip() else "no output"
            found["is_expected"] = False
    return {"name": case.name, **found}


def made_files() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder with the modules, and with the files that are published."""
    files = tempfile.TemporaryDirectory()
    for name in ("torch_nets.py", "torch_hf.py"):
        shutil.copy(HERE / name, files.name)
    subprocess.run([sys.executable, "-W", "ignore", HERE / "torch_files.py", files.name], check=True)
    return files


def reason(outcome: Outcome) -> str:
    """Return why it was refused, in a few words."""
    first, *rest = str(outcome["why"]).splitlines()
    told = "random" if "cannot be exported" in first else "frozen at"
    frozen = next((line.strip() for line in rest if told in line or "random" in line), "")
    text = frozen or re.sub(r"^\S+: ", "", first)
    lines = iter(rest)
    while text.endswith(":") and (line := next(lines, "")):
        text = WAYS.sub("", line.strip())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def row(case: Case, outcome: Outcome) -> str:
    """Return a row of the table."""
    said = outcome["outcome"] if outcome["outcome"] != "refused" else f"refused: {reason(outcome)}"
    if not outcome["is_expected"]:
        expected = f"a refusal that says {case.expected}" if case.expected else "published, right"
        why = f" {outcome['why'][:300]}" if outcome["outcome"] != "refused" and "why" in outcome else ""
        said = f"**{said}** (expected: {expected}){why}"
    sizes = "; ".join(" ".join(f"{n}={s}" for n, s in size.items()) for size in outcome.get("sizes", []) if size)
    batches = ", ".join(map(str, outcome.get("batches", [])))
    judged = f"{batches}{f'; {sizes}' if sizes else ''}" if batches else sizes
    largest = f"{outcome['largest']:.0e}" if "largest" in outcome else ""
    cost = f"{outcome['cpu']:.1f}" if "cpu" in outcome else ""
    cells = [case.group, case.name, said, outcome.get("way", ""), judged, largest, cost]
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"


def table(outcomes: Mapping[str, Outcome]) -> str:
    """Return the table in Markdown."""
    head = ["kind", "module", "outcome", "way", "judged at batch sizes; other sizes", "largest difference", "CPU s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + [row(case, outcomes[case.name]) for case in CASES if case.name in outcomes])


def summary(outcomes: Mapping[str, Outcome]) -> str:
    """Return how many modules had which outcome."""
    found = [outcomes[case.name] for case in CASES if case.name in outcomes]
    right = sum(outcome["outcome"] == "published, right" for outcome in found)
    refused = sum(outcome["outcome"] == "refused" and outcome["is_expected"] for outcome in found)
    others = len(found) - right - refused
    rest = f", and {others} not as expected (in bold)" if others else ""
    return f"{len(found)} modules: {right} published with right answers, {refused} refused with the reason{rest}."


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = page.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def chosen(words: Sequence[str]) -> list[Case]:
    """Return the cases whose name or kind contains one of the words, or all of them."""
    has_transformers = importlib.util.find_spec("transformers") is not None
    if not has_transformers:
        print("transformers is not installed: the models of its architectures are left out", file=sys.stderr)
    return [
        case
        for case in CASES
        if (has_transformers or not case.module.startswith("torch_hf"))
        and (not words or any(word.lower() in f"{case.group} {case.name}".lower() for word in words))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    parser.add_argument("--results", type=Path, metavar="FILE.json")
    parser.add_argument("--page", type=Path, metavar="FILE.md")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kept = options.results and options.results.exists()
    outcomes: dict[str, Any] = json.loads(options.results.read_text()) if kept else {}
    judge, cases, files = Judge(), chosen(options.only), made_files()
    for case in track(cases, description="publish and judge", disable=not sys.stderr.isatty()):
        outcomes[case.name] = outcome = outcome_of(case, judge, Path(files.name))
        if not outcome["is_expected"]:
            print(f"{case.name}: {outcome['outcome']}: {outcome.get('why', '')}", file=sys.stderr)
        if options.results:
            options.results.write_text(json.dumps(outcomes, indent=1))
    text = f"{summary(outcomes)}\n\n{table(outcomes)}"
    if options.page:
        put_into(options.page, text)
    print(json.dumps(list(outcomes.values()), indent=1) if options.json else text)
    return 0 if all(outcomes[case.name]["is_expected"] for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
