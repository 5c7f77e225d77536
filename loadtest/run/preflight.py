"""Check that a run with the given options can take place, before its first user starts."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

from loadtest import server, settings
from loadtest.errors import SettingsError, catch, reason, to_load_test_error
from loadtest.scenarios import make_stages


def check(options: Mapping[str, str]) -> None:
    """Check that a run with these options can take place.

    Raises:
        SettingsError: An option, or a file it names, cannot be used or written.
        ServerError: The server is not ready, or not the one that the options and the repository describe.
        LoadTestError: The check failed in a way that nobody expected.
    """
    error = catch(lambda: _check(options))
    if error is not None:
        raise to_load_test_error(error) from error


def _check(options: Mapping[str, str]) -> None:
    read = settings.from_text(options)
    make_stages(read.load)
    if read.report_dir is not None:
        check_directory(read.report_dir)
    if read.markdown is not None:
        append(read.markdown, "")
    server.prepare(read)
    server.check_metrics(read)


def check_directory(directory: Path) -> None:
    """Check that a report can be written to `directory`, before anything is measured for it.

    Raises:
        SettingsError: It cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise cannot_write(directory, error) from error


def append(path: Path, text: str) -> None:
    """Append text to the file of `--markdown`, which need not exist; with no text, check that it can be done.

    Raises:
        SettingsError: It cannot.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        what = f"the summary cannot be appended: {reason(error)}"
        raise SettingsError(path, what, "set --markdown to a file you can write to") from error


def cannot_write(directory: Path, error: OSError) -> SettingsError:
    """Return the error for a report that cannot be written."""
    return SettingsError(
        directory, f"the report cannot be written: {reason(error)}", "set --report-dir to a directory you can write to"
    )
