"""Lower the precision of a model, and prove what comes out."""

from dataclasses import dataclass

from builder.batching import BatchedModel
from builder.bounded import during
from builder.lowering import LoweredModel, LoweringRequest, Runtime, lower
from builder.progress import Report
from builder.proof import VerifiedModel, verify
from builder.publishing import summary
from builder.publishing.options import PublishOptions
from builder.record import Accuracy, Quantization, Speed
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
) -> ProvenModel:
    """Lower the model to the precision asked for, if that is not fp32, and prove it.

    Args:
        batched: The model in fp32, with its final names.
        options: What the caller asked for.
        samples: The user's samples, `[rows, *dims]` by input; None if there are none.
        largest: The largest batch size that will be served.
        report: Called with each step's name and what it found.
        keep: The names of nodes of the graph that stay in fp32.

    Raises:
        ModelError: Too little of the model can compute in the precision.
        VerificationError: The answers are not the original's.
    """
    lowered = _lower(batched, options, samples, report, keep)
    verified = _verify(lowered, samples, largest, options, report)
    return ProvenModel(verified, lowered.quantization)


def runtime_of(options: PublishOptions) -> Runtime:
    """Return what will run the model."""
    is_tensorrt = options.format == "tensorrt" or options.config.accelerator == "tensorrt"
    return "tensorrt" if is_tensorrt else "cpu"


def _lower(
    batched: BatchedModel, options: PublishOptions, samples: Arrays | None, report: Report, keep: frozenset[str]
) -> LoweredModel:
    if options.precision == "fp32":
        return LoweredModel(batched)
    request = LoweringRequest(
        options.precision, runtime_of(options), samples=samples, keep=keep, max_error=options.max_error
    )
    with during(f"it is changed to {options.precision}"):
        lowered = lower(batched, request)
    report("reduce", lowered.description)
    return lowered


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
