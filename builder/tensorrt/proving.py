"""Compare the answers of a plan with the original model's, over the shapes of a profile."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

from builder.config import Profile
from builder.errors import ModelError
from builder.lowering import Precision
from builder.proof import Proven, Prover, Tolerance, VerifiedModel, one_line, onnxruntime_errors, open_rewritten
from builder.samples import draw
from builder.tensorrt.running import Run
from builder.tensors import Arrays


def sizes_of(verified: VerifiedModel, profile: Profile) -> tuple[int, ...]:
    """Return the batch sizes to compare in a profile: at and near its edges, at its optimum, and in the middle."""
    if verified.batched.is_static:
        return ()
    shapes = next(iter(profile.values()))
    low, usual, high = shapes.min[0], shapes.opt[0], shapes.max[0]
    wanted = {low, low + 1, low + 2, usual, (low + high) // 2, high - 1, high}
    return tuple(sorted(size for size in wanted if low <= size <= high))


def prove_profile(
    verified: VerifiedModel,
    profile: Profile,
    run: Run,
    precision: Precision,
    *,
    failure_dir: Path = Path(),
) -> Proven:
    """Compare the answers of `run` with the original model's, at the edges and in the middle of a profile.

    At sizes of other axes that the original does not accept, they are compared with those of the proven ONNX file in
    ONNX Runtime.

    Raises:
        ModelError: There is nothing to compare with at such a size.
        VerificationError: A row differs.
    """
    prover = _prover(verified, run, failure_dir)
    sizes = sizes_of(verified, profile)
    proven = [
        replace(prover, reference=reference).prove(sizes) for reference in _references(verified, profile, precision)
    ]
    return reduce(Proven.worse_of, proven)


def _references(verified: VerifiedModel, profile: Profile, precision: Precision) -> Iterator[Arrays]:
    """Yield samples and answers at the optimal, the smallest and the largest size of the axes other than the batch."""
    batched = verified.batched
    dims = {tensor.name: verified.reference[f"input:{tensor.name}"].shape[1:] for tensor in batched.inputs}
    first = 0 if batched.is_static else 1
    seen = []
    for corner in ("opt", "min", "max"):
        shapes = {name: getattr(found, corner)[first:] for name, found in profile.items()}
        if shapes in seen:
            continue
        seen.append(shapes)
        yield verified.reference if shapes == dims else _reference_at(verified, shapes, precision)


def _reference_at(verified: VerifiedModel, shapes: Mapping[str, Sequence[int]], precision: Precision) -> Arrays:
    batched = verified.batched
    where = batched.original.path
    if precision == "bf16":
        what = f"at {_listed(shapes)} there is nothing to compare with: ONNX Runtime does not run bf16 on a CPU"
        raise ModelError(where, what, "leave these sizes out of --profile, or leave out --precision bf16")
    sizes = {
        dim: size
        for tensor in batched.inputs
        for dim, size in zip(tensor.dims, shapes[tensor.name], strict=True)
        if isinstance(dim, str)
    }
    inputs = next(draw(batched, rows=8, sizes=sizes))
    session = open_rewritten(verified.model_bytes, where=where, folder=where.parent, keep_layout=precision == "fp16")
    try:
        answers = session.run(inputs)
    except onnxruntime_errors() as error:
        what = f"at {_listed(shapes)} the ONNX model itself fails: {one_line(error)}"
        raise ModelError(where, what, "leave these sizes out of --profile") from error
    return {f"input:{name}": rows for name, rows in inputs.items()} | {
        f"output:{name}": rows for name, rows in answers.items()
    }


def _prover(verified: VerifiedModel, run: Run, failure_dir: Path) -> Prover:
    tolerances = {name: Tolerance(found.rtol, found.atol) for name, found in verified.proof.outputs.items()}
    return Prover(
        where=verified.batched.original.path,
        run=run,
        reference=verified.reference,
        tolerances=tolerances,
        bfloat16=frozenset(),
        failure_dir=failure_dir,
        fix="publish with --format onnx, and report the wrong answer to NVIDIA with that file",
    )


def _listed(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {list(dims)}" for name, dims in shapes.items())
