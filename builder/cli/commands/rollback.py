"""`rollback`: go back to a config that a model had before."""

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
    short_help="Undo the last change of what is served.",
    examples=("rollback digits", "rollback digits --to 1", "rollback digits --to 1 --keep-settings"),
)
@click.argument("name", help="The model's name in the repository.")
@option(
    "--to",
    type=VERSION,
    help="The version to serve, with the config that served it last. Default: what the last change replaced.",
)
@kept_config
@keep_settings
@serve_also
@dry_run
@repository
@lock_timeout
@as_json
def rollback(name: str, repository: Path | str, as_json: bool, **given: Any) -> None:
    """Undo the last change of what is served of NAME, in one atomic change of its config.pbtxt.

    The version that was served before is served again, with the config that it had. Each further rollback goes one
    change further back. The config that is replaced is kept, so nothing is lost.
    """
    from builder import api
    from builder.cli import changes

    with finishing():
        done = api.rollback(name, repository, report=report, **given)
        changes.show(done, as_json=as_json, dry_run=given["dry_run"])
