"""Plans of the TensorRT, or TensorRT for RTX, that is installed: built, run on the GPU, and compared row by row."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpu_onnx import LARGEST, milliseconds
from gpu_table import Asked, Row, failed
from support.engines import built, compiled, missing_engines
from support.on_gpu import inputs_of, largest_error, outputs_of

from builder.errors import HostError
from builder.tensorrt import need_library, running

TARGETS = ("this machine", "CURRENT", "SM80")
"""What an engine is built for: what the compiler takes by itself, this GPU by name, and any GPU from Ampere on."""


def rows(asked: Asked) -> Iterator[Row]:
    """Build, and if there is a GPU run, each model in each precision."""
    try:
        library = need_library()
    except HostError as error:
        yield Row("compiler", error.what, is_fine=False)
        return
    yield Row("compiler", str(library))
    if asked.has_gpu and missing_engines():
        yield Row("GPU", missing_engines(), is_fine=False)
        return
    engines = [_engine(library.module, target, has_gpu=asked.has_gpu) for target in TARGETS]
    yield from engines
    runs = asked.has_gpu and any(row.is_fine for row in engines)
    for model, precision in asked.pairs():
        try:
            yield _run(model, precision) if runs else _build(model, precision)
        except Exception as error:  # the table tells of everything that can go wrong there
            yield failed(f"{model.stem} {precision}", error)


def _engine(tensorrt: Any, target: str, *, has_gpu: bool) -> Row:
    """Build an engine of one node for a target, and load it, to see whether this compiler knows this GPU at all."""
    heard: list[str] = []
    base: Any = tensorrt.ILogger

    class Log(base):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                heard.append(" ".join(message.split()))

    what = f"an engine for {target}"
    try:
        logger = Log()
        builder = tensorrt.Builder(logger)
        network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        values = network.add_input("x", tensorrt.float32, (-1, 64))
        network.mark_output(network.add_activation(values, tensorrt.ActivationType.RELU).get_output(0))
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        profile.set_shape("x", (1, 64), (4, 64), (8, 64))
        config.add_optimization_profile(profile)
        if target != "this machine":
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(tensorrt.ComputeCapability, target), 0)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            return Row(what, f"not built: {'; '.join(heard)}", is_fine=not has_gpu)
        engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
    except Exception as error:  # such as a release without this target
        return failed(what, error)
    if engine is None:
        return Row(what, f"built, and not loaded: {'; '.join(heard)}", is_fine=not has_gpu)
    return Row(what, "built and loaded")


def _build(model: Path, precision: str) -> Row:
    made = built(model, precision, largest=LARGEST)
    details = {"kB": len(made.plan) // 1000, "seconds": f"{made.seconds:.1f}", "layers": _listed(made.layers)}
    return Row(f"{model.stem} {precision}", "built", details=details)


def _run(model: Path, precision: str) -> Row:
    verified, made = compiled(model, precision, largest=LARGEST)
    rows = len(next(array for name, array in verified.reference.items() if name.startswith("input:")))
    count = min(LARGEST, rows)
    with running.runners(made.plan, model, 1) as (_, runs):
        error = largest_error(runs[0](inputs_of(verified.reference, count)), outputs_of(verified.reference, count))
        spent = milliseconds(runs[0], inputs_of(verified.reference, LARGEST))
    details = {
        "kB": len(made.plan) // 1000,
        "layers": _listed(made.facts.layers),
        "error here": f"{error:.1e}",
        f"ms for {LARGEST} rows": f"{spent:.3f}",
    }
    return Row(f"{model.stem} {precision}", "each row is right", details=details)


def _listed(layers: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in layers.items())
