"""Plans of whichever compiler is installed, TensorRT or TensorRT for RTX, made as `publish` does, and not published."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from builder.batching import add_batch_axis
from builder.config import Profile, make_profiles
from builder.errors import HostError
from builder.model import load
from builder.naming import rename
from builder.progress import silent
from builder.proof import VerifiedModel
from builder.publishing import PublishOptions
from builder.publishing.compiling import compile_proven
from builder.tensorrt import BuildOptions, Built, CompiledModel, build, compile_plan, host, need_library
from support.on_gpu import int8_options, missing_gpu

Made = TypeVar("Made")


@cache
def missing_engines() -> str:
    """Return why no engine can be run here, as the reason of a test that is skipped; nothing if one can."""
    try:
        need_library()
    except HostError as error:
        return missing_gpu() or error.what
    return missing_gpu()


def built(model: Path, precision: Any, *, largest: int) -> Built:
    """Build a plan, which needs no GPU with TensorRT for RTX."""
    return _made(model, precision, largest, partial(_build, BuildOptions(precision=precision)))[1]


def compiled(model: Path, precision: Any, *, largest: int) -> tuple[VerifiedModel, CompiledModel]:
    """Build a plan, run it on the GPU, and compare each row with the original's."""
    gpu = host._driver()
    assert gpu is not None
    gpu = replace(gpu, tensorrt=str(need_library()))
    return _made(model, precision, largest, partial(_compile, BuildOptions(precision=precision), gpu))


def _made(
    model: Path, precision: Any, largest: int, make: Callable[[tuple[Profile, ...], VerifiedModel], Made]
) -> tuple[VerifiedModel, Made]:
    batched = rename(add_batch_axis(load(model)))
    profiles = make_profiles(batched, (), max_batch_size=largest)
    with tempfile.TemporaryDirectory() as folder:
        quantized = int8_options(model, Path(folder), "tensorrt") if precision == "int8" else {}
        options = PublishOptions(format="tensorrt", precision=precision, **quantized)
        proven, made = compile_proven(
            batched, options, None, largest, silent, profiles=profiles, compile_model=partial(make, profiles)
        )
    return proven.verified, made


def _build(options: BuildOptions, profiles: tuple[Profile, ...], verified: VerifiedModel) -> Built:
    return build(verified, profiles, options, lambda _: None)


def _compile(
    options: BuildOptions, gpu: host.Host, profiles: tuple[Profile, ...], verified: VerifiedModel
) -> CompiledModel:
    return compile_plan(verified, profiles, options, gpu)
