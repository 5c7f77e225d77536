"""`prune`: remove old versions of a model."""

from pathlib import Path

import click

from builder.cli.arguments import whole_number
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import as_json, lock_timeout, option, repository
from builder.cli.output import print_json, print_result, report


@click.command(cls=Command, short_help="Remove old versions of a model.", examples=("prune digits --keep 3",))
@click.argument("name", help="The model's name in the repository.")
@option("--keep", type=whole_number(1, None), required=True, help="How many of the newest versions to keep.")
@repository
@lock_timeout
@as_json
def prune(name: str, keep: int, repository: Path, lock_timeout_s: float | None, as_json: bool) -> None:
    """Remove old versions of NAME, all of them or none. The version that is served always stays."""
    from builder import api

    notes: list[str] = []

    def tell(step: str, what: str) -> None:
        report(step, what)
        if step == "note":
            notes.append(what)

    with finishing():
        removed = api.prune(name, repository, keep=keep, lock_timeout_s=lock_timeout_s, report=tell)
        if as_json:
            print_json({"name": name, "removed": removed, "notes": notes})
        else:
            print_result(f"{name}: removed {', '.join(map(str, removed)) or 'nothing'}")
