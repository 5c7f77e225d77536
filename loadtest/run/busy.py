"""How hard the processes that make load worked, and when that is too hard."""

from dataclasses import dataclass

SATURATED_SHARE = 0.9
"""A client that computes, or waits for a CPU, for this share of the time is the bottleneck: it has one thread."""

COMFORTABLE_SHARE = 0.7
"""How busy a client process should be at most."""

CROWDED_SHARE = 0.25
"""A client that waits for a CPU for this share of the time needs its own cores rather than more processes."""


@dataclass
class Busy:
    """How hard one process worked: seconds of wall clock, of its CPU time, and of waiting for a CPU."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    cpu_wait_s: float = 0.0

    @property
    def share(self) -> float:
        """The share of the time that the process had work to do, 0 to 1."""
        return (self.cpu_s + self.cpu_wait_s) / self.seconds if self.seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """The share of the time that the process could have run but had no CPU, 0 to 1."""
        return self.cpu_wait_s / self.seconds if self.seconds else 0.0

    def append(self, later: "Busy") -> None:
        """Append the next window of the same process."""
        self.seconds += later.seconds
        self.cpu_s += later.cpu_s
        self.cpu_wait_s += later.cpu_wait_s
