"""Prove that the rewritten model answers, row by row, what the original answers.

The truth is the original file run in ONNX Runtime on chunks of its own static batch. The bytes that will be
installed are serialized here, once, and exactly they are run at several batch sizes, in several orders.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from builder.batching import BatchedModel
from builder.errors import HostError, RepositoryError, VerificationError
from builder.proof.comparison import (
    Tolerance,
    as_numbers,
    coarsest_precision,
    relative_tolerance,
    tolerance_for,
)
from builder.proof.prover import REPORT, Proven, Prover, batch_sizes, count_rows, dimensions_of
from builder.proof.session import (
    Session,
    one_line,
    onnxruntime_errors,
    onnxruntime_warnings,
    open_rewritten,
    refuse_stale_shapes,
)
from builder.proof.truth import Original
from builder.record import Manifest, OutputProof, Proof
from builder.samples import draw
from builder.tensors import Array, Arrays

Effort = Literal["sample", "full", "off"]

NUDGE = 1e-5
"""By how much of their value inputs are moved to see what rounding can do: as much as answers may differ by."""

LOWER = "leave --precision out, or allow it with --max-error PART"

MAPPED_BYTES = 256 << 20
"""Of external weights: so many are read where they are mapped, if that is as good."""

OTHER_SIZES = ((1, 2), (3, 2), (2, 1))
"""Fractions of the original's size at which axes that were made dynamic are proven."""


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """Bytes that were seen to answer as the original does.

    Attributes:
        batched: What the bytes hold.
        model_bytes: The .onnx file, weights in external files left out.
        external_files: Files to ship with the bytes, at the same places relative to them as in the original.
        sha256: Digest of `model_bytes`.
        reference: `input:NAME` and `output:NAME`, each `[rows, *dims]`.
        proof: What was compared, and how near it came.
        constant_outputs: Outputs that are the same for all samples: there the comparison proves little.
        undecided_rows: Samples left out of the reference because the original itself has no firm answer to them.
    """

    batched: BatchedModel
    model_bytes: bytes
    external_files: tuple[Path, ...]
    sha256: str
    reference: Arrays
    proof: Proof
    constant_outputs: tuple[str, ...]
    undecided_rows: int


def verify(
    batched: BatchedModel,
    *,
    max_batch_size: int,
    samples: Arrays | None = None,
    effort: Effort = "sample",
    failure_dir: Path = Path(),
    rounded: ir.Model | None = None,
    max_error: float | None = None,
) -> VerifiedModel:
    """Serialize the model and prove the bytes.

    Args:
        batched: With its final names.
        max_batch_size: The largest batch that will be served; without effect on a model that is kept static.
        samples: The caller's own, as `read_samples` gives them; drawn at random otherwise.
        effort: `sample` runs a few batch sizes, `full` every one up to the largest, `off` only asks the original for
            the reference.
        failure_dir: Where a failing batch is kept.
        rounded: The twin of a model that computes in a lower precision: it is held to the original too.
        max_error: How far floats may be off, as a part of their value and again of the output's largest one; by
            default what the coarsest number in the graph allows.

    Raises:
        ModelError: ONNX Runtime cannot load the original.
        VerificationError: No sample could be answered, or an answer differs from the original's.
    """
    source, graph = batched.original.path, batched.original.ir.graph
    original = Original(batched)
    truth = original.find_truth(samples, max_batch_size=max_batch_size)
    original.close()
    bfloat16 = frozenset(tensor.name for tensor in batched.outputs if tensor.dtype == ir.DataType.BFLOAT16)
    precision = coarsest_precision(graph if rounded is None else batched.ir.graph)
    tolerances = _tolerances(truth.reference, bfloat16, precision, max_error)
    nudge = NUDGE if rounded is None else relative_tolerance(precision) / 10
    largest = truth.largest_affordable(max_batch_size)
    sizes = () if batched.is_static or effort == "off" else batch_sizes(largest, dimensions_of(graph))
    if effort == "full" and sizes:
        sizes = tuple(range(1, largest + 1))
    model_bytes = ir.to_proto(batched.ir).SerializeToString(deterministic=True)
    with onnxruntime_warnings() as warnings:
        first, *others = _sessions(batched, model_bytes, rounded, precision)
        prover = Prover(
            where=source,
            run=first.run,
            reference=truth.reference,
            tolerances=tolerances,
            bfloat16=bfloat16,
            failure_dir=failure_dir,
            fix=REPORT if rounded is None else LOWER,
            is_excused=lambda answer, output, row: original.explains(
                answer, output, row, truth.reference, tolerances[output], nudge=nudge
            ),
        )
        proven = prover.prove(sizes) if effort != "off" else Proven({}, {}, frozenset())
        for other in others if effort != "off" else ():
            proven = proven.beside(replace(prover, run=other.run).prove(sizes))
        other_sizes = _prove_other_sizes(batched, prover) if effort != "off" else ()
    refuse_stale_shapes(source, warnings)
    reference = _decided(source, truth.reference, proven)
    return VerifiedModel(
        batched=batched,
        model_bytes=model_bytes,
        external_files=batched.original.external_files if rounded is None else _named_files(batched),
        sha256=hashlib.sha256(model_bytes).hexdigest(),
        reference=reference,
        proof=replace(_proof(sizes, reference, tolerances, proven, effort), other_sizes=other_sizes),
        constant_outputs=tuple(name for name in tolerances if _is_constant(reference[f"output:{name}"])),
        undecided_rows=len(proven.undecided),
    )


def _sessions(batched: BatchedModel, model_bytes: bytes, rounded: ir.Model | None, precision: str) -> Iterator[Session]:
    """What to hold to the original: the bytes, and the twin of a model that computes in a lower precision.

    ONNX Runtime has no BF16 operators on a CPU, so that there the twin is all that can be run.
    """
    source = batched.original.path
    folder = source.parent
    if rounded is None or precision != "BFLOAT16":
        yield open_rewritten(
            model_bytes,
            where=source,
            folder=folder,
            keep_layout=precision == "FLOAT16",
            keep_mapped=precision == "FLOAT" and _is_worth_mapping(batched),
        )
    if rounded is not None:
        yield open_rewritten(ir.to_proto(rounded).SerializeToString(), where=source, folder=folder)


def _is_worth_mapping(batched: BatchedModel) -> bool:
    """Whether packing the weights costs more than it gains, and changes nothing but the order of summation.

    It changes more in operators of other domains: some of them compute with quantized numbers only when packed.
    """
    weights = sum(file.stat().st_size for file in batched.original.external_files)
    return weights >= MAPPED_BYTES and not any(node.domain for node in batched.ir.graph.all_nodes())


def _named_files(batched: BatchedModel) -> tuple[Path, ...]:
    """The files of external weights that the graph still names."""
    tensors = [value.const_value for graph in batched.ir.graphs() for value in graph.initializers.values()]
    named = {Path(tensor.path).resolve() for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return tuple(file for file in batched.original.external_files if file.resolve() in named)


def _prove_other_sizes(batched: BatchedModel, prover: Prover) -> tuple[dict[str, int], ...]:
    """Hold batches to single rows at sizes that the original cannot take, where axes were made dynamic.

    Half, one and a half times and twice the original's size are tried; a size that the model cannot take at all,
    such as one beyond its table of positions, is passed over, but not all of them.

    Returns:
        The sizes it was held to, by the names of the axes.

    Raises:
        VerificationError: Rows of a batch differ from the same rows alone, or no other size runs.
    """
    named = {
        dim: static
        for tensor in batched.inputs
        for dim, static in zip(tensor.dims, tensor.static_dims, strict=True)
        if isinstance(dim, str) and isinstance(static, int)
    }
    proven: list[dict[str, int]] = []
    reasons = []
    for numerator, denominator in OTHER_SIZES if named else ():
        sizes = {name: max(1, size * numerator // denominator) for name, size in named.items()}
        inputs = next(draw(batched, rows=4, sizes=sizes))
        try:
            singles = [prover.run({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(4)]
        except onnxruntime_errors() as error:
            reasons.append(f"{sizes}: {one_line(error)}")
            continue
        reference = {f"input:{name}": array for name, array in inputs.items()}
        reference |= {f"output:{name}": np.concatenate([s[name] for s in singles]) for name in singles[0]}
        replace(prover, reference=reference, is_excused=lambda answer, output, row: False).prove((1, 2, 3))
        proven.append(sizes)
    if len(reasons) == len(OTHER_SIZES):
        raise VerificationError(
            prover.where,
            f"it runs at no other size than the original's: {'; '.join(reasons)}",
            "leave out --dynamic, or export the model again with these axes dynamic",
        )
    return tuple(proven)


def verify_published(
    version_dir: Path,
    manifest: Manifest,
    reference: Arrays,
    *,
    failure_dir: Path = Path(),
    run: Callable[[Arrays], Arrays] | None = None,
) -> Proof:
    """Run the published bytes again and compare with the reference stored beside them.

    `run` stands in for ONNX Runtime where that cannot run the bytes.

    Raises:
        RepositoryError: A file is missing, or the reference is not of this version.
        VerificationError: The bytes changed since they were published, or an answer differs.
        HostError: No processor here can run them.
    """
    model = version_dir / manifest.model.file
    try:
        found = manifest.model.at(version_dir)
    except OSError as error:
        raise RepositoryError(model, f"cannot be read: {error}", "restore it, or publish the model again") from error
    if found != manifest.model:
        raise VerificationError(model, "these are not the bytes that were published", "publish the model again")
    wanted = {f"input:{t.name}" for t in manifest.inputs} | {f"output:{t.name}" for t in manifest.outputs}
    if wanted != reference.keys():
        what = f"the reference holds {sorted(reference)}, the manifest names {sorted(wanted)}"
        raise RepositoryError(version_dir, what, "publish the model again")
    precision = manifest.options.get("precision")
    if run is None and precision == "bf16":
        what = "these are the bytes that were published, and ONNX Runtime has no bf16 operators to run them on a CPU"
        raise HostError(model, what, "load it on a GPU with deploy, which compares the answers there")
    tolerances = {name: Tolerance(proof.rtol, proof.atol) for name, proof in manifest.proof.outputs.items()}
    with onnxruntime_warnings() as warnings:
        prover = Prover(
            where=model,
            run=run or open_rewritten(model, where=model, keep_layout=precision == "fp16").run,
            reference=reference,
            tolerances=tolerances,
            bfloat16=frozenset(tensor.name for tensor in manifest.outputs if tensor.data_type == "TYPE_BF16"),
            failure_dir=failure_dir,
        )
        sizes = manifest.proof.batch_sizes
        if not sizes and manifest.max_batch_size:
            sizes = batch_sizes(manifest.max_batch_size, set())
        proven = prover.prove(sizes)
    refuse_stale_shapes(model, warnings)
    return _proof(sizes, reference, tolerances, proven)


def _tolerances(
    reference: Arrays, bfloat16: frozenset[str], precision: str, max_error: float | None
) -> dict[str, Tolerance]:
    outputs = {key.removeprefix("output:"): rows for key, rows in reference.items() if key.startswith("output:")}
    return {
        name: tolerance_for(as_numbers(rows, is_bfloat16=name in bfloat16), precision, max_error=max_error)
        for name, rows in outputs.items()
    }


def _decided(where: Path, reference: Arrays, proven: Proven) -> Arrays:
    """The reference without the rows that the original does not decide, which may be half of them."""
    rows = count_rows(reference)
    if 2 * len(proven.undecided) > rows:
        what = (
            f"the original decides too few samples: {len(proven.undecided)} of {rows} have two answers as good as equal"
        )
        raise VerificationError(where, what, "give clear-cut inputs with --samples FILE.npz")
    if not proven.undecided:
        return reference
    kept = [row for row in range(rows) if row not in proven.undecided]
    return {name: array[kept] for name, array in reference.items()}


def _is_constant(rows: Array) -> bool:
    return len(rows) > 1 and bool((rows == rows[:1]).all())


def _proof(
    sizes: Sequence[int],
    reference: Arrays,
    tolerances: Mapping[str, Tolerance],
    proven: Proven,
    effort: Effort = "sample",
) -> Proof:
    import onnxruntime

    outputs = {
        name: OutputProof(
            tolerance.rtol, tolerance.atol, _rounded(proven.largest.get(name)), _rounded(proven.mean.get(name))
        )
        for name, tolerance in tolerances.items()
    }
    return Proof(tuple(sizes), count_rows(reference), onnxruntime.__version__, outputs, effort)


def _rounded(difference: float | None) -> float | None:
    return None if difference is None else float(f"{difference:.1e}")
