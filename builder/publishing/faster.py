"""Find the form of a quantized model that is fastest on this CPU, and refuse one that gains nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from builder.batching import BatchedModel
from builder.errors import ModelError, VerificationError
from builder.lowering import LoweredModel, LoweringRequest, lower, sample_sets, slow_kinds
from builder.proof import measure_speed
from builder.record import Speed

Form = tuple[LoweredModel, Speed | None]
"""A lowered model, and how fast it is if that was measured."""

LARGE_BYTES = 256 << 20
"""A larger model is quantized in one form only."""

GAIN = 1.05
"""A form with more nodes in fp32 has to be this many times as fast, and clearly so, or to pay where the first does not.

Otherwise noise would decide, and publishing a model again would make another version.
"""


def lower_fastest(
    batched: BatchedModel, request: LoweringRequest, *, largest: int, threads: int | None, least: float
) -> Form:
    """Quantize the model, and again without each kind of node that may be slower on integers; return the fastest form.

    Args:
        batched: The model in fp32, with its final names.
        request: What the caller asked for.
        largest: The largest batch size that will be served.
        threads: The number of threads of each instance; None for one for each core.
        least: The throughput that pays, as a multiple of fp32's.

    Raises:
        ModelError: Too little of the model can compute on integers.
        VerificationError: No form is as fast as `least`.
    """
    forms = [lower(batched, request)]
    found = forms[0].quantization
    # What is in fp32 already needs no search again.
    known = frozenset(() if found is None or request.precision != "int8" else found.kept_nodes)
    kinds = {} if is_large(batched) else slow_kinds(batched, request)
    for names in kinds.values():
        try:
            forms.append(lower(batched, replace(request, slow=names, sensitive=known)))
        except ModelError:
            continue  # too little is left
    speeds = measure_speed(
        [ir.to_proto(model).SerializeToString() for model in (batched.ir, *(form.batched.ir for form in forms))],
        sample_sets(batched, request.calibration if request.samples is None else request.samples),
        where=batched.original.path,
        largest=largest,
        threads=threads,
        least=least,
        is_static=batched.is_static,
    )
    if not speeds:
        return forms[0], None
    number = fastest(speeds)
    if not speeds[number].pays:
        raise too_slow(batched.original.path, request.precision, speeds[number])
    return forms[number], speeds[number]


def is_large(batched: BatchedModel) -> bool:
    """Return whether several forms of a model need much time and memory."""
    return sum(file.stat().st_size for file in batched.original.files) > LARGE_BYTES


def fastest(speeds: Sequence[Speed]) -> int:
    """Return which form to take; the first one has most nodes on integers."""
    first = speeds[0]
    best = max(range(len(speeds)), key=lambda number: speeds[number].ratio)
    is_clear = all(two.low > one.high for one, two in zip(first.batches, speeds[best].batches, strict=True))
    is_needed = speeds[best].pays and not first.pays
    return best if is_needed or (is_clear and speeds[best].ratio >= first.ratio * GAIN) else 0


def too_slow(where: Path, precision: str, speed: Speed) -> VerificationError:
    """Say that a precision gains nothing on this CPU, and what else there is."""
    asked = f"at least {speed.least:g} times is asked for, at every batch size"
    what = f"{precision} gains too little: it has {speed}; {asked}"
    other = "--precision int8 --calibration FILE.npz" if precision == "int8-dynamic" else "--precision int8-dynamic"
    fix = f"leave out --precision, try {other}, or publish it all the same with --min-speedup 0"
    return VerificationError(where, what, fix)
