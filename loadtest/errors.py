"""Faults the user of a load test can mend.

LoadTestError                1
├─ SettingsError             2   an option, or a file it names, makes no sense
└─ ServerError               6   the server is not there, not ready, or serves something else

The number is the process's exit code. A load test that ran and failed its verdict exits with 1 as well.
"""


class LoadTestError(Exception):
    """A fault the user can mend.

    Args:
        where: The option, file, model or address the fault is at.
        what: What is wrong with it, as one sentence without a full stop.
        mend: What to do about it, as one sentence without a full stop.
    """

    exit_code = 1

    def __init__(self, where: object, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}\n  to mend it: {mend}")
        self.where = str(where)
        self.what = what
        self.mend = mend


class SettingsError(LoadTestError):
    """An option makes no sense, or a file it names cannot be used."""

    exit_code = 2


class ServerError(LoadTestError):
    """The server is not there, not ready, not speaking KServe v2, or serves something else."""

    exit_code = 6
