"""The command line: each command reads its arguments, makes one call, prints the result and sets the exit code.

`commands` declares them, `arguments` turns text into values; `inspection`, `listing` and `demo` gather and print what
their commands show. Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from builder.cli.commands import cli, main

__all__ = ["cli", "main"]
