"""What Triton counts for each version of a model, read from its statistics.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SPLIT = ("queue", "compute_input", "compute_infer", "compute_output")
_COMPUTE = SPLIT[1:]


@dataclass
class Counts:
    """What one version of a model has counted since it was loaded.

    Attributes:
        inferences: Rows.
        executions: Batches.
        requests: Those that succeeded.
        failed: Those that did not.
        nanoseconds: Their time, by part; parts that the server does not count are missing.
        batch_sizes: Executions by rows; empty if the server does not count them.
        batch_nanoseconds: Their time by rows, from the start of the input to the end of the output.
    """

    inferences: int = 0
    executions: int = 0
    requests: int = 0
    failed: int = 0
    nanoseconds: dict[str, int] = field(default_factory=dict)
    batch_sizes: Counter[int] = field(default_factory=Counter)
    batch_nanoseconds: Counter[int] = field(default_factory=Counter)

    def minus(self, earlier: "Counts") -> "Counts":
        """Return what was added since `earlier`."""
        return Counts(
            self.inferences - earlier.inferences,
            self.executions - earlier.executions,
            self.requests - earlier.requests,
            self.failed - earlier.failed,
            {part: ns - earlier.nanoseconds.get(part, 0) for part, ns in self.nanoseconds.items()},
            self.batch_sizes - earlier.batch_sizes,
            self.batch_nanoseconds - earlier.batch_nanoseconds,
        )

    def plus(self, other: "Counts") -> "Counts":
        """Return the sum of both."""
        return Counts(
            self.inferences + other.inferences,
            self.executions + other.executions,
            self.requests + other.requests,
            self.failed + other.failed,
            {
                part: self.nanoseconds.get(part, 0) + other.nanoseconds.get(part, 0)
                for part in {**self.nanoseconds, **other.nanoseconds}
            },
            self.batch_sizes + other.batch_sizes,
            self.batch_nanoseconds + other.batch_nanoseconds,
        )

    def is_below(self, earlier: "Counts") -> bool:
        """Return whether a count is lower than it was: then they are not the same server's, or it started anew."""
        times = (ns < earlier.nanoseconds.get(part, 0) for part, ns in self.nanoseconds.items())
        return (
            self.inferences < earlier.inferences
            or self.executions < earlier.executions
            or self.requests < earlier.requests
            or self.failed < earlier.failed
            or any(times)
        )


def read_statistics(answer: Mapping[str, Any]) -> Iterator[tuple[str, str, Counts]]:
    """Yield the name, the version and the counts of each model in the answer to `GET /v2/models/NAME/stats`.

    Raises:
        KeyError, TypeError, ValueError: It is something else.
    """
    for entry in answer["model_stats"]:
        stats = entry["inference_stats"]
        batches = [(int(batch["batch_size"]), batch) for batch in entry["batch_stats"]]
        counts = Counts(
            inferences=int(entry["inference_count"]),
            executions=int(entry["execution_count"]),
            requests=int(stats["success"]["count"]),
            failed=int(stats["fail"]["count"]),
            nanoseconds={part: int(stats[part]["ns"]) for part in SPLIT},
            batch_sizes=Counter({size: int(batch["compute_infer"]["count"]) for size, batch in batches}),
            batch_nanoseconds=Counter({size: _time_of(batch) for size, batch in batches}),
        )
        yield str(entry["name"]), str(entry["version"]), counts


def _time_of(batch: Mapping[str, Any]) -> int:
    """Return how long batches of one size took; a part that the server does not count is left out."""
    return sum(int(batch[part]["ns"]) for part in _COMPUTE if part in batch)
