"""`switch`: serve another version that is there."""

from pathlib import Path
from typing import Any

import click

from builder.cli.arguments import VERSION
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import (
    as_json,
    dry_run,
    keep_settings,
    kept_config,
    lock_timeout,
    option,
    repository,
    serve_also,
)
from builder.cli.output import report


@click.command(
    cls=Command,
    short_help="Serve another version that is there.",
    examples=("switch digits --to 2", "switch digits --to 3 --serve-also 1"),
)
@click.argument("name", help="The model's name in the repository.")
@option("--to", type=VERSION, required=True, help="The version to serve.")
@kept_config
@keep_settings
@serve_also
@dry_run
@repository
@lock_timeout
@as_json
def switch(name: str, repository: Path | str, as_json: bool, **given: Any) -> None:
    """Serve another version of NAME, in one atomic change of its config.pbtxt.

    The version gets the config that served it last. `rollback NAME` undoes the change.
    """
    from builder import api
    from builder.cli import changes

    with finishing():
        done = api.switch(name, repository, report=report, **given)
        changes.show(done, as_json=as_json, dry_run=given["dry_run"])
