"""The command line: each command reads its options, makes one call, prints the result and sets the exit code.

`app` is the program with all its commands, and `commands` defines them, one module for each group. `arguments` turns
text into values, `options` holds what several commands share, and `filling` fills the option classes of the steps by
name, and `conflicts` refuses options that contradict each other. `help_pages`, `faults` and `exit_codes` write what a user reads: help, errors in the command line, exit codes.
`reference` writes docs/cli.md from them. `inspection`, `listing` and `demo` print what their commands found.

`--help` has to answer at once, so modules that import NumPy or ONNX are imported inside the commands.
"""

from builder.cli.app import cli, main

__all__ = ["cli", "main"]
