"""This machine: what it is, and what its processor did for the server, the load generator and everybody else."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What figures depend on that were measured here.

    Attributes:
        cpu: The name of the CPU's model.
        cores: How many cores this process may use.
        memory: The memory, in bytes.
        kernel: The operating system's name and release.
        virtual: Whether it is a virtual machine; None if that is not known.
    """

    cpu: str
    cores: int
    memory: int
    kernel: str
    virtual: bool | None = None


def read_machine() -> MachineFacts:
    """Return the facts about this machine; what cannot be read is empty or 0."""
    raise NotImplementedError
