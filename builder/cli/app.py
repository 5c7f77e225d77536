"""The program: all commands in one group, and every error shown in two lines, with its exit code."""

import atexit
import gc
import sys

import click

from builder.cli import faults, machine
from builder.cli.commands import COMMANDS
from builder.cli.exit_codes import INTERRUPTED
from builder.cli.help_pages import PROGRAM, WIDTH, Program
from builder.cli.output import prepare, print_message
from builder.errors import BuilderError
from builder.version import __version__


@click.group(cls=Program, context_settings={"max_content_width": WIDTH})
@click.version_option(__version__, prog_name="builder")
def cli() -> None:
    """Make ONNX models with a fixed batch size dynamic, and publish them for Triton.

    Each model is compared with the original, row by row, before anything is written. A command prints its result to
    stdout and everything else to stderr.
    """


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line, and exit with the code of what went wrong."""
    prepare()
    atexit.register(gc.freeze)  # otherwise Python looks for garbage among all objects before it ends, for 0.2 s
    try:
        cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except BuilderError as error:
        print_message(f"error: {error}")
        sys.exit(error.exit_code)
    except (MemoryError, OSError) as error:
        fault = machine.find_fault(error)
        if fault is None:
            raise
        print_message(f"error: {fault}")
        sys.exit(fault.exit_code)
    except (click.Abort, KeyboardInterrupt, ImportError) as error:
        # Ctrl-C while a compiled module is being imported ends as an ImportError.
        if isinstance(error, ImportError) and not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        print_message("interrupted; nothing was left half done")
        sys.exit(INTERRUPTED)


def _show(error: click.ClickException) -> None:
    if isinstance(error, click.UsageError) and not isinstance(error, click.exceptions.NoArgsIsHelpError):
        print_message(faults.describe(error))
    else:
        print_message(error.format_message())  # the help
