"""The messages between the leader and the processes that make load.

The leader sends PREPARE, GATHER (new users wait), BEGIN (a stage) and TAKE (end a round); each process answers PREPARE
with PREPARED, and TAKE with WINDOWS. Locust carries them: over the network between machines, as plain calls when there
is only one process.
"""

from loadtest.errors import LoadTestError, ServerError, SettingsError

PREPARE = "loadtest_prepare"
PREPARED = "loadtest_prepared"
GATHER = "loadtest_gather"
BEGIN = "loadtest_begin"
TAKE = "loadtest_take"
WINDOWS = "loadtest_windows"

_ERRORS = {cls.__name__: cls for cls in (LoadTestError, ServerError, SettingsError)}


def from_error(error: LoadTestError) -> list[str]:
    """Return an error as plain values."""
    return [type(error).__name__, error.where, error.what, error.fix]


def to_error(message: list[str]) -> LoadTestError:
    """Undo `from_error`."""
    kind, where, what, fix = message
    return _ERRORS[kind](where, what, fix)
