"""Choose the sizes of dynamic axes at which a model is proven: the caller's, or usual ones, and others near them."""

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from builder.batching import BatchedModel
from builder.errors import ModelError
from builder.model import Model
from builder.proof.original_runs import MOST_ASKED, OriginalRuns
from builder.samples import USUAL, Sizes, candidates, completed, free_names, sizes_of
from builder.tensors import Arrays

UNSEEN = ((3, 1), (2, 1), (1, 1), (3, 2), (1, 2), (1, 4), (4, 0), (2, 0))
"""What to make of sizes that work to get others: a multiple, and a little more, so that not all are multiples of 8."""

SMALL = (1, 2, 3, 5, 8, 16)
"""Small sizes: a model may take the last 8 steps of all that there are."""

MOST_VOLUME = 1.5
"""How many times larger, all its axes together, a sample may be than those that have run."""

FEW = 2
"""How many small sizes to prove at."""


def free_sizes(batched: BatchedModel, samples: Arrays | None = None) -> tuple[Sizes, ...]:
    """Return choices of sizes for the dimensions that are dynamic in both the original and the rewritten model.

    The original runs at each of them, on its static batch. The first choice is what the caller asked for, or the usual
    size if it runs at that or near it; the others have different sizes. If it runs at none, the usual size is returned,
    so that the caller reports the error there. If no dimension besides the batch is dynamic, there are no choices.

    Args:
        batched: The model.
        samples: The caller's samples, by input, `[rows, *dims]`. Their sizes are the first choice.

    Raises:
        ModelError: ONNX Runtime cannot load the original, or it does not run at the sizes that were asked for.
    """
    model = batched.original
    if not any(isinstance(dim, str) for tensor in batched.inputs for dim in tensor.static_dims):
        return ()
    runs, batch = OriginalRuns(model), _batch_sizes(batched)
    if samples is not None or model.sizes:
        base = _asked_sizes(runs, model, batch) if samples is None else {**sizes_of(batched, samples), **batch}
        found = [base, *runs.near(base, batch)]
        return (*found, *(sizes for sizes in _unseen(runs, found, batch) if sizes not in found))
    usual = {**dict.fromkeys(free_names(model), USUAL), **batch}
    near_usual = runs.mended(usual, batch)
    found = [] if near_usual is None else [near_usual]
    found += [sizes for sizes in runs.working_sizes(batch) if sizes not in found]
    if found:
        found += _unseen(runs, found, batch)
    return tuple(found) or (usual,)


def _batch_sizes(batched: BatchedModel) -> dict[str, int]:
    """Return the original's static batch, by each name that the batch has in its inputs."""
    axes = {tensor.original: tensor.batch_axis for tensor in batched.inputs}
    in_front = [spec.shape[axis] for spec in batched.original.inputs if (axis := axes[spec.name]) is not None]
    return {dim: batched.static_batch for dim in in_front if isinstance(dim, str)}


def _asked_sizes(runs: OriginalRuns, model: Model, batch: Sizes) -> Sizes:
    """Return the sizes that the caller asked for, with sizes for the other names at which the original runs.

    Raises:
        ModelError: It does not run at these sizes.
    """
    asked = completed(model, {**model.sizes, **batch})
    usual = {**dict.fromkeys(free_names(model), USUAL), **asked}
    others = (sizes for sizes, _ in candidates(model, asked)) if len(asked) < len(usual) else ()
    for sizes in (usual, *islice(others, MOST_ASKED)):
        if (found := runs.mended(sizes, asked)) is not None:
            return found
    named = ", ".join(f"{name}={model.sizes[name]}" for name in model.sizes)
    why = runs.fault_at(usual) or "ONNX Runtime cannot run it there"
    what = f"the model does not run with {named}: {why}"
    near = runs.mended(usual, batch) or next(iter(runs.working_sizes(batch)), None)
    if near is None:
        raise ModelError(model.path, what, "give other sizes with --size, or your own inputs with --samples FILE.npz")
    works = ",".join(f"{name}={size}" for name, size in near.items() if name not in batch)
    raise ModelError(model.path, what, f"give sizes at which it runs: --size {shlex.quote(works)} works")


def _unseen(runs: OriginalRuns, seen: Sequence[Sizes], batch: Sizes) -> Iterator[Sizes]:
    """Yield sizes that the analysis has not seen: what it took for a rule has to hold there too.

    The larger ones stay near what has run, because the memory for an image may grow with the third power of its side.
    An axis may be empty, as the past is before the first step.
    """
    found, largest = min(seen[1:] or seen, key=_volume), max(map(_volume, seen))
    others = (
        {name: size if name in batch else times * size + more for name, size in found.items()} for times, more in UNSEEN
    )
    small = ({name: batch.get(name, size) for name in found} for size in SMALL)

    def running(choices: Iterable[Sizes], most: int) -> Iterator[Sizes]:
        followed = (runs.mended(sizes, batch) for sizes in choices)
        return islice((sizes for sizes in followed if sizes is not None and sizes not in seen), most)

    yield from running((sizes for sizes in others if _volume(sizes) <= MOST_VOLUME * largest), 1)
    yield from running(small, FEW)
    yield from (sizes for sizes in _emptied(found, batch) if runs.output_shapes(sizes) is not None)


def _emptied(sizes: Sizes, batch: Sizes) -> Iterator[dict[str, int]]:
    """Yield sizes with one empty axis, the others as they are and shorter by it: without its past, a mask of 8 is 1."""
    for empty in (name for name in sizes if name not in batch):
        yield {**sizes, empty: 0}
        shorter = {name: max(1, size - sizes[empty]) for name, size in sizes.items()}
        yield {**shorter, **batch, empty: 0}


def _volume(sizes: Sizes) -> int:
    return math.prod(sizes.values())
