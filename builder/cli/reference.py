"""Write docs/cli.md, the reference of the command line, from the same declarations as `--help`.

python -m builder.cli.reference > docs/cli.md
"""

import inspect
from collections.abc import Iterable, Iterator

import click

from builder.cli.app import cli
from builder.cli.exit_codes import exit_codes
from builder.cli.help_pages import PROGRAM, Command

INTRODUCTION = """\
# Command line

This page is generated from the code: run `python -m builder.cli.reference > docs/cli.md` after a change.
In a terminal, `python -m builder COMMAND --help` shows the same text.
"""


def write_reference() -> str:
    """Return docs/cli.md; it does not depend on the width of the terminal."""
    program = click.Context(cli, info_name=PROGRAM)
    commands = [command for command in cli.commands.values() if isinstance(command, Command)]
    rows = [(f"[`{command.name}`](#{command.name})", command.short_help or "") for command in commands]
    parts = [
        INTRODUCTION,
        f"{inspect.cleandoc(cli.help or '')}\n",
        _table("Command", "What it does", rows),
        *(part for command in commands for part in _command(program, command)),
        "## Exit codes\n",
        _table("Code", "Meaning", [(str(code), meaning) for code, meaning in exit_codes().items()]),
    ]
    return "\n".join(parts)


def _command(program: click.Context, command: Command) -> Iterator[str]:
    """Yield the parts of a command: its text, how to call it, and a table for each section of options."""
    ctx = click.Context(command, info_name=command.name, parent=program)
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    yield f"## {command.name}\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    yield _code([usage])
    yield "For example:\n"
    yield _code(command.examples)
    arguments = [param.get_help_record(ctx) for param in command.params if isinstance(param, click.Argument)]
    if arguments:
        yield _table("Arguments", "", [(f"`{name}`", text) for name, text in arguments])
    for section, options in command.sections(ctx).items():
        yield _table(section, "", [(f"`{name}`", text) for name, text in options if name != "--help"])


def _code(lines: Iterable[str]) -> str:
    return "\n".join(["```", *lines, "```", ""])


def _table(first: str, second: str, rows: Iterable[tuple[str, str]]) -> str:
    cells = [(first, second), ("---", "---"), *rows]
    return "\n".join([*(_row(*row) for row in cells), ""])


def _row(left: str, right: str) -> str:
    """Write a row; a bar inside a cell would end it."""
    return f"| {_escaped(left)} | {_escaped(right)} |"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    print(write_reference(), end="")
