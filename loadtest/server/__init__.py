"""The server under test, seen from outside.

Before a run, `prepare` checks that the server is ready and serves what the settings and the repository say, and
returns the samples to send. During a run, `take_snapshot` reads the server's own counters; `summarize` turns the
snapshots of a stage into the server's share of the figures, and `has_restarted` notices a restart.
"""

from loadtest.server.control import ignored_proxy
from loadtest.server.preparing import prepare
from loadtest.server.statistics import Snapshot, has_restarted, summarize, take_snapshot

__all__ = ["Snapshot", "has_restarted", "ignored_proxy", "prepare", "summarize", "take_snapshot"]
