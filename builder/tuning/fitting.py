"""Find out what a machine is like from what was measured on it."""

from collections.abc import Sequence

from builder.tuning.measurement import Measurement
from builder.tuning.simulator import Machine


def fit(measurements: Sequence[Measurement], *, cores: int | None, here: bool = True) -> Machine:
    """Return the machine on which the measurements are most likely.

    Each further measurement makes it better. One is enough: what cannot be known from it is guessed.

    Args:
        measurements: What was measured, of any configurations under any loads; failed ones are left out.
        cores: The number of cores of the server's machine; None if it is not known.
        here: Whether the load generator runs on the server's machine.

    Raises:
        ValueError: There is no measurement that has the time of a batch.
    """
    raise NotImplementedError
