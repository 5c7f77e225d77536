"""Prove a file as it is: what it answers to a batch equals what it answers to each sample alone.

This is for a version that somebody else put into a repository. Its bytes are not written again, so they are proven
where they are. The right answers are those of the file itself, one sample at a time, or those of another model that it
was made from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from builder.batching import BatchedModel
from builder.proof.choosing_sizes import free_sizes
from builder.proof.comparison import coarsest_float, coarsest_precision, tolerances_for
from builder.proof.neighbours import prove_extreme_neighbours, prove_neighbours
from builder.proof.prover import Prover
from builder.proof.results import NOTHING_COMPARED, Effort, make_proof
from builder.proof.rewritten import MAPPED_BYTES
from builder.proof.session import Session, onnxruntime_warnings, open_rewritten, stale_shapes
from builder.proof.truth import Original
from builder.proof.verification import MOST_ELSEWHERE, NUDGE, is_constant, sizes_to_run, without_undecided
from builder.record import Proof
from builder.tensors import Array, Arrays

APART = "publish a model under this name whose batch is right, or serve it with max_batch_size 0"


@dataclass(frozen=True, slots=True)
class ProvenFile:
    """A file that gave the right answers, with its samples.

    Attributes:
        reference: The samples and the right answers: `input:NAME` and `output:NAME`, each `[rows, *dims]`.
        proof: What was compared, and how large the differences were.
        constant_outputs: Outputs that are the same for all samples; the comparison says little about them.
        undecided_rows: How many samples are not in the reference because rounding decides their answer.
        stale_shapes: The values for which the file declares another shape than they have, so that ONNX Runtime warns
            at every request.
        notes: What the caller should know about the samples, one sentence each.
    """

    reference: Arrays
    proof: Proof
    constant_outputs: tuple[str, ...]
    undecided_rows: int
    stale_shapes: tuple[str, ...]
    notes: tuple[str, ...]


def open_file(batched: BatchedModel, *, is_trial: bool = False) -> Session:
    """Open a session on the file of a model, which warns of every shape that is not as declared.

    Raises:
        VerificationError: ONNX Runtime cannot load it.
    """
    model = batched.original
    keep_layout = coarsest_precision(model.ir.graph) == "FLOAT16"
    fix = "export the model with operators that ONNX Runtime supports on the CPU"
    return open_rewritten(model.path, where=model.path, keep_layout=keep_layout, is_trial=is_trial, fix=fix)


def prove_file(
    batched: BatchedModel,
    session: Session,
    *,
    truth: BatchedModel,
    max_batch_size: int,
    pinned: Mapping[str, int],
    samples: Arrays | None = None,
    effort: Effort = "sample",
    failure_dir: Path = Path(),
) -> ProvenFile:
    """Compare a file with what gives the right answers, at several batch sizes.

    Args:
        batched: The file: a model that is kept as it is.
        session: The file, open in ONNX Runtime.
        truth: What gives the right answers: the same model, or the one that it was made from with the same names.
        max_batch_size: The largest batch that is served; ignored without a batch.
        pinned: Sizes of dynamic dimensions to draw samples with, by name, because the config has no other.
        samples: The caller's samples, as `read_samples` returns them; by default they are drawn at random.
        effort: As in `verify`.
        failure_dir: The folder for the inputs and answers of a batch that differs.

    Raises:
        ModelError: ONNX Runtime cannot load the model that gives the right answers.
        VerificationError: It answers no sample, or an answer differs.
    """
    original = Original(truth, failure_dir)
    usual, *choices = free_sizes(truth, samples) or ({},)
    found = original.find_truth(samples, max_batch_size=max_batch_size, sizes={**usual, **pinned})
    elsewhere = [] if pinned else [(sizes, original.answer_at(sizes)) for sizes in choices]
    sizes = sizes_to_run(batched, found.largest_affordable(max_batch_size), effort)
    prover = _prover(batched, session, original, found.reference, failure_dir)
    proven, others = NOTHING_COMPARED, []
    with onnxruntime_warnings() as warnings:
        if effort != "off":
            proven = prover.prove(sizes)
            _prove_apart(batched, prover, largest=max(sizes, default=1))
            for names, reference in elsewhere:
                if reference is not None:
                    small = [size for size in sizes if size <= MOST_ELSEWHERE]
                    _prover(batched, session, original, reference, failure_dir).prove(small)
                    others.append(names)
    reference = without_undecided(batched.original.path, found.reference, proven)
    return ProvenFile(
        reference=reference,
        proof=make_proof(
            sizes, reference, prover.tolerances, proven, effort=effort, other_sizes=others, drawn=found.drawn
        ),
        constant_outputs=tuple(name for name in prover.tolerances if is_constant(reference[f"output:{name}"])),
        undecided_rows=len(proven.undecided),
        stale_shapes=tuple(dict.fromkeys(name for _, _, name in stale_shapes(warnings))),
        notes=found.notes,
    )


def _prover(
    batched: BatchedModel, session: Session, original: Original, reference: Arrays, failure_dir: Path
) -> Prover:
    model = batched.original
    tolerances = tolerances_for(reference, frozenset(), coarsest_precision(model.ir.graph))

    def is_excused(answer: Array, output: str, row: int) -> bool:
        return original.explains(answer, output, row, reference, tolerances[output], nudge=NUDGE)

    return Prover(
        where=model.path,
        run=session.run,
        reference=reference,
        tolerances=tolerances,
        bfloat16=frozenset(),
        failure_dir=failure_dir,
        is_excused=is_excused,
        fix=APART,
        is_about_batch=not batched.is_static,
    )


def _prove_apart(batched: BatchedModel, prover: Prover, *, largest: int) -> None:
    """Prove that the rows of a batch do not change each other's answers."""
    precision = coarsest_float(batched.original.ir.graph)
    prove_neighbours(prover, precision, largest=largest, nudge=NUDGE)
    is_large = sum(file.stat().st_size for file in batched.original.files) >= MAPPED_BYTES
    if largest > 1 and not is_large:
        trial = replace(prover, run=open_file(batched, is_trial=True).run)
        prove_extreme_neighbours(trial, precision, largest=largest, nudge=NUDGE)
