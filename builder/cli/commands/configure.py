"""`configure`: change settings of config.pbtxt, without a new version."""

from pathlib import Path
from typing import Any

import click

from builder.cli.config_options import config_options
from builder.cli.conflicts import check_settings
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import as_json, dry_run, lock_timeout, repository
from builder.cli.output import report
from builder.cli.plan_options import cuda_graphs, max_batch_size


@click.command(
    cls=Command,
    short_help="Change settings of a model that is served.",
    examples=(
        "configure digits --instances 2 --intra-op-thread-count 1",
        "configure digits --max-queue-delay-us 500 --dry-run",
    ),
)
@click.argument("name", help="The model's name in the repository.")
@max_batch_size
@config_options
@cuda_graphs
@dry_run
@repository
@lock_timeout
@as_json
def configure(name: str, repository: Path | str, as_json: bool, **given: Any) -> None:
    """Change settings of NAME in its config.pbtxt, in one atomic change, without a new version.

    What no option names stays as it is. The model itself is not proven again: its largest batch is at most the one that
    was proven when the version was published. `rollback NAME` undoes the change.
    """
    from builder import api
    from builder.cli import changes
    from builder.cli.filling import fill
    from builder.config import ConfigOptions

    options = fill(ConfigOptions, given)
    check_settings(options)
    with finishing():
        done = api.configure(name, repository, options=options, report=report, **given)
        changes.show(done, as_json=as_json, dry_run=given["dry_run"], same="it has these settings already")
