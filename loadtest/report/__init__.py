"""The result of a run: its verdict, its files, and the page that shows it.

At the end of a run, `Outcome` makes the result (`result`: the values of result.json, with the verdict of `verdict`,
the intervals of `bounds` and the remarks of `notes`), writes the report (`files`), sets the exit code and prints a
summary. During a run, `web` shows the result so far in Locust's page. The package `compare` and `reproduce` work on the
files of finished runs. The package `tuning` makes the page of a tuning, from the file of `python -m builder tune`.
"""

from loadtest.report.files import read_schema
from loadtest.report.outcome import Outcome, heard, print_refusal
from loadtest.report.reproduce import send_again
from loadtest.report.result import SCHEMA, make_result

__all__ = ["SCHEMA", "Outcome", "heard", "make_result", "print_refusal", "read_schema", "send_again"]
