"""Stateful models: which models are, and the sequences that are sent to them."""

from collections.abc import Sequence
from typing import TypeAlias

from loadtest.checking import Samples, Streams
from loadtest.errors import SettingsError
from loadtest.scenarios import SCENARIOS, Reads
from loadtest.server.target import Served
from loadtest.settings import Contents, Settings

_STEPS = 20
"""The steps of a sequence without a file, as in perf_analyzer."""

Places: TypeAlias = Sequence[tuple[int, int]]
"""Where the rows of a stream are: for each the number of its samples, and that of the row in them."""


def is_stateful(settings: Settings, served: Served) -> bool:
    """Return whether a model is sent sequences: it has them in its configuration, or the user says so.

    Raises:
        SettingsError: It is, but cannot be used with these settings; or it is not, but the user says so.
    """
    asked = settings.contents.sequence_length is not None
    if served.idle_s is None and (served.has_config or not asked):
        if asked:
            what = f"model {served.name} has no sequence_batching in its configuration"
            raise SettingsError("--sequence-length", what, "leave this option out, or name a stateful model")
        return False
    _check(settings, served)
    return True


def _check(settings: Settings, served: Served) -> None:
    if settings.repository is not None:
        what = (
            f"model {served.name} keeps state between requests, but the answers stored there are those of single ones"
        )
        fix = "leave out --repository, and give sequences and their answers in a file with --input-data"
        raise SettingsError("--repository", what, fix)
    if any(rows > 1 for rows, _ in settings.rows):
        what = f"model {served.name} is stateful, and a step of a sequence has one row"
        raise SettingsError("--rows", what, "give 1, or leave this option out")
    _check_idle(settings, served)


def _check_idle(settings: Settings, served: Served) -> None:
    """Check that the steps of an open loop come soon enough one after the other.

    With 256 users and 100 requests/s, each user sends a step every 2.56 s. If the server ends a sequence that waits for
    longer than 1 s, there may be 100 users at most.
    """
    load = settings.load
    if served.idle_s is None or SCENARIOS[load.scenario].reads is not Reads.RATES:
        return
    most = int(min(load.rates) * served.idle_s)
    if load.max_in_flight > max(most, 1):
        what = (
            f"each of {load.max_in_flight} sequences would wait {load.max_in_flight / min(load.rates):.3g} s for its "
            f"next step, but the server ends one that waits longer than {served.idle_s:g} s"
        )
        fix = f"give fewer sequences at once, as in --max-in-flight {max(most // 2, 1)}, or a higher --rate"
        raise SettingsError("--max-in-flight", what, fix)


def make_streams(contents: Contents, samples: Sequence[Samples], streams: Sequence[Places]) -> Streams:
    """Return the sequences to send: the streams of a file, or else generated rows."""
    steps = tuple(tuple((samples[block], row) for block, row in places) for places in streams)
    length = contents.sequence_length
    if length is None:
        return Streams(steps, None if contents.file is not None else _STEPS, contents.sequence_variation)
    return Streams(steps, length, contents.sequence_variation)
