"""Build a TensorRT plan of a proven model on this machine's GPU, and prove the plan.

`compile_plan` (in `compiling`) builds a plan (`building`), reads the types of its layers (`layers`), runs it
(`running`), compares its answers with those of the original model (`proving`), and its accuracy
on labelled samples (`judging`). `library` finds TensorRT, or
TensorRT for RTX, and imports it only when it is used; `host` finds the GPU.

TensorRT's own reasons are kept: `parsing` asks its parser which nodes it refuses, `messages` collects what it logs, and
`diagnosis` says what to do about it, by the `kinds` of reasons.
"""

from builder.tensorrt.building import BuildOptions, Built, OnnxFile, build, check_parses
from builder.tensorrt.compiling import CompiledModel, compile_plan
from builder.tensorrt.diagnosis import UnbuildableError
from builder.tensorrt.host import Host, find_host
from builder.tensorrt.judging import judge_plan
from builder.tensorrt.layers import read_formats
from builder.tensorrt.library import Library, find_library, need_library
from builder.tensorrt.proving import prove_profile
from builder.tensorrt.running import open_plan

__all__ = [
    "BuildOptions",
    "Built",
    "CompiledModel",
    "Host",
    "Library",
    "OnnxFile",
    "UnbuildableError",
    "build",
    "check_parses",
    "compile_plan",
    "find_host",
    "find_library",
    "judge_plan",
    "need_library",
    "open_plan",
    "prove_profile",
    "read_formats",
]
