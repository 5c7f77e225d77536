"""Where a command's output goes: progress to stderr, the result to stdout."""

import json
from typing import Any

import click


def report(step: str, what: str) -> None:
    """Print what a step found, as one line on stderr."""
    click.echo(f"{step:<8} {what}", err=True)


def print_json(result: Any) -> None:
    """Print a result for scripts."""
    click.echo(json.dumps(result, indent=2, ensure_ascii=False))
