"""A real Triton Inference Server on this machine, without Docker or a GPU.

The wheel `nvidia-pytriton` carries the server's own binary; our Python-based `onnxruntime` backend runs the
models. The repository it serves is the one that goes to production, unchanged.
"""

from builder.server.ports import free_port
from builder.server.serving import Server, serve

__all__ = ["Server", "free_port", "serve"]
