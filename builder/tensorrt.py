"""Build a TensorRT plan of a proven model, and prove the plan.

The network is strongly typed, as TensorRT 11 knows it only and TensorRT 10 takes it too: what computes in which
precision is decided in the ONNX file. A plan runs on the version of TensorRT and the kind of GPU that built it.
"""

import ctypes
import importlib.util
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from builder import digest
from builder.config import Profile
from builder.errors import HostError, ModelError
from builder.lowering import Precision
from builder.proof import VerifiedModel
from builder.proof.comparison import Tolerance
from builder.proof.prover import Proven, Prover
from builder.proof.session import one_line, onnxruntime_errors, open_rewritten
from builder.record import Plan
from builder.samples import draw
from builder.tensors import Arrays

IN_CONTAINER = "docker compose run --rm builder publish MODEL.onnx --format tensorrt"

_NAMES = {"fp16": {"Half", "FP16"}, "bf16": {"BFloat16", "BF16"}}
"""How the engine inspector names the formats of a layer's tensors, by precision."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build.

    Attributes:
        precision: That the model was brought to; a plan that has none of it is a failure.
        timing_cache: Where measured kernels are kept for the next build.
        workspace_mb: The most scratch memory that a kernel may take; TensorRT's default is all there is.
        version_compatible: Let later versions of TensorRT run the plan.
        hardware_compatible: Let later architectures of GPUs run the plan.
    """

    precision: Precision = "fp32"
    timing_cache: Path | None = None
    workspace_mb: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """What builds: the version of TensorRT, the CUDA version and release of the driver, and the GPU."""

    tensorrt: str
    cuda: str
    driver: str
    gpu: str


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """A plan that answers as the original does.

    Attributes:
        plan: The bytes of `model.plan`.
        facts: For the manifest.
        proven: What came of the comparison.
        batch_sizes: That were run.
    """

    plan: bytes
    facts: Plan
    proven: Proven
    batch_sizes: tuple[int, ...]


def find_host() -> Host:
    """The TensorRT and the GPU that are here.

    Raises:
        HostError: There is no GPU, no TensorRT or no Polygraphy.
    """
    driver = _driver()
    missing = [name for name in ("tensorrt", "polygraphy") if importlib.util.find_spec(name) is None]
    if driver is None:
        missing.insert(0, "NVIDIA GPU")
    if driver is None or missing:
        what = f"a TensorRT plan is built where it will run, and here is no {' and no '.join(missing)}"
        raise HostError("this machine", what, f"build it in the image that will serve it: {IN_CONTAINER}")
    import tensorrt

    return replace(driver, tensorrt=str(tensorrt.__version__))


def _driver() -> Host | None:
    """The first GPU, asked of the driver itself; None without one.

    Source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, version, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return None
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        text = ""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    major, minor = divmod(version.value, 1000)
    return Host("", f"{major}.{minor // 10}", found[0] if found else "unknown", name.value.decode())


def compile_plan(
    verified: VerifiedModel,
    profiles: Sequence[Profile],
    options: BuildOptions,
    host: Host,
    *,
    report: Callable[[str], None] = lambda _: None,
    failure_dir: Path = Path(),
) -> CompiledModel:
    """Build the plan and hold it to the original's answers, at the edges and in the middle of each profile.

    Raises:
        ModelError: TensorRT lacks an operator, or did not build the precision that was asked for.
        HostError: The GPU's memory does not suffice.
        VerificationError: A row differs from the original's.
    """
    where = verified.batched.original.path
    _check_types(verified)
    with redirect_stdout(sys.stderr):
        plan = _build(verified, profiles, options, report)
        with _runners(plan, where, len(profiles)) as (engine, runs):
            layers = _layers(engine)
            if options.precision != "fp32" and not layers.keys() & _NAMES[options.precision]:
                what = f"TensorRT built no layer in {options.precision}; its layers are {dict(layers)}"
                raise ModelError(where, what, "leave --precision out, or report it")
            proven = [
                prove_profile(verified, profile, run, options.precision, failure_dir=failure_dir)
                for profile, run in zip(profiles, runs, strict=True)
            ]
    weights = [verified.batched.original.digests[file] for file in verified.external_files]
    facts = Plan(
        tensorrt=host.tensorrt,
        cuda=host.cuda,
        gpu=host.gpu,
        driver=host.driver,
        onnx_sha256=digest.of_model([digest.of(verified.model_bytes), *weights]),
        layers=dict(layers),
        profiles=tuple({name: str(shapes) for name, shapes in profile.items()} for profile in profiles),
    )
    sizes = sorted({size for profile in profiles for size in _sizes(verified, profile)})
    return CompiledModel(plan, facts, reduce(Proven.worse_of, proven), tuple(sizes))


@contextmanager
def open_plan(path: Path) -> Iterator[Callable[[Arrays], Arrays]]:
    """Run a published plan: from inputs by name, each `[batch, *dims]`, to outputs by name.

    Raises:
        HostError: There is no GPU or no TensorRT here, or it takes no such plan.
    """
    find_host()
    with _runners(path.read_bytes(), path, 1) as (_, runs):
        yield runs[0]


def _check_types(verified: VerifiedModel) -> None:
    batched = verified.batched
    refused = (ir.DataType.STRING, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
    for tensor in (*batched.inputs, *batched.outputs):
        if tensor.dtype in refused:
            what = f"tensor {tensor.name!r} is {tensor.dtype}, which a plan does not take or give here"
            raise ModelError(batched.original.path, what, "publish it with --format onnx")


def _build(
    verified: VerifiedModel, profiles: Sequence[Profile], options: BuildOptions, report: Callable[[str], None]
) -> bytes:
    """Parse and build. TensorRT reads external weights beside the file, so it gets one."""
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath
    from polygraphy.exception import PolygraphyException

    where = verified.batched.original.path
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(verified.model_bytes)
        for weights in verified.external_files:
            beside = Path(folder, weights.relative_to(where.parent.resolve()))
            beside.parent.mkdir(parents=True, exist_ok=True)
            beside.symlink_to(weights)
        try:
            parsed = NetworkFromOnnxPath(str(file), strongly_typed=True)()
        except PolygraphyException as error:
            what = f"TensorRT cannot take it: {_one_line(error)}"
            raise ModelError(where, what, "export it without that operator, or publish with --format onnx") from error
        config = CreateConfig(progress_monitor=_progress(report), **_config(profiles, options))
        cache = str(options.timing_cache) if options.timing_cache is not None else None
        try:
            return bytes(EngineBytesFromNetwork(parsed, config, save_timing_cache=cache)())
        except PolygraphyException as error:
            what = f"TensorRT cannot build it: {_one_line(error)}"
            fix = "free memory of the GPU, lower --max-batch-size, --profile or --workspace-mb"
            raise HostError(where, what, fix) from error


def _config(profiles: Sequence[Profile], options: BuildOptions) -> dict[str, Any]:
    """Arguments of Polygraphy's CreateConfig, which switches TF32 off and detailed verbosity on by itself."""
    import tensorrt
    from polygraphy.backend.trt import Profile as TensorrtProfile

    asked: dict[str, Any] = {"profiles": [TensorrtProfile() for _ in profiles]}
    for target, profile in zip(asked["profiles"], profiles, strict=True):
        for name, shapes in profile.items():
            target.add(name, min=shapes.min, opt=shapes.opt, max=shapes.max)
    if options.timing_cache is not None and options.timing_cache.exists():
        asked["load_timing_cache"] = str(options.timing_cache)
    if options.workspace_mb is not None:
        asked["memory_pool_limits"] = {tensorrt.MemoryPoolType.WORKSPACE: options.workspace_mb << 20}
    if options.version_compatible:
        asked["version_compatible"] = True
    if options.hardware_compatible:
        asked["hardware_compatibility_level"] = tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS
    return asked


def _progress(report: Callable[[str], None]) -> Any:
    """Tells of the outer phases of a build.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/ProgressMonitor.html
    """
    import tensorrt

    class Progress(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Progress()


@contextmanager
def _runners(plan: bytes, where: Path, profiles: int) -> Iterator[tuple[Any, list[Callable[[Arrays], Arrays]]]]:
    """The engine, and for each profile what runs it."""
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner
    from polygraphy.exception import PolygraphyException

    try:
        engine = EngineFromBytes(plan)()
        with TrtRunner(engine) as runner:
            yield engine, [_run(runner, index) for index in range(profiles)]
    except PolygraphyException as error:
        what = f"TensorRT cannot run the plan: {_one_line(error)}"
        raise HostError(
            where, what, "build it on this GPU with this TensorRT, and see that its memory is free"
        ) from error


def _run(runner: Any, profile: int) -> Callable[[Arrays], Arrays]:
    def run(feeds: Arrays) -> Arrays:
        runner.set_profile(profile)
        answers = runner.infer({name: np.ascontiguousarray(array) for name, array in feeds.items()})
        return {name: np.array(answer) for name, answer in answers.items()}  # the runner reuses its buffers

    return run


def _layers(engine: Any) -> Counter[str]:
    """How many outputs of layers have each format, as the engine itself tells.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-tools.html
    """
    import tensorrt

    told = json.loads(engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON))
    layers = [layer for layer in told["Layers"] if isinstance(layer, dict)]
    return read_formats(layers)


def read_formats(layers: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Count the data types of the layers' outputs: the last word of `Format/Datatype`, or its first one."""
    known = ("BFloat16", "BF16", "Half", "FP16", "Float", "FP32", "Int8", "Int32", "Int64", "Bool", "FP8", "UInt8")
    found: Counter[str] = Counter()
    for layer in layers:
        for output in layer.get("Outputs", ()):
            words = re.split(r"[^A-Za-z0-9]+", str(output.get("Format/Datatype", "")))
            found.update([next((word for word in reversed(words) if word in known), "other")])
    return found


def _sizes(verified: VerifiedModel, profile: Profile) -> tuple[int, ...]:
    """The batch sizes to prove a profile at: its edges, beside them, its optimum, and the middle."""
    if verified.batched.is_static:
        return ()
    shapes = next(iter(profile.values()))
    low, usual, high = shapes.min[0], shapes.opt[0], shapes.max[0]
    wanted = {low, low + 1, low + 2, usual, (low + high) // 2, high - 1, high}
    return tuple(sorted(size for size in wanted if low <= size <= high))


def prove_profile(
    verified: VerifiedModel,
    profile: Profile,
    run: Callable[[Arrays], Arrays],
    precision: Precision,
    *,
    failure_dir: Path = Path(),
) -> Proven:
    """Hold what `run` answers to the original's answers, at the edges and in the middle of a profile.

    At sizes of other axes that the original cannot take, the truth is the proven ONNX file in ONNX Runtime.

    Raises:
        ModelError: Nothing here can tell what is right at such a size.
        VerificationError: A row differs.
    """
    prover = _prover(verified, run, failure_dir)
    sizes = _sizes(verified, profile)
    proven = [
        replace(prover, reference=reference).prove(sizes) for reference in _references(verified, profile, precision)
    ]
    return reduce(Proven.worse_of, proven)


def _references(verified: VerifiedModel, profile: Profile, precision: Precision) -> Iterator[Arrays]:
    """Samples and answers at the smallest, the usual and the largest size of the axes other than the batch."""
    batched = verified.batched
    dims = {tensor.name: verified.reference[f"input:{tensor.name}"].shape[1:] for tensor in batched.inputs}
    first = 0 if batched.is_static else 1
    seen = []
    for corner in ("opt", "min", "max"):
        shapes = {name: getattr(found, corner)[first:] for name, found in profile.items()}
        if shapes in seen:
            continue
        seen.append(shapes)
        yield verified.reference if shapes == dims else _reference_at(verified, shapes, precision)


def _reference_at(verified: VerifiedModel, shapes: Mapping[str, Sequence[int]], precision: Precision) -> Arrays:
    batched = verified.batched
    where = batched.original.path
    if precision == "bf16":
        what = f"nothing here can tell what is right at {dict(shapes)}: ONNX Runtime runs no bf16 on a CPU"
        raise ModelError(where, what, "leave these sizes out of --profile, or --precision bf16")
    sizes = {
        dim: size
        for tensor in batched.inputs
        for dim, size in zip(tensor.dims, shapes[tensor.name], strict=True)
        if isinstance(dim, str)
    }
    inputs = next(draw(batched, rows=8, sizes=sizes))
    session = open_rewritten(verified.model_bytes, where=where, folder=where.parent, keep_layout=precision == "fp16")
    try:
        answers = session.run(inputs)
    except onnxruntime_errors() as error:
        what = f"at {dict(shapes)} the model itself does not run: {one_line(error)}"
        raise ModelError(where, what, "leave these sizes out of --profile") from error
    return {f"input:{name}": rows for name, rows in inputs.items()} | {
        f"output:{name}": rows for name, rows in answers.items()
    }


def _prover(verified: VerifiedModel, run: Callable[[Arrays], Arrays], failure_dir: Path) -> Prover:
    tolerances = {name: Tolerance(found.rtol, found.atol) for name, found in verified.proof.outputs.items()}
    return Prover(
        where=verified.batched.original.path,
        run=run,
        reference=verified.reference,
        tolerances=tolerances,
        bfloat16=frozenset(),
        failure_dir=failure_dir,
        fix="TensorRT answers wrongly: publish with --format onnx, and report it to NVIDIA with that file",
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
