"""The exit codes, in one table: `--help`, docs/cli.md and the tests read them here.

An error class of `builder.errors` defines its own code and meaning: its `exit_code` and the first line of its
docstring.
"""

from collections.abc import Mapping

from builder.errors import BuilderError

DONE = 0
BUG = 1
WRONG_USAGE = 2
INTERRUPTED = 130
"""What a shell reports after Ctrl-C."""


def exit_codes() -> Mapping[int, str]:
    """Return what each exit code means, in one sentence, in ascending order."""
    meanings = {
        DONE: "The command did what you asked for.",
        BUG: "A bug in the program. Please report it with its traceback.",
        WRONG_USAGE: "The command line is wrong: an unknown option, a missing argument or an invalid value.",
        INTERRUPTED: "You interrupted the command with Ctrl-C. No change is left half done.",
    }
    meanings |= {kind.exit_code: _first_line(kind) for kind in BuilderError.__subclasses__()}
    return dict(sorted(meanings.items()))


def _first_line(kind: type[BuilderError]) -> str:
    return (kind.__doc__ or kind.__name__).strip().partition("\n")[0]
