"""Predict what a configuration does under a load, from what was measured of others.

`batcher` does what Triton's dynamic batcher does, `cores` shares the cores among all that compute, and `simulator` lets
requests run through both. `curves` says how long a batch takes, `guessing` what the machine may be like, and `fitting`
makes the simulated server resemble what was measured.
"""

from builder.tuning.simulation.curves import Engine, engine_of
from builder.tuning.simulation.fitting import fit
from builder.tuning.simulation.simulator import Predicted, simulate_all

__all__ = [
    "Engine",
    "Predicted",
    "engine_of",
    "fit",
    "simulate_all",
]
