"""Build a plan from an ONNX file.

The network is strongly typed: the ONNX file decides which node computes in which precision. TensorRT 11 requires this,
and TensorRT 10 supports it. A plan runs on the version of TensorRT and the kind of GPU that built it.
"""

import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder import files
from builder.config import Profile
from builder.errors import HostError, ModelError
from builder.lowering import Precision
from builder.progress import format_bytes
from builder.proof import VerifiedModel, one_line
from builder.tensorrt.library import Library, need_library

_LARGEST_CACHE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build a plan.

    Attributes:
        precision: The precision of the model. A plan without a layer in it is refused.
        timing_cache: The file that keeps measured kernels for the next build.
        workspace_mb: The most scratch memory that a kernel may use. By default TensorRT uses all there is.
        version_compatible: Whether later versions of TensorRT can run the plan too.
        hardware_compatible: Whether later GPU architectures can run the plan too.
    """

    precision: Precision = "fp32"
    timing_cache: Path | None = None
    workspace_mb: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """A plan, and what the compiler said about it. It was not run.

    Attributes:
        plan: Its bytes.
        layers: How many outputs of layers have each data type, as the compiler lists them; empty if it lists none.
        cache: The timing cache that goes with it; None if it was not asked for.
        seconds: How long parsing and building took.
    """

    plan: bytes
    layers: Counter[str] = field(default_factory=Counter)
    cache: bytes | None = None
    seconds: float = 0.0


def build(
    verified: VerifiedModel, profiles: Sequence[Profile], options: BuildOptions, report: Callable[[str], None]
) -> Built:
    """Parse and build, with the TensorRT or TensorRT for RTX that is installed.

    Raises:
        ModelError: The compiler does not support the model.
        HostError: No compiler is installed, it cannot do what is asked for, or it has not enough memory.
    """
    library = need_library()
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath
    from polygraphy.exception import PolygraphyException

    where = verified.batched.original.path
    started = time.monotonic()
    with _file(verified) as file, _quiet_about_caches():
        try:
            parsed = NetworkFromOnnxPath(str(file), strongly_typed=True)()
        except PolygraphyException as error:
            what = f"{library.name} cannot parse the model: {one_line(error)}"
            raise ModelError(where, what, "export it without that operator, or publish with --format onnx") from error
        config = CreateConfig(progress_monitor=_progress(library, report), **_config(library, profiles, options))
        cache = str(options.timing_cache) if options.timing_cache is not None else None
        try:
            plan = bytes(EngineBytesFromNetwork(parsed, config, save_timing_cache=cache)())
        except PolygraphyException as error:
            what = f"{library.name} cannot build the plan: {one_line(error)}"
            fix = "free GPU memory, or lower --max-batch-size, the shapes of --profile or --workspace-mb"
            raise HostError(where, what, fix) from error
    return Built(plan, seconds=time.monotonic() - started)


@contextmanager
def _file(verified: VerifiedModel) -> Iterator[Path]:
    """Write the model to a temporary folder, because the compiler reads external weights beside a file."""
    where = verified.batched.original.path
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(verified.model_bytes)
        for weights in verified.external_files:
            beside = Path(folder, weights.relative_to(where.parent.resolve()))
            beside.parent.mkdir(parents=True, exist_ok=True)
            beside.symlink_to(weights)
        yield file


@contextmanager
def _quiet_about_caches() -> Iterator[None]:
    """Hide that Polygraphy uses timing caches and context managers, which TensorRT for RTX and 11 call deprecated."""
    with warnings.catch_warnings():
        for text in (".*Timing cache operations are no-ops", "Context managers for TensorRT types are deprecated"):
            warnings.filterwarnings("ignore", text, DeprecationWarning)
        yield


def _config(library: Library, profiles: Sequence[Profile], options: BuildOptions) -> dict[str, Any]:
    """Return the arguments of Polygraphy's CreateConfig, which itself disables TF32 and enables detailed verbosity."""
    from polygraphy.backend.trt import Profile as TensorrtProfile

    tensorrt = library.module
    asked: dict[str, Any] = {"profiles": [TensorrtProfile() for _ in profiles]}
    for target, profile in zip(asked["profiles"], profiles, strict=True):
        for name, shapes in profile.items():
            target.add(name, min=shapes.min, opt=shapes.opt, max=shapes.max)
    if options.timing_cache is not None and has_cache(options.timing_cache):
        asked["load_timing_cache"] = str(options.timing_cache)
    if options.workspace_mb is not None:
        asked["memory_pool_limits"] = {tensorrt.MemoryPoolType.WORKSPACE: options.workspace_mb << 20}
    if options.version_compatible:
        asked["version_compatible"] = True
    if options.hardware_compatible:
        asked["hardware_compatibility_level"] = tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS
    return asked


def has_cache(timing_cache: Path) -> bool:
    """Return whether a timing cache was written before. Polygraphy would wait for a named pipe, or read zeros for ever.

    Raises:
        HostError: Something else is at its path, or it is too large to be one.
    """
    try:
        found = files.size(timing_cache)
    except FileNotFoundError:
        return False
    except OSError as error:
        what = f"the timing cache cannot be read: {files.reason(error)}"
        raise HostError(timing_cache, what, "name a file that does not exist yet with --timing-cache") from error
    if found > _LARGEST_CACHE:
        what = f"it has {format_bytes(found)}, and a timing cache has at most {format_bytes(_LARGEST_CACHE)}"
        raise HostError(timing_cache, what, "name a file that does not exist yet with --timing-cache")
    return True


def _progress(library: Library, report: Callable[[str], None]) -> Any:
    """Return a monitor that reports the outer phases of a build.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/ProgressMonitor.html
    """
    base: Any = library.module.IProgressMonitor

    class Progress(base):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Progress()
