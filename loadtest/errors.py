"""The errors a user of the load tester can fix.

LoadTestError                1
├─ SettingsError             2   an option, or a file it names, cannot be used
└─ ServerError               6   the server does not answer, is not ready, or serves something else

The number is the process's exit code. A load test that ran and did not pass exits with 1 as well.
"""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

from loadtest.printable import printable

_log = logging.getLogger(__name__)


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


def catch(action: Callable[[], object]) -> Exception | None:
    """Do something, and return what it raises: Locust would log an error that nobody expected, and forget it."""
    try:
        action()
    except Exception as error:
        return error
    return None


def locate_bug(error: BaseException) -> str:
    """Return which error was raised where in the code: `IndexError in traffic.py, line 12`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def describe_bug(error: BaseException) -> str:
    """Return what an error that nobody expected says, and where in the code it was raised."""
    return f"{locate_bug(error)}: {error}"


def trace_bug(error: BaseException) -> str:
    """Return the error with its traceback, safe to print; no text in it can pass for another line."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(map(printable, lines))


def to_load_test_error(error: Exception) -> LoadTestError:
    """Return the error to show for one that the user may not be able to fix; its traceback goes to the log."""
    if isinstance(error, LoadTestError):
        return error
    _log.error(trace_bug(error))
    fix = "please report this: the load test itself failed, and the log has the details"
    return LoadTestError("the load test", describe_bug(error), fix)


class SettingsError(LoadTestError):
    """An option, or a file it names, cannot be used."""

    exit_code = 2


class ServerError(LoadTestError):
    """The server does not answer, is not ready, does not speak KServe v2, or serves something else."""

    exit_code = 6
