"""Plans of whichever compiler is installed, TensorRT or TensorRT for RTX, without publishing them."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from builder.batching import add_batch_axis
from builder.config import Profile, make_profiles
from builder.errors import HostError
from builder.model import load
from builder.naming import rename
from builder.progress import silent
from builder.proof import VerifiedModel
from builder.publishing import PublishOptions
from builder.publishing.lowered import prove_lowered
from builder.tensorrt import BuildOptions, Built, CompiledModel, build, compile_plan, host, need_library
from support.on_gpu import missing_gpu


@cache
def missing_engines() -> str:
    """Return why no engine can be run here, as the reason of a test that is skipped; nothing if one can."""
    try:
        need_library()
    except HostError as error:
        return missing_gpu() or error.what
    return missing_gpu()


def proven(model: Path, precision: Any, *, largest: int) -> tuple[VerifiedModel, tuple[Profile, ...]]:
    """Make the batch of a model dynamic, lower it for TensorRT, and prove it; return it with its profile."""
    options = PublishOptions(format="tensorrt", precision=precision)
    verified = prove_lowered(rename(add_batch_axis(load(model))), options, None, largest, silent).verified
    return verified, make_profiles(verified.batched, (), max_batch_size=largest)


def built(model: Path, precision: Any, *, largest: int) -> Built:
    """Build a plan, which needs no GPU with TensorRT for RTX."""
    verified, profiles = proven(model, precision, largest=largest)
    return build(verified, profiles, BuildOptions(precision=precision), lambda _: None)


def compiled(model: Path, precision: Any, *, largest: int) -> tuple[VerifiedModel, CompiledModel]:
    """Build a plan, run it on the GPU, and compare each row with the original's."""
    verified, profiles = proven(model, precision, largest=largest)
    gpu = host._driver()
    assert gpu is not None
    gpu = replace(gpu, tensorrt=str(need_library()))
    return verified, compile_plan(verified, profiles, BuildOptions(precision=precision), gpu)
