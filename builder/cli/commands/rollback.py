"""`rollback`: serve an earlier version again."""

from pathlib import Path

import click

from builder.cli.arguments import VERSION
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import as_json, lock_timeout, option, repository
from builder.cli.output import print_json, print_result, report


@click.command(
    cls=Command, short_help="Serve an earlier version again.", examples=("rollback digits", "rollback digits --to 1")
)
@click.argument("name", help="The model's name in the repository.")
@option("--to", type=VERSION, help="The version to serve. Default: the one before the version that is served.")
@repository
@lock_timeout
@as_json
def rollback(name: str, to: int | None, repository: Path | str, lock_timeout_s: float | None, as_json: bool) -> None:
    """Serve an earlier version of NAME again, in one atomic change of its config.pbtxt."""
    from builder import api

    with finishing():
        switch = api.rollback(name, repository, to=to, lock_timeout_s=lock_timeout_s, report=report)
        for note in switch.notes:
            report("note", note)
        if as_json:
            print_json({"name": name, "before": switch.before, "after": switch.after, "notes": list(switch.notes)})
        elif switch.before == switch.after:
            print_result(f"{name}: version {switch.after} is already served")
        else:
            print_result(f"{name}: version {switch.before} → {switch.after}")
