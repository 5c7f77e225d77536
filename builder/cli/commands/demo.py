"""`demo`: publish the example model, serve it, and check it under load."""

from pathlib import Path

import click

from builder.cli.help_pages import Command
from builder.cli.options import as_json, repository_folder
from builder.cli.output import print_json, report


@click.command(cls=Command, short_help="Publish, serve and check the example model.", examples=("demo",))
@repository_folder
@as_json
def demo(repository: Path, as_json: bool) -> None:
    """Publish the example model, serve it with Triton, and check every answer under load."""
    from builder.cli import demo as example

    result = example.run(repository, report=report)
    if as_json:
        print_json(result.to_json())
    else:
        example.show(result)
