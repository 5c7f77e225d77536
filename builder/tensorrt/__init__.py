"""Build a TensorRT plan of a proven model on this machine's GPU, and prove the plan.

`compile_plan` (in `compiling`) builds a plan (`building`), reads the types of its layers (`layers`), runs it
(`running`), and compares its answers with those of the original model (`proving`), and its accuracy on labelled samples
(`judging`). `check_build` (in `checking`) builds one only to see that it can be built. `library` finds TensorRT, or
TensorRT for RTX, and imports it only when it is used; `host` finds the GPU.

TensorRT's own reasons are kept: `parsing` asks its parser which nodes it refuses, `messages` collects what it logs, and
`diagnosis` says what to do about it, by the `kinds` of reasons. Before the long proof, `trial` builds a tiny plan, to
see whether this machine can.
"""

from builder.tensorrt.building import BuildOptions, Built, OnnxFile, build, check_build_options, check_parses
from builder.tensorrt.checking import CheckedPlan, check_build, check_request
from builder.tensorrt.compiling import CompiledModel, compile_plan
from builder.tensorrt.diagnosis import UnbuildableError
from builder.tensorrt.host import Host, find_host
from builder.tensorrt.judging import judge_plan
from builder.tensorrt.layers import read_formats
from builder.tensorrt.library import Library, find_library, need_library
from builder.tensorrt.proving import prove_profile
from builder.tensorrt.running import open_plan
from builder.tensorrt.trial import check_builds
from builder.tensorrt.watching import build_time

__all__ = [
    "BuildOptions",
    "Built",
    "CheckedPlan",
    "CompiledModel",
    "Host",
    "Library",
    "OnnxFile",
    "UnbuildableError",
    "build",
    "build_time",
    "check_build",
    "check_build_options",
    "check_builds",
    "check_parses",
    "check_request",
    "compile_plan",
    "find_host",
    "find_library",
    "judge_plan",
    "need_library",
    "open_plan",
    "prove_profile",
    "read_formats",
]
