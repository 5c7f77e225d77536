"""Build a plan from an ONNX file.

The network is strongly typed: the ONNX file decides which node computes in which precision. TensorRT 11 requires this,
and TensorRT 10 supports it. A plan runs on the version of TensorRT and the kind of GPU that built it.
"""

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from builder import files
from builder.batching import BatchedModel
from builder.config import Profile
from builder.errors import HostError
from builder.lowering import Precision
from builder.progress import format_bytes
from builder.tensorrt.deprecations import quiet
from builder.tensorrt.diagnosis import diagnosed
from builder.tensorrt.effort import TilingLevel, check_effort, tiling_level
from builder.tensorrt.host import IN_CONTAINER
from builder.tensorrt.kinds import Asked
from builder.tensorrt.layers import LAYERS, read_log
from builder.tensorrt.library import Library, need_library
from builder.tensorrt.messages import Log, listening, reasons
from builder.tensorrt.parsing import Nodes, parse
from builder.tensorrt.watching import Watch

_LARGEST_CACHE = 1_000_000_000

_SETTERS = {"setHardwareCompatibilityLevel": "--hardware-compatible"}
"""The option behind a setter of TensorRT."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build a plan.

    Attributes:
        precision: The precision of the model. A plan without a layer in it is refused.
        timing_cache: The file that keeps measured kernels for the next build.
        builder_optimization_level: How long to look for fast kernels, from 0 to 5; None is TensorRT's default.
        tiling_optimization_level: How long to look for ways to keep data in the cache of the GPU; None is TensorRT's
            default.
        build_route: Options of the compiler, as `KNOB=VALUE KNOB=VALUE`; None is TensorRT's default.
        workspace_mb: The most scratch memory that a kernel may use. By default TensorRT uses all there is.
        version_compatible: Whether later versions of TensorRT can run the plan too.
        hardware_compatible: Whether later GPU architectures can run the plan too.
    """

    precision: Precision = "fp32"
    timing_cache: Path | None = None
    builder_optimization_level: int | None = None
    tiling_optimization_level: TilingLevel | None = None
    build_route: str | None = None
    workspace_mb: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """A plan, and what the compiler said about it. It was not run.

    Attributes:
        plan: Its bytes.
        layers: How many outputs of layers have each data type, as the compiler lists them; empty if it lists none.
        cache: The timing cache with all timings of this build; None for TensorRT for RTX, which has none.
        seconds: How long parsing and building took.
    """

    plan: bytes
    layers: Counter[str] = field(default_factory=Counter)
    cache: bytes | None = None
    seconds: float = 0.0


class OnnxFile(Protocol):
    """A model as it is written to a file."""

    @property
    def batched(self) -> BatchedModel:
        """The model."""

    @property
    def model_bytes(self) -> bytes:
        """The .onnx file, without the weights that are in external files."""

    @property
    def external_files(self) -> tuple[Path, ...]:
        """The files of external weights, which lie beside the original."""


def build(
    verified: OnnxFile, profiles: Sequence[Profile], options: BuildOptions, report: Callable[[str], None]
) -> Built:
    """Parse and build, with the TensorRT or TensorRT for RTX that is installed.

    Raises:
        UnbuildableError: The compiler does not support the model, or not at these shapes.
        HostError: No compiler is installed, it cannot do what is asked for, or it has not enough memory.
    """
    library = need_library()
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork
    from polygraphy.exception import PolygraphyException

    where, asked = verified.batched.original.path, _asked(options, library)
    started, watch = time.monotonic(), Watch(library, report)
    with _file(verified) as file, quiet(), listening(also=LAYERS if library.is_rtx else None) as log:
        parsed = parse(file, verified.batched, log, asked)
        try:
            config = CreateConfig(progress_monitor=watch.monitor, **_config(library, profiles, options))(*parsed[:2])
            _check_config(library, log)
            _take_route(library, options.build_route, config)
            cache = str(options.timing_cache) if options.timing_cache is not None else None
            plan = bytes(EngineBytesFromNetwork(parsed, config, save_timing_cache=cache)())
        except (PolygraphyException, RuntimeError) as error:  # the bindings raise RuntimeError for wrong profiles
            watch.check()
            complaints = Nodes.of(verified.batched).complaints(log.errors or reasons([str(error)]))
            raise diagnosed(where, "cannot build the plan", complaints, asked) from error
        watch.check()  # a Ctrl-C may have come after the last step
        timings = None if library.is_rtx else bytes(config.get_timing_cache().serialize())
    layers = read_log(line.text for line in log.lines)
    return Built(plan, layers, timings, seconds=time.monotonic() - started)


def _check_config(library: Library, log: Log) -> None:
    """Check that the compiler does all that it was asked to. It only warns if it does not know a setting.

    Raises:
        HostError: It does not.
    """
    for line in log.lines:
        if unknown := re.search(r"\b(set\w+)\(\) is unsupported", line.text):
            option = _SETTERS.get(unknown[1], unknown[1])
            what = f"{library} does not support {option}"
            raise HostError("this machine", what, f"leave out {option}, or use TensorRT itself: {IN_CONTAINER}")


def check_parses(model: OnnxFile, options: BuildOptions) -> None:
    """Let the compiler parse a model, which takes a moment, to find out early what it does not support.

    Raises:
        UnbuildableError: It refuses the model.
        HostError: No compiler is installed, or it does not start.
    """
    asked = _asked(options, need_library())
    with _file(model) as file, listening() as log:
        parse(file, model.batched, log, asked)


def _asked(options: BuildOptions, library: Library) -> Asked:
    return Asked(options.precision, options.workspace_mb, library.name)


@contextmanager
def _file(verified: OnnxFile) -> Iterator[Path]:
    """Write the model to a temporary folder, because the compiler reads external weights beside a file."""
    original = verified.batched.original.path.parent.resolve()
    weights_at = {weights.relative_to(original): weights for weights in verified.external_files}
    name = "model.onnx"
    while any(relative.parts[0] == name for relative in weights_at):
        name = f"_{name}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_bytes(verified.model_bytes)
        for relative, weights in weights_at.items():
            beside = Path(folder, relative)
            beside.parent.mkdir(parents=True, exist_ok=True)
            beside.symlink_to(weights)
        yield file


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
    if options.builder_optimization_level is not None:
        asked["builder_optimization_level"] = options.builder_optimization_level
    if options.tiling_optimization_level is not None:
        asked["tiling_optimization_level"] = tiling_level(library, options.tiling_optimization_level)
    if options.workspace_mb is not None:
        asked["memory_pool_limits"] = {tensorrt.MemoryPoolType.WORKSPACE: options.workspace_mb << 20}
    if options.version_compatible:
        asked["version_compatible"] = True
    if options.hardware_compatible:
        asked["hardware_compatibility_level"] = tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS
    return asked


def check_build_options(options: BuildOptions) -> None:
    """Refuse options that the installed compiler does not have, before a model is proven for them.

    Raises:
        HostError: It does not have one of them.
    """
    library = need_library()
    check_effort(
        library,
        level=options.builder_optimization_level,
        tiling=options.tiling_optimization_level,
        route=options.build_route,
    )
    if options.hardware_compatible:
        _try_config(library, options)


def _try_config(library: Library, options: BuildOptions) -> None:
    """Set the options for an empty network, and see what the compiler says.

    Raises:
        HostError: It does not have one of them.
    """
    from polygraphy.backend.trt import CreateConfig, CreateNetwork
    from polygraphy.exception import PolygraphyException

    with (
        quiet(),
        listening() as log,
        suppress(PolygraphyException, TypeError),
    ):  # it does not start: the first build says
        CreateConfig(**_config(library, (), options))(*CreateNetwork(strongly_typed=True)())
    _check_config(library, log)


def _take_route(library: Library, route: str | None, config: Any) -> None:
    """Set the build route, and see that the compiler took it.

    Raises:
        HostError: It did not.
    """
    if route is None:
        return
    config.build_route = route
    if config.build_route != route:
        what = f"{library} did not take this build route, and has {config.build_route!r} instead"
        raise HostError("--build-route", what, "leave out --build-route, or write the route as it is there")


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
