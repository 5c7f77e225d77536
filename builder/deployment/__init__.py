"""Deploy a version to running Tritons, or put everything back as it was if one of them does not answer as it should.

`deploy` (in `rollout`) takes the servers in `waves`. It tries the version under another name (`rehearsal`), lets the
config name it (`switched`), loads it, compares the answers with the stored ones (`live_check`), and can watch it for a
while. `goal` is what all servers are to serve, `server_run` the work on one of them, and `outcome` how they were left.
`trial` only tries a version out, on a server that nobody else uses. `live_server` controls a running server at an
`address` over gRPC, with the certificates and headers of `access`, and `inference` sends requests to it. A `mirror`
keeps a bucket the same as the folder that is changed. `in_use` asks which versions servers answer with, for `prune`.
"""

from builder.deployment.access import Certificates, read_headers
from builder.deployment.address import Address, every_server, read_servers
from builder.deployment.goal import Goal, make_goal
from builder.deployment.in_use import ask, is_stopped
from builder.deployment.live_server import LiveServer
from builder.deployment.mirror import Mirror, OnDisk
from builder.deployment.outcome import Deployment, ServerOutcome
from builder.deployment.rehearsal import ANOTHER_REPOSITORY, SEE_S, Candidate
from builder.deployment.rollout import deploy
from builder.deployment.trial import try_out
from builder.deployment.waves import Reach
from builder.deployment.waves import parse as parse_waves

__all__ = [
    "ANOTHER_REPOSITORY",
    "SEE_S",
    "Address",
    "Candidate",
    "Certificates",
    "Deployment",
    "Goal",
    "LiveServer",
    "Mirror",
    "OnDisk",
    "Reach",
    "ServerOutcome",
    "ask",
    "deploy",
    "every_server",
    "is_stopped",
    "make_goal",
    "parse_waves",
    "read_headers",
    "read_servers",
    "try_out",
]
