"""Deploy a version to a running Triton, and restore the previous version if it does not answer as it should.

`deploy` (in `rollout`) switches the repository to the version, tries it under another name (`rehearsal`), loads it,
compares its answers with the stored reference (`live_check`), and can watch it for a while. `live_server` controls the
running server, at an `Address`, over gRPC.
"""

from builder.deployment.live_server import LiveServer
from builder.deployment.rollout import Deployment, deploy

__all__ = ["Deployment", "LiveServer", "deploy"]
