"""Run a real Triton Inference Server on this machine, without Docker or a GPU.

The wheel `nvidia-pytriton` contains NVIDIA's server binary, and our `onnxruntime` backend, written in Python, runs the
models in it. It serves the same repository as in production, without changes.

`Server.start` serves a repository for the duration of a `with` block, and `serve` runs in the foreground.
`installation` finds the binary, `runtime` prepares the folder that it runs in, `flags` checks what the user adds to its
command line, `process` starts and stops it, `log` finds the reason for a failure in its log, `loading` follows it while
it loads the models, `index` asks which ones it serves, and `ports` chooses and keeps the ports.

The APIs that load models and change settings are closed by a key (`admin`). It is not among the arguments of the
process (`hiding`), and the other commands of the same user find it in a file (`key_files`).
"""

from builder.server.admin import HEADER, KEY_VARIABLE, AdminAccess, given_access, read_header
from builder.server.flags import FlagError, help_text
from builder.server.foreground import serve
from builder.server.index import IndexEntry, read_index
from builder.server.key_files import FoundServer, LocalServer, find_server, is_loopback, servers_of
from builder.server.ports import free_port
from builder.server.serving import Server

__all__ = [
    "HEADER",
    "KEY_VARIABLE",
    "AdminAccess",
    "FlagError",
    "FoundServer",
    "IndexEntry",
    "LocalServer",
    "Server",
    "find_server",
    "free_port",
    "given_access",
    "help_text",
    "is_loopback",
    "read_header",
    "read_index",
    "serve",
    "servers_of",
]
