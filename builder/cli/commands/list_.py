"""`list`: the models and versions of a repository."""

from pathlib import Path

import click

from builder.cli.help_pages import Command
from builder.cli.options import as_json, repository
from builder.cli.output import print_json


@click.command(
    "list",
    cls=Command,
    short_help="List the models and versions of a repository.",
    examples=("list --repository model_repository",),
)
@repository
@as_json
def list_(repository: Path | str, as_json: bool) -> None:
    """List the models and versions of a repository: which one is served, its size, and when and how it was made."""
    from builder import api
    from builder.cli import listing

    models = api.list_models(repository)
    if as_json:
        print_json(listing.to_json(models))
    else:
        listing.show(models)
