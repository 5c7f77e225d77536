"""Lower the precision of a model, and prove what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from builder.batching import BatchedModel
from builder.bounded import during
from builder.errors import VerificationError
from builder.lowering import QUANTIZED, TARGETS, LoweredModel, LoweringRequest, Runtime, lower
from builder.progress import Report
from builder.proof import (
    LEAST_SPEED,
    Baseline,
    VerifiedModel,
    check_accuracy,
    lost_outputs,
    measure_original,
    says_nothing,
    verify,
)
from builder.publishing import summary
from builder.publishing.faster import lower_fastest
from builder.publishing.options import PublishOptions
from builder.record import Accuracy, Quantization, Speed
from builder.samples import Samples, read_samples
from builder.tensors import Arrays


@dataclass(frozen=True, slots=True)
class ProvenModel:
    """A model in the precision that was asked for, and what was found out about it.

    Attributes:
        verified: The model, whose bytes were seen to answer as the original does.
        quantization: For int8, how it was quantized; otherwise None.
        accuracy: How often it is right on the user's data; None if that was not measured.
        speed: How fast it is beside fp32; None if that was not measured.
    """

    verified: VerifiedModel
    quantization: Quantization | None = None
    accuracy: Accuracy | None = None
    speed: Speed | None = None


def prove_lowered(
    batched: BatchedModel,
    options: PublishOptions,
    samples: Arrays | None,
    largest: int,
    report: Report,
    *,
    keep: frozenset[str] = frozenset(),
    baseline: Baseline | None = None,
    check: Callable[[BatchedModel], None] = lambda _: None,
) -> ProvenModel:
    """Lower the model to the precision asked for, if that is not fp32, and prove it.

    Args:
        batched: The model in fp32, with its final names.
        options: What the caller asked for.
        samples: The user's samples, `[rows, *dims]` by input; None if there are none.
        largest: The largest batch size that will be served.
        report: Called with each step's name and what it found.
        keep: The names of nodes of the graph that stay in fp32.
        baseline: How right the original is on labelled samples; None if that was not measured.
        check: Called with the lowered model before the proof, which can take minutes.

    Raises:
        ModelError: Too little of the model can compute in the precision.
        VerificationError: The answers are not the original's, too few of them are right, or the model is not faster on
            this CPU.
    """
    request = request_of(batched, options, samples, keep)
    lowered, speed = _lower(batched, options, request, largest, report)
    check(lowered.batched)
    # Inputs that are drawn may be far from those on which the ranges were measured.
    verified = _verify(lowered, request.calibration if samples is None else samples, largest, options, report)
    if _is_circular(request) and options.effort != "off":
        _check_telling(verified)
        verified = replace(verified, notes=(*verified.notes, summary.of_same_data(verified)))
    accuracy = None if baseline is None else _check_accuracy(baseline, verified, lowered, options, report)
    return ProvenModel(verified, lowered.quantization, accuracy, speed)


def _is_circular(request: LoweringRequest) -> bool:
    """Return whether a model is proven on the data on which its ranges were measured."""
    if request.precision != "int8" or request.samples is None or request.calibration is None:
        return request.precision == "int8"
    calibration, samples = request.calibration, request.samples
    return all(np.array_equal(samples[name], calibration[name]) for name in samples)


def _check_telling(verified: VerifiedModel) -> None:
    """Check that calibration data with which a model was proven too tell a right answer from a wrong one.

    Raises:
        VerificationError: They do not.
    """
    if says_nothing(verified):
        found = "; ".join(map(str, lost_outputs(verified))) or "the answers to all rows are the same"
        what = f"the calibration data do not show whether the answers are right: {found}"
        fix = "give rows that differ as those of clients do, or prove it with other samples: --samples FILE.npz"
        raise VerificationError(verified.batched.original.path, what, fix)


def baseline_of(
    batched: BatchedModel, options: PublishOptions, samples: Samples | None, report: Report
) -> Baseline | None:
    """Measure how right the original is, if the samples have labels.

    Raises:
        ModelError: The labels cannot be used.
    """
    return measure_original(
        batched,
        samples,
        options.accuracy,
        is_lowered=options.precision != "fp32",
        report=partial(report, "accuracy"),
    )


def _check_accuracy(
    baseline: Baseline, verified: VerifiedModel, lowered: LoweredModel, options: PublishOptions, report: Report
) -> Accuracy:
    found = check_accuracy(
        baseline,
        verified,
        lowered.rounded,
        is_lowered=options.precision != "fp32",
        report=partial(report, "accuracy"),
    )
    report("accuracy", str(found))
    return found


def runtime_of(options: PublishOptions) -> Runtime:
    """Return what will run the model."""
    is_tensorrt = options.format == "tensorrt" or options.config.accelerator == "tensorrt"
    return options.runtime or ("tensorrt" if is_tensorrt else "cpu")


def _lower(
    batched: BatchedModel,
    options: PublishOptions,
    request: LoweringRequest,
    largest: int,
    report: Report,
) -> tuple[LoweredModel, Speed | None]:
    if options.precision == "fp32":
        return LoweredModel(batched), None
    is_measured = options.precision in QUANTIZED and request.runtime == "cpu"
    with during(f"it is changed to {options.precision}"):
        lowered, speed = (
            lower_fastest(batched, request, largest=largest, threads=_threads(options), least=least_speed(options))
            if is_measured
            else (lower(batched, request), None)
        )
    report("reduce", lowered.description)
    if options.precision in QUANTIZED:
        report("speed", summary.of_speed(speed, request.runtime))
    return lowered, speed


def request_of(
    batched: BatchedModel, options: PublishOptions, samples: Arrays | None, keep: frozenset[str]
) -> LoweringRequest:
    """Return what is asked of a lower precision, with the calibration data if the caller gave some.

    Raises:
        ModelError: They cannot be read.
    """
    calibration = None if options.calibration is None else read_samples(options.calibration, batched)
    return LoweringRequest(
        options.precision,
        runtime_of(options),
        newest_opset=None if options.triton is None else TARGETS[options.triton].opset,
        samples=samples,
        calibration=calibration,
        keep=keep,
        max_error=options.max_error,
    )


def least_speed(options: PublishOptions) -> float:
    """Return the throughput that a quantized model must have on this CPU, as a multiple of fp32's."""
    return LEAST_SPEED if options.min_speedup is None else options.min_speedup


def _threads(options: PublishOptions) -> int | None:
    """Return how many threads each instance will have, or None for one for each core."""
    config = options.config
    given = str(config.intra_op_thread_count or config.parameters.get("intra_op_thread_count", ""))
    return int(given) or None if given.isdigit() else None


def _verify(
    lowered: LoweredModel, samples: Arrays | None, largest: int, options: PublishOptions, report: Report
) -> VerifiedModel:
    report("verify", "running the original and the rewritten model")
    with during("its answers are compared with the original's"):
        verified = verify(
            lowered.batched,
            max_batch_size=largest,
            samples=samples,
            effort=options.effort,
            rounded=lowered.rounded,
            is_lowered=options.precision != "fp32",
            max_error=options.max_error,
        )
    for line in summary.of_proof(verified):
        report("verify", line)
    if options.precision != "fp32":
        for line in summary.of_errors(verified):
            report("verify", line)
    return verified
