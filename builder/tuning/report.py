"""Write the report of a tuning: tune.json, and the page that the load test makes of it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from builder.errors import HostError
from builder.files import reason

DATA = "tune.json"
PAGE = "report.html"
TOGETHER = "together.json"

_ANOTHER = "name another --report-dir"


def check_folder(folder: Path) -> None:
    """Check that a report can be written into a folder, which is made if it is missing.

    Raises:
        HostError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise HostError(folder, f"no report can be written here: {reason(error)}", _ANOTHER) from error


def write_report(document: Mapping[str, Any], folder: Path) -> Path:
    """Write tune.json and report.html into a folder, over those of an earlier tuning, and return the page.

    Args:
        document: The record of a tuning, as JSON.
        folder: The folder; it is made if it is missing.

    Raises:
        HostError: A file cannot be written, or the page cannot be made.
    """
    data, page = folder / DATA, folder / PAGE
    _write(document, data)
    _draw(data.resolve(), page.resolve())
    return page


def write_reports(document: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """Write the report of several models: together.json, and a folder with the report of each; yield the pages.

    Args:
        document: What `Together.to_document` returns.
        folder: The folder; it is made if it is missing.

    Raises:
        HostError: A file cannot be written, or a page cannot be made.
    """
    _write(document, folder / TOGETHER)
    for name, each in document["models"].items():
        yield write_report(each, folder / name)


def _write(document: Mapping[str, Any], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{json.dumps(document, indent=2, ensure_ascii=False)}\n", encoding="utf-8")
    except OSError as error:
        raise HostError(path, f"it cannot be written: {reason(error)}", _ANOTHER) from error


def _draw(data: Path, page: Path) -> None:
    """Let the load test make the page: the two packages share no code.

    Raises:
        HostError: It does not.
    """
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "tuning", str(data), "--output", str(page)],
        cwd=root,  # where Python looks for the package first; the working directory may have another one
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        what, _, fix = done.stderr.strip().removeprefix("error: ").partition("\nfix: ")
        raise HostError(page, what or "the page was not made", fix or "report this with tune.json")
