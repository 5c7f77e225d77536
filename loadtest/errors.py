"""The errors a user of the load tester can fix.

LoadTestError                1
├─ SettingsError             2   an option, or a file it names, cannot be used
└─ ServerError               6   the server does not answer, is not ready, or serves something else

The number is the process's exit code. A load test that ran and did not pass exits with 1 as well.
"""

from loadtest.printable import printable


class LoadTestError(Exception):
    """An error the user can fix, shown in two lines: where and what, then the fix.

    Its text is safe to print; the attributes are as they were given.

    Args:
        where: The option, file, model or address that the error is about.
        what: What is wrong, a clause without a full stop.
        fix: What to do about it, beginning with a verb, without a full stop.
    """

    exit_code = 1

    def __init__(self, where: object, what: str, fix: str) -> None:
        super().__init__(f"{printable(where)}: {printable(what)}\nfix: {printable(fix)}")
        self.where = str(where)
        self.what = what
        self.fix = fix


def reason(error: Exception) -> str:
    """Return what the operating system says, without its error number and path: `No such file or directory`."""
    return getattr(error, "strerror", None) or str(error)


class SettingsError(LoadTestError):
    """An option, or a file it names, cannot be used."""

    exit_code = 2


class ServerError(LoadTestError):
    """The server does not answer, is not ready, does not speak KServe v2, or serves something else."""

    exit_code = 6
