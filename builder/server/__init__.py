"""Run a real Triton Inference Server on this machine, without Docker or a GPU.

The wheel `nvidia-pytriton` contains NVIDIA's server binary, and our `onnxruntime` backend, written in Python, runs the
models in it. It serves the same repository as in production, without changes.

`Server.start` serves a repository for the duration of a `with` block, and `serve` runs in the foreground.
`installation` finds the binary, `runtime` prepares the folder that it runs in, `process` starts and stops it, `log`
finds the reason for a failure in its log, and `ports` chooses the ports.
"""

from builder.server.ports import free_port
from builder.server.serving import Server, serve

__all__ = ["Server", "free_port", "serve"]
