"""Plans of the TensorRT, or TensorRT for RTX, that is installed: built, run on the GPU, and compared row by row."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from gpu_onnx import LARGEST, milliseconds
from gpu_table import Asked, Row, failed
from support.engines import built, compiled, missing_engines
from support.on_gpu import inputs_of, largest_error, outputs_of

from builder.errors import HostError
from builder.tensorrt import need_library, running


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
    for model, precision in asked.pairs():
        try:
            yield _run(model, precision) if asked.has_gpu else _build(model, precision)
        except Exception as error:  # the table tells of everything that can go wrong there
            yield failed(f"{model.stem} {precision}", error)


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
