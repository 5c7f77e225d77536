"""Give every input and output of a model a symbolic batch on axis 0.

A model whose shapes are all numbers is walked once, and rewritten. The names that a file has in place of numbers are a
claim that is examined: see `examine`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import onnx_ir as ir

from builder.batching.attempt import Attempt, Problem, attempt
from builder.batching.batched import BatchedModel
from builder.batching.input_axes import batch_axes_of
from builder.batching.following import follow_sizes
from builder.batching.keeping import keep_batched
from builder.batching.layout import Shape
from builder.batching.pins import (
    Axes,
    Pins,
    Runs,
    Sizes,
    baked_batches,
    batch_names,
    claimed_axes,
    free_names,
    guessed_sizes,
    has_names,
    unrelated_batch,
)
from builder.batching.rule import Mixing
from builder.errors import ModelError
from builder.model import Model, inlined
MOST_BATCHES = 3
"""A body that runs at more batches than this has none of them baked in."""


def add_batch_axis(
    model: Model,
    *,
    batch_axes: Mapping[str, int | None] | None = None,
    sizes: Sequence[Sizes] = (),
    runs: Runs | None = None,
) -> BatchedModel:
    """Make axis 0 of every input and output the symbolic batch.

    Args:
        model: A model of any batch: a number, or a name, which is examined.
        batch_axes: The axis of the batch, for inputs that do not have it on axis 0; None for an input without a batch,
            of which each sample brings its own.
        sizes: Sizes of the other named axes at which the model runs.
        runs: Runs the original; without it, only the walk says what the body does.

    Raises:
        ModelError: A node mixes samples or has no rule. The message lists every such node.
    """
    axes, static_batch = batch_axes_of(model, {**claimed_axes(model), **(batch_axes or {})})
    source = inlined(model.ir, where=model.path)
    if has_names(model):
        return _examined(model, source, axes, list(sizes) or list(guessed_sizes(free_names(model, axes))), runs)
    only = attempt(model, source, Pins(axes, static_batch))
    if only.problems:
        raise _refused(model, only.problems)
    return only.rewritten(source)


def _examined(
    model: Model, source: ir.Model, axes: Axes, sizes: Sequence[Sizes], runs: Runs | None
) -> BatchedModel:
    """Examine a model with names in its shapes.

    First it is walked with a batch that has nothing to do with the model, a prime such as 7. If no sample meets another
    there, and every output has its 7 rows, then the body computes all its shapes from those of its inputs: it is
    dynamic already, and stays as it is. Otherwise the body has a batch baked in, or mixes its samples. So it is walked
    as a model of that static batch, and rewritten.

    Raises:
        ModelError: It mixes its samples, or cannot be analysed.
    """
    problems: Sequence[Problem] = ()
    if _is_named(model, axes):
        batch = unrelated_batch(model, sizes[0])
        at = attempt(model, source, Pins(axes, batch, sizes[0]))
        problems, shapes = at.problems, _shapes_at(model, axes, batch, sizes[0], runs)
        runs_freely = runs is None or (shapes is not None and _has_rows(model, shapes, batch))
        if runs_freely and not problems and all(t.batch_axis == 0 and t.rows == 1 for t in at.outputs):
            return keep_batched(model)
        if runs_freely and runs is not None and any(isinstance(problem.refusal, Mixing) for problem in problems):
            raise _refused(model, problems)
    for batch in _frozen_batches(model, axes, sizes[0], runs):
        at = follow_sizes(model, source, axes, batch, sizes)
        if not at.problems:
            return at.rewritten(source)
        problems = at.problems
    raise _refused(model, problems)


def _frozen_batches(model: Model, axes: Axes, sizes: Sizes, runs: Runs | None) -> Iterator[int]:
    """Yield the batches that the body may have been frozen at: those at which it runs, if there are any."""
    batches = baked_batches(model, axes)
    if runs is None:
        yield from batches[:1]
        return
    working = (batch for batch in batches if _shapes_at(model, axes, batch, sizes, runs) is not None)
    found = list(islice(working, MOST_BATCHES))
    yield from found or batches[:1]


def _is_named(model: Model, axes: Axes) -> bool:
    """Return whether every input has a batch, and a name in its place."""
    return all(
        (axis := axes[spec.name]) is not None and isinstance(spec.shape[axis], str) for spec in model.inputs
    )


def _shapes_at(
    model: Model, axes: Axes, batch: int, sizes: Sizes, runs: Runs | None
) -> Mapping[str, Shape] | None:
    """Return the shapes of the original's outputs; None if it does not run at these sizes."""
    return None if runs is None else runs({**sizes, **dict.fromkeys(batch_names(model, axes), batch)})


def _has_rows(model: Model, shapes: Mapping[str, Shape], batch: int) -> bool:
    """Return whether every output has a batch of this size in front."""
    return all(shapes[spec.name][:1] == (batch,) for spec in model.outputs)


def _refused(model: Model, problems: Sequence[Problem]) -> ModelError:
    listed = "\n".join(f"    {problem}" for problem in problems)
    return ModelError(
        model.path,
        f"the samples of its batch cannot be separated:\n{listed}",
        "export it without these nodes, run each sample by itself with --per-sample, or publish it with --static",
    )
