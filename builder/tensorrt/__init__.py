"""Build a TensorRT plan of a proven model on this machine's GPU, and prove the plan.

`compile_plan` (in `compiling`) builds a plan (`building`), runs it (`running`), and compares its answers with those of
the original model (`proving`). `host` finds TensorRT and the GPU. TensorRT itself is imported only when it is used.
"""

from builder.tensorrt.building import BuildOptions
from builder.tensorrt.compiling import CompiledModel, compile_plan
from builder.tensorrt.host import Host, find_host
from builder.tensorrt.proving import prove_profile
from builder.tensorrt.running import open_plan, read_formats

__all__ = [
    "BuildOptions",
    "CompiledModel",
    "Host",
    "compile_plan",
    "find_host",
    "open_plan",
    "prove_profile",
    "read_formats",
]
