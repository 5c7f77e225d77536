"""What a deployment did: on each server, and altogether."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["deployed", "unchanged", "put back", "not put back"]
"""How a server was left:

- `deployed`: it serves the version, and its answers were checked.
- `unchanged`: it was not told to serve the version, and serves what it served before.
- `put back`: it was told to, and serves again what it served before.
- `not put back`: it could not be put back, so nobody knows what it serves.
"""


Runs = Literal["plan", "onnx"]
"""What a server runs of a version that has both: its TensorRT plan, or its ONNX file."""


@dataclass(frozen=True, slots=True)
class ServerOutcome:
    """How one server was left.

    Attributes:
        address: Its address.
        before: The versions that it served before; None if that was not found out.
        after: The versions that it serves now; None if that is not known.
        state: How it was left.
        load_s: The seconds until the version was loaded; 0 if it was not. What was served before answered until then.
        requests: The number of requests that were checked.
        rows: The number of rows in them.
        largest_difference: The largest difference between an answer and the reference, by output.
        reason: Why the deployment failed on this server, or why it could not be put back; None if neither.
        runs: What it was told to run, of a version that has a plan and an ONNX file; None for other versions, and if it
            was told nothing.
        no_plan: Why it does not run the plan, in its own words; None if it does, and for versions without a choice.
    """

    address: str
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    state: State
    load_s: float = 0.0
    requests: int = 0
    rows: int = 0
    largest_difference: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    runs: Runs | None = None
    no_plan: str | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a deployment did.

    Attributes:
        name: The model.
        version: The version that was to answer requests that name none.
        versions: All versions that were to be served.
        named_before: The version that config.pbtxt named before.
        named_after: The version that it names now.
        servers: How each server was left, in the order in which they were given.
        is_complete: Whether every server serves the version.
        config_diff: What the deployment changed in config.pbtxt, as a unified diff.
    """

    name: str
    version: int
    versions: tuple[int, ...]
    named_before: int
    named_after: int
    servers: tuple[ServerOutcome, ...]
    is_complete: bool
    config_diff: str = ""

    @property
    def requests(self) -> int:
        """The number of requests that were checked."""
        return sum(server.requests for server in self.servers)

    @property
    def rows(self) -> int:
        """The number of rows in them."""
        return sum(server.rows for server in self.servers)

    @property
    def largest_difference(self) -> dict[str, float]:
        """The largest difference between an answer and the reference on any server, by output."""
        return largest(server.largest_difference for server in self.servers)


def largest(differences: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the largest value of each key."""
    found: dict[str, float] = {}
    for one in differences:
        for output, value in one.items():
            found[output] = max(found.get(output, 0.0), value)
    return found


def numbered(versions: Iterable[int]) -> str:
    """Write which versions, as in `version 3`, `versions 1 and 3` or `no version`."""
    *others, last = [str(version) for version in versions] or [""]
    if not last:
        return "no version"
    return f"versions {', '.join(others)} and {last}" if others else f"version {last}"
