"""The command line: each command reads its options, makes one call, prints the result and sets the exit code.

`app` is the program with all its commands, and `commands` defines them, one module for each group. `arguments` turns
text into values, `options` holds what several commands share, and `filling` fills the option classes of the steps by
name, and `conflicts` refuses options that contradict each other. `inspection`, `listing` and `demo` print what their
commands found.

`help_pages` and `exit_codes` make the help, and `reference` writes docs/cli.md from it. `faults` describes errors in
the command line, and `machine` what is missing on this machine.

`--help` has to answer at once, so modules that import NumPy or ONNX are imported inside the commands.
"""

from builder.cli.app import cli, main

__all__ = ["cli", "main"]
