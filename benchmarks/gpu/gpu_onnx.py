"""Published ONNX files in ONNX Runtime on a GPU, held to the product's own proof."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

from gpu_table import Asked, Row, failed, reason
from support.on_gpu import Run, inputs_of, int8_options, largest_error, missing_cuda_provider, open_onnx, outputs_of

from builder import ConfigOptions, Publication, PublishOptions, Repository, publish
from builder.lowering import Precision, Runtime
from builder.proof import verify_published
from builder.tensors import Arrays

LARGEST = 8


@dataclass(frozen=True, slots=True)
class Published:
    """A model that was published, with its samples and answers."""

    done: Publication
    reference: Arrays

    @property
    def file(self) -> Path:
        """The file that Triton loads."""
        return self.done.version.path / self.done.manifest.model.file


def published(model: Path, root: Path, **options: Any) -> Published:
    """Publish a model with `options` of `PublishOptions`, and read back its samples and answers."""
    config = options.pop("config", ConfigOptions(max_batch_size=LARGEST))
    done = publish(model, root, options=PublishOptions(config=config, **options))
    return Published(done, Repository(root).model(done.name).read_reference(done.version.version))


def milliseconds(run: Run, feeds: Arrays, *, times: int = 50) -> float:
    """Return the median time of a call, after some that are not counted."""
    took = []
    for index in range(times + 5):
        started = time.perf_counter()
        run(feeds)
        if index >= 5:
            took.append(1000 * (time.perf_counter() - started))
    return median(took)


def rows(asked: Asked) -> Iterator[Row]:
    """Publish, verify and time each model in each precision."""
    if asked.has_gpu and missing_cuda_provider():
        yield Row("ONNX Runtime on a GPU", missing_cuda_provider(), is_fine=False)
        return
    # What is meant for TensorRT has 8-bit weights, which CPUs without VNNI would cut off.
    runtime: Runtime = "tensorrt" if asked.has_gpu else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        for model, precision in asked.pairs():
            root = Path(folder, precision)
            try:
                options = int8_options(model, Path(folder), runtime) if precision == "int8" else {}
                yield _row(published(model, root, precision=cast("Precision", precision), **options), root, asked)
            except Exception as error:  # ONNX Runtime's own exceptions share no base class
                row = failed(f"{model.stem} {precision}", error)
                is_known = precision == "bf16" and not asked.has_gpu and "NOT_IMPLEMENTED" in str(error)
                yield (
                    replace(row, is_fine=True, result="published; ONNX Runtime has no bf16 on a CPU")
                    if is_known
                    else row
                )


def _row(made: Published, root: Path, asked: Asked) -> Row:
    manifest, reference = made.done.manifest, made.reference
    run, where = open_onnx(made.file, on_gpu=asked.has_gpu)
    count = manifest.proof.rows
    found = run(inputs_of(reference, count))
    details: dict[str, object] = {
        "where": where,
        "error in the proof": f"{_proven_error(made):.1e}",
        "error here": f"{largest_error(found, outputs_of(reference, count)):.1e}",
        f"ms for {LARGEST} rows": f"{milliseconds(run, inputs_of(reference, LARGEST)):.3f}",
    }
    what = f"{made.done.name} {manifest.options.get('precision', 'fp32')}"
    try:
        verify_published(made.done.version.path, manifest, reference, run=run, failure_dir=root)
    except Exception as error:
        return Row(what, f"verify: {reason(error)}", is_fine=False, details=details)
    return Row(what, "verified", details=details)


def _proven_error(made: Published) -> float:
    """Return the largest error of the proof on a CPU, which shows the rounding of the precision."""
    right = outputs_of(made.reference, made.done.manifest.proof.rows)
    return max(
        (proof.largest_difference or 0.0) / max(float(abs(right[name]).max()), 1e-30)
        for name, proof in made.done.manifest.proof.outputs.items()
    )
