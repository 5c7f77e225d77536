"""The lines that report each step of publishing, written from the step's result."""

from collections.abc import Iterator, Sequence

import numpy as np

from builder.batching import BatchedModel, BatchedTensor
from builder.lowering import Runtime
from builder.model import Model
from builder.printable import counted, was
from builder.progress import format_bytes
from builder.proof import VerifiedModel, lost_outputs
from builder.record import Manifest, Plan, Speed
from builder.repository import PublishedVersion
from builder.samples import GIVEN, list_in_words
from builder.tensorrt import Host

_MOST_NAMES = 5


def of_model(model: Model) -> Iterator[str]:
    """Describe the model that was loaded."""
    size = sum(file.stat().st_size for file in model.files)
    opset = model.ir.opset_imports.get("", model.ir.opset_imports.get("ai.onnx"))
    nodes = counted(len(model.ir.graph), "node")
    yield f"{model.path.name}: {nodes}, opset {opset}, {format_bytes(size)}"
    for name in model.constants:
        yield f"input {name!r} is a constant now"
    if model.left_out:
        yield f"left out: {counted(len(model.left_out), 'output')}, {', '.join(model.left_out[:_MOST_NAMES])}"


def of_batch(batched: BatchedModel) -> Iterator[str]:
    """Say how the batch was made dynamic."""
    yield _batch(batched)
    for output, labels in batched.original.zipmaps.items():
        yield f"output {output!r} was a list of dictionaries and is a tensor now, with the columns {list(labels)}"


def _batch(batched: BatchedModel) -> str:
    if batched.is_static:
        return "the model stays static"
    if any(rewrite.op_type == "Scan" for rewrite in batched.rewrites):
        return "each row runs by itself: every batch size is right, but no faster than one row at a time"
    if batched.is_kept:
        return "the batch is already dynamic"
    is_claimed = any(isinstance(dim, str) for spec in batched.original.inputs for dim in spec.shape[:1])
    made = (
        "symbolic batch made dynamic in the body too"
        if is_claimed
        else f"static batch {batched.static_batch} made dynamic"
    )
    what = f"{made}; {counted(len(batched.rewrites), 'node')} rewritten"
    others = dict.fromkeys(dim for tensor in batched.inputs for dim in tensor.dims if isinstance(dim, str))
    return f"{what}; other dynamic axes: {', '.join(others)}" if others else what


def of_names(batched: BatchedModel) -> Iterator[str]:
    """List the inputs, then the outputs, with the former name of each that was renamed."""

    def listed(tensors: Sequence[BatchedTensor]) -> str:
        return ", ".join(t.name if t.name == t.original else f"{t.original} → {t.name}" for t in tensors)

    yield f"{listed(batched.inputs)} | {listed(batched.outputs)}"


def of_proof(verified: VerifiedModel) -> Iterator[str]:
    """Say what was compared with the original, with which samples, and how large the differences were."""
    yield _comparison(verified)
    if verified.proof.drawn:
        yield f"samples: {list_in_words(verified.proof.drawn)}"
    if verified.proof.other_sizes:
        sizes = "; ".join(
            ", ".join(f"{name}={size}" for name, size in each.items()) for each in verified.proof.other_sizes
        )
        yield f"equal at other sizes too: {sizes}"


def _comparison(verified: VerifiedModel) -> str:
    rows = verified.proof.rows
    if verified.proof.effort == "off":
        answered = f"the original answered {counted(rows, 'row')}"
        return f"{answered}; the rewritten model was NOT compared with it (--prove off)"
    worst = max((proof.largest_difference or 0.0 for proof in verified.proof.outputs.values()), default=0.0)
    what = f"{counted(rows, 'answer')} {'equals' if rows == 1 else 'equal'} the original's"
    if not verified.batched.is_static:
        sizes = ", ".join(map(str, verified.proof.batch_sizes))
        what = f"{rows} rows equal the original's at batch sizes {sizes}"
    if drawn := _sizes(verified):
        what = f"{what}, with {drawn}"
    return f"{what}; largest difference {_number(worst)}"


def _sizes(verified: VerifiedModel) -> str:
    """Return the sizes of the reference on dynamic axes; empty if there are none."""
    sizes = {
        dim: size
        for tensor in verified.batched.inputs
        for dim, size in zip(tensor.dims, verified.reference[f"input:{tensor.name}"].shape[1:], strict=True)
        if isinstance(dim, str)
    }
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def of_errors(verified: VerifiedModel) -> Iterator[str]:
    """Say how large the error of each output is in a lower precision, also as a part of its largest value."""
    for name, proof in verified.proof.outputs.items():
        if proof.largest_difference is not None and proof.mean_difference is not None:
            rows = verified.reference[f"output:{name}"]
            scale = float(np.abs(rows[np.isfinite(rows)]).max(initial=0.0)) if rows.dtype.kind == "f" else 0.0
            part = f" ({proof.largest_difference / scale:.2%} of its largest value)" if scale else ""
            mean = _number(proof.mean_difference)
            yield f"{name}: largest error {_number(proof.largest_difference)}{part}, mean error {mean}"


def of_speed(speed: Speed | None, runtime: Runtime) -> str:
    """Say how fast a quantized model is on this CPU."""
    if runtime == "tensorrt":
        return "not measured: it is for TensorRT, and this CPU says nothing about that"
    if speed is None:
        return "not measured: the model fails on the samples"
    return str(speed)


def of_compiling(host: Host, *, is_warm: bool = False) -> Iterator[str]:
    """Say what is about to compile the plan, and whether kernels were measured here before."""
    takes = "it starts from the timing cache of the served version" if is_warm else "this takes minutes"
    yield f"TensorRT {host.tensorrt} on {host.gpu}; {takes}"


def of_kept_plans(plans: Sequence[Plan]) -> Iterator[str]:
    """Say which plans of the served version the new one has too."""
    if not plans:
        yield "the served version has no plan for another kind of GPU"
    for plan in plans:
        yield f"the plan for {plan.gpu} (compute capability {plan.compute_capability}), built from the same ONNX file"


def of_version(version: PublishedVersion, place: str | None = None) -> Iterator[str]:
    """Say where the version is, or that it was there already.

    Args:
        version: What was published.
        place: Where it is, if that is not the folder `version.path`: its URL in a bucket.
    """
    if version.is_dry_run:
        yield f"a dry run: {_would_be(version)}"
        for file in version.files:
            yield f"would add {file}"
    elif not version.created:
        yield _unchanged(version)
    else:
        where = place or str(version.path)
        switch = f"`python -m builder switch {version.path.parent.name} --to {version.version}` serves it"
        yield where if version.is_served else f"{where}, which is not served yet: {switch}"


def _would_be(version: PublishedVersion) -> str:
    if version.created:
        return f"version {version.version} would be added{'' if version.is_served else ', and not served'}"
    what = "only config.pbtxt would change" if version.config_changed else "nothing would change"
    return f"version {version.version} is already this model; {what}"


def _unchanged(version: PublishedVersion) -> str:
    if not version.is_served:
        return f"version {version.version} is already this model, and is not served yet"
    what = "only config.pbtxt changed" if version.config_changed else "nothing changed"
    return f"version {version.version} is already this model; {what}"


def notes(verified: VerifiedModel, manifest: Manifest) -> Iterator[str]:
    """Yield what the caller should know about the version, one sentence each."""
    yield from _fixed(verified.batched)
    yield from of_optional(verified.batched.original)
    if verified.batched.undecided:
        yield (
            "the graph does not show whether the samples of a batch are independent, so more batch sizes were run: "
            f"{'; '.join(verified.batched.undecided)}"
        )
    yield from verified.notes
    if verified.constant_outputs:
        yield f"all samples give the same {', '.join(verified.constant_outputs)}, so the proof says little about it"
    if undecided := verified.undecided_rows:
        yield (
            f"{counted(undecided, 'sample')} {was(undecided)} left out of the reference, because two answers to each "
            "are almost equal and rounding decides between them"
        )
    if manifest.options.get("precision") == "bf16":
        yield (
            "proven in fp32 with every value rounded to bf16, because ONNX Runtime cannot compute in bf16 on a CPU; "
            "serve this version on a GPU"
        )
    if manifest.quantization is not None and manifest.quantization.runtime == "tensorrt" and not manifest.plans:
        yield (
            "quantized for TensorRT: on a CPU without VNNI, sums of its products overflow without a warning; serve "
            "this version on a GPU"
        )
    if manifest.has_fallback:
        yield (
            "config.pbtxt serves the ONNX file, which every server can load; `deploy` loads the plan on those that can "
            "run it"
        )
    if manifest.options.get("precision") is not None:
        yield from _about_samples(verified)
    proven = max(manifest.proof.batch_sizes, default=0)
    if manifest.proof.effort == "off":
        yield "the answers were not compared with the original's (--prove off)"
    elif proven < manifest.max_batch_size:
        yield (
            f"proven up to batch size {proven}, not up to max_batch_size {manifest.max_batch_size}: "
            "larger batches need too much time or memory here"
        )


def _about_samples(verified: VerifiedModel) -> Iterator[str]:
    """Yield a note for each output and each input of which the samples show too little in a lower precision."""
    for lost in lost_outputs(verified):
        yield f"the proof says little about output {lost}"
    for name, words in (verified.proof.drawn or {}).items():
        rows = verified.reference[f"input:{name}"]
        if words == GIVEN and len(rows) > 1 and (rows == rows[:1]).all():
            yield f"all samples have the same {name}, so the proof says nothing about other values of it"


def of_same_data(verified: VerifiedModel) -> str:
    """Say that a model was proven on the data that it was calibrated on, and which they are."""
    return (
        f"calibrated and compared on the same data ({_described(verified)}); give different ones with --calibration "
        "and --samples to see that it is right on others too"
    )


def _described(verified: VerifiedModel) -> str:
    """Say how many rows there are, and between which values: `60 rows, 2 of them different; x: 0 to 1`."""
    inputs = [(tensor.name, verified.reference[f"input:{tensor.name}"]) for tensor in verified.batched.inputs]
    count = min((len(rows) for _, rows in inputs), default=0)
    different = len({tuple(rows[row].tobytes() for _, rows in inputs) for row in range(count)})
    said = [counted(count, "row") + (f", {different:,} of them different" if different < count else "")]
    said += [
        f"{name}: {rows.min():.4g} to {rows.max():.4g}"
        for name, rows in inputs
        if rows.size and rows.dtype.kind in "iuf"
    ]
    return "; ".join(said[: 1 + _MOST_NAMES])


def of_optional(model: Model) -> Iterator[str]:
    """Say which inputs clients cannot send, because the values in the file are used."""
    names = [spec.name for spec in model.optional]
    if not names:
        return
    shown = ", ".join(map(repr, names[:_MOST_NAMES]))
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    it, values = ("it", "a value") if len(names) == 1 else ("them", "values")
    yield (
        f"clients cannot send {shown}{more}: the file has {values} for {it}, which every request gets, because Triton "
        "has optional inputs only in models without a batch; set another value with --constant NAME=VALUE, or remove "
        "the initializer from the file if every client is to send one"
    )


def _fixed(batched: BatchedModel) -> Iterator[str]:
    """Yield a note for each axis that is symbolic in the file and static now."""
    specs = {spec.name: spec.shape for spec in batched.original.inputs}
    for tensor in batched.inputs:
        before = [dim for axis, dim in enumerate(specs[tensor.original]) if axis != tensor.batch_axis]
        for name, size in zip(before, tensor.dims, strict=False):
            if isinstance(name, str) and isinstance(size, int) and len(before) == len(tensor.dims):
                yield f"input {tensor.name!r} takes only {name} = {size}: the original ran at none of the others tried"


def _number(difference: float) -> str:
    return f"{difference:.1e}" if difference else "0"
