"""Prove the rewritten model before it is published.

The truth is what the original file answers in ONNX Runtime, run on chunks of its own static batch. The bytes that will
be installed are serialized here, once, and exactly these bytes run at several batch sizes, in several orders.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import onnx_ir as ir

from builder.batching import BatchedModel
from builder.errors import VerificationError
from builder.proof.choosing_sizes import free_sizes
from builder.proof.comparison import mean_limit, relative_tolerance, tolerances_for
from builder.proof.interface import check_interface
from builder.proof.neighbours import prove_extreme_neighbours, prove_neighbours
from builder.proof.other_sizes import prove_other_sizes
from builder.proof.prover import REPORT, Proven, Prover, batch_sizes, count_rows, dimensions_of
from builder.proof.results import NOTHING_COMPARED, Effort, make_proof
from builder.proof.rewritten import Rewritten
from builder.proof.session import Session, onnxruntime_warnings, refuse_stale_shapes
from builder.proof.settling import open_settled
from builder.proof.truth import Original
from builder.record import Proof, ServedTensor
from builder.samples import Sizes
from builder.tensors import Array, Arrays

NUDGE = 1e-5
"""Inputs are changed by this part of their value, to see how rounding can change an answer."""

MOST_UNDECIDED = 16
"""Every batch size up to this one runs if the analysis could not decide whether the samples are independent."""

MOST_ELSEWHERE = 3
"""The largest batch to run at other sizes of the dynamic dimensions."""

INDEPENDENT = "export it so that no row of a batch changes the answer to another"

REDUCED = "publish without --precision, or allow larger errors with --max-error PART"


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """A model whose bytes were seen to answer as the original does.

    Attributes:
        batched: The rewritten model.
        model_bytes: The .onnx file, without the weights that are in external files.
        external_files: The files of external weights to publish, at the same relative paths as in the original.
        sha256: The digest of `model_bytes`.
        reference: The samples and the original's answers: `input:NAME` and `output:NAME`, each `[rows, *dims]`.
        proof: What was compared, and how large the differences were.
        constant_outputs: Outputs that are the same for all samples; the comparison says little about them.
        undecided_rows: How many samples are not in the reference because rounding decides the original's answer.
        notes: What the caller should know about the samples, one sentence each.
    """

    batched: BatchedModel
    model_bytes: bytes
    external_files: tuple[Path, ...]
    sha256: str
    reference: Arrays
    proof: Proof
    constant_outputs: tuple[str, ...]
    undecided_rows: int
    notes: tuple[str, ...] = ()


def verify(
    batched: BatchedModel,
    *,
    max_batch_size: int,
    samples: Arrays | None = None,
    effort: Effort = "sample",
    failure_dir: Path = Path(),
    rounded: ir.Model | None = None,
    is_lowered: bool = False,
    max_error: float | None = None,
) -> VerifiedModel:
    """Serialize the rewritten model, and prove these bytes.

    Args:
        batched: The rewritten model, with its final names.
        max_batch_size: The largest batch that will be served; ignored for a static model.
        samples: The caller's samples, as `read_samples` returns them; by default they are drawn at random.
        effort: `sample` runs a few batch sizes, `full` every one up to the largest. `off` only asks the original for
            its answers and compares nothing.
        failure_dir: The folder for the inputs and answers of a batch that differs.
        rounded: For a model in fp16 or bf16, the same model in fp32 with every value rounded. It is compared with
            the original too.
        is_lowered: Whether the model computes in a lower precision than the original; it does if it has a rounded copy.
        max_error: The allowed error of floats, as a part of each value and again of the output's largest value; by
            default it depends on the least precise number type in the graph.

    Raises:
        ModelError: ONNX Runtime cannot load the original.
        VerificationError: The original answers no sample, or an answer differs from the original's.
    """
    original = Original(batched, failure_dir)
    usual, *choices = free_sizes(batched, samples) or ({},)
    truth = original.find_truth(samples, max_batch_size=max_batch_size, sizes=usual)
    # Ranges that were measured on the caller's data say nothing about inputs that are drawn.
    like = samples if is_lowered and rounded is None else None
    elsewhere = [(sizes, found) for sizes in choices if (found := original.answer_at(sizes, like)) is not None]
    original.close()
    # Before serializing: looking at the original's constants names them, and the bytes contain these names.
    sizes = sizes_to_run(batched, truth.largest_affordable(max_batch_size), effort)
    # Opened even if nothing is compared: a model that ONNX Runtime cannot load is never published.
    model, sessions = open_settled(
        batched,
        rounded,
        [truth.reference, *(found for _, found in elsewhere)],
        is_lowered=is_lowered or rounded is not None,
    )
    against = _Comparison(model, original, failure_dir, max_error)
    provers = [against.prover(session, truth.reference) for session in sessions]
    proven = NOTHING_COMPARED
    other_sizes: tuple[Mapping[str, int], ...] = ()
    with onnxruntime_warnings() as warnings:
        if effort != "off":
            proven = _prove_all(provers, sizes)
            against.refuse_mean(proven, truth.reference)
            _prove_apart(model, provers, largest=max(sizes, default=1))
            for session, (_, found) in product(sessions, elsewhere):
                against.prover(session, found).prove([size for size in sizes if size <= MOST_ELSEWHERE])
            other_sizes = (*prove_other_sizes(batched, provers[0], usual), *_served_sizes(batched, elsewhere))
    refuse_stale_shapes(batched.original.path, warnings)
    _check_interface(model.batched, sessions[0])
    reference = without_undecided(batched.original.path, truth.reference, proven)
    tolerances = provers[0].tolerances
    return VerifiedModel(
        batched=model.batched,
        model_bytes=model.model_bytes,
        external_files=model.external_files,
        sha256=hashlib.sha256(model.model_bytes).hexdigest(),
        reference=reference,
        proof=make_proof(
            sizes, reference, tolerances, proven, effort=effort, other_sizes=other_sizes, drawn=truth.drawn
        ),
        constant_outputs=tuple(name for name in tolerances if is_constant(reference[f"output:{name}"])),
        undecided_rows=len(proven.undecided),
        notes=truth.notes,
    )


def _served_sizes(batched: BatchedModel, elsewhere: Sequence[tuple[Sizes, Arrays]]) -> Iterator[Sizes]:
    """Yield the sizes of the dynamic dimensions, without the original's batch."""
    served = {dim for tensor in batched.inputs for dim in tensor.dims}
    for sizes, _ in elsewhere:
        yield {name: size for name, size in sizes.items() if name in served}


def _check_interface(model: BatchedModel, session: Session) -> None:
    """Check that Triton would load the model.

    Raises:
        VerificationError: It would not.
    """
    inputs, outputs = (map(ServedTensor.of, tensors) for tensors in (model.inputs, model.outputs))
    check_interface(model.original.path, session, inputs, outputs, has_batch=not model.is_static)


def sizes_to_run(batched: BatchedModel, largest: int, effort: Effort) -> tuple[int, ...]:
    """Return the batch sizes to run; none without a batch, and if nothing is compared."""
    if batched.is_static or effort == "off":
        return ()
    few = batch_sizes(largest, dimensions_of(batched.original.ir.graph))
    if effort == "full":
        return tuple(range(1, largest + 1))
    return tuple(sorted({*few, *range(1, 1 + min(largest, MOST_UNDECIDED))})) if batched.undecided else few


@dataclass(frozen=True, slots=True)
class _Comparison:
    """How the rewritten model is compared with the original."""

    model: Rewritten
    original: Original
    failure_dir: Path
    max_error: float | None

    def prover(self, session: Session, reference: Arrays) -> Prover:
        """Return what compares a session's answers with a reference."""
        model = self.model
        tolerances = tolerances_for(reference, model.bfloat16, model.precision, max_error=self.max_error)
        noise = _noise(model, self.max_error)

        def is_excused(answer: Array, output: str, row: int) -> bool:
            return self.original.explains(answer, output, row, reference, tolerances[output], nudge=noise)

        return Prover(
            where=model.batched.original.path,
            run=session.run,
            reference=reference,
            tolerances=tolerances,
            bfloat16=model.bfloat16,
            failure_dir=self.failure_dir,
            is_excused=is_excused,
            fix=REDUCED if model.is_lowered else INDEPENDENT if model.batched.is_kept else REPORT,
            is_about_batch=not model.is_lowered and not model.batched.is_static,
        )

    def refuse_mean(self, proven: Proven, reference: Arrays) -> None:
        """Refuse a model whose values are off by too much in the mean, if that is limited for its numbers.

        Raises:
            VerificationError: They are.
        """
        for name, mean in proven.mean.items():
            limit = mean_limit(reference[f"output:{name}"], self.model.precision, max_error=self.max_error)
            if limit is not None and mean > limit:
                what = f"output {name!r} is off by {mean:.3g} in the mean, and only {limit:g} is allowed"
                raise VerificationError(self.model.batched.original.path, what, REDUCED)


def _prove_apart(model: Rewritten, provers: Sequence[Prover], *, largest: int) -> None:
    """Prove that the rows of a batch do not change each other's answers."""
    for prover in provers:
        prove_neighbours(prover, model.float_precision, largest=largest, nudge=_nudge(model))
    if largest == 1 or model.is_large:
        return
    for prover, session in zip(provers, model.open_sessions(is_trial=True), strict=True):
        trial = replace(prover, run=session.run)
        prove_extreme_neighbours(trial, model.float_precision, largest=largest, nudge=_nudge(model))


def _noise(model: Rewritten, max_error: float | None) -> float:
    """Return by which part the inputs are changed to see whether a lower precision explains another answer.

    A caller who allows larger errors of floats allows the other whole numbers that follow from them.
    """
    if not model.is_lowered:
        return NUDGE
    return max(relative_tolerance(model.precision), max_error or 0.0) / 10


def _nudge(model: Rewritten) -> float:
    """Return by which part a row is changed to see whether the rounding of floats explains a neighbour's influence.

    Integers are no reason: a scale that the rows of a batch share would go unnoticed.
    """
    return relative_tolerance(model.float_precision) / 10 if model.is_lowered else NUDGE


def _prove_all(provers: Sequence[Prover], sizes: Sequence[int]) -> Proven:
    """Run all batches with every prover, and return the worst of what they found."""
    first, *others = (prover.prove(sizes) for prover in provers)
    for other in others:
        first = first.worse_of(other)
    return first


def without_undecided(where: Path, reference: Arrays, proven: Proven) -> Arrays:
    """Return the reference without the rows for which rounding decides the original's answer.

    Raises:
        VerificationError: These are more than half of all rows.
    """
    rows = count_rows(reference)
    if 2 * len(proven.undecided) > rows:
        what = (
            f"rounding decides the original's answer to {len(proven.undecided)} of {rows} samples: "
            "two answers to each are almost equal"
        )
        raise VerificationError(where, what, "give samples with clearer answers with --samples FILE.npz")
    if not proven.undecided:
        return reference
    kept = [row for row in range(rows) if row not in proven.undecided]
    return {name: array[kept] for name, array in reference.items()}


def is_constant(rows: Array) -> bool:
    """Return whether all rows of an output, `[rows, *dims]`, are equal."""
    return len(rows) > 1 and bool((rows == rows[:1]).all())
