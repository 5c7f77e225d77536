"""Bring a version into a running Triton, and put the one before back if it does not answer as it should.

`rollout` tells the order: rehearse the version under another name, switch the repository, load it, compare its answers
with the stored reference, watch it for a while. `live_server` is the running server over gRPC, `live_check` the
comparison, and `rehearsal` the trial.
"""

from builder.deployment.live_server import LiveServer
from builder.deployment.rollout import deploy

__all__ = ["LiveServer", "deploy"]
