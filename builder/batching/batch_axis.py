"""Give every input and output of a model a symbolic batch on axis 0.

A model with static shapes is walked once and rewritten. Symbolic dimensions are claims: they are checked by walking the
body with a number for each, and by running the original.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import islice

import onnx_ir as ir

from builder.batching.attempt import Attempt, Problem, attempt
from builder.batching.batched import BatchedModel
from builder.batching.following import follow_sizes
from builder.batching.input_axes import batch_axes_of
from builder.batching.keeping import keep_batched
from builder.batching.layout import Shape
from builder.batching.pins import (
    SMALL,
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
from builder.batching.rule import Mixing, Random, SharedScale, SharedSteps, Undecided
from builder.batching.rules import WITHOUT_RANDOM
from builder.errors import Listing, ModelError
from builder.model import Model, inlined


def add_batch_axis(
    model: Model, *, batch_axes: Mapping[str, int | None] | None = None, original: Runs | None = None
) -> BatchedModel:
    """Make axis 0 of every input and output the symbolic batch.

    Args:
        model: The model. Its batch may be static, or symbolic and then checked.
        batch_axes: The axis of the batch, for inputs that do not have it on axis 0; None for an input without a batch,
            of which each sample brings its own.
        original: Runs the original, to see at which sizes it works. It is used only for symbolic dimensions; without
            it, the walk alone decides.

    Raises:
        ModelError: A node mixes samples or has no rule. The message lists every such node.
    """
    axes, static_batch = batch_axes_of(model, {**claimed_axes(model), **(batch_axes or {})})
    source = inlined(model.ir, where=model.path)
    if has_names(model):
        return _Examination(model, source, axes, original).result()
    only = attempt(model, source, Pins(axes, static_batch))
    if only.problems:
        raise _refused(model, axes, only.problems)
    return only.rewritten(source)


class _Examination:
    """Checks a model with symbolic dimensions.

    First it is walked with a batch size that is unrelated to the model, a prime such as 7. If no sample meets another
    there, and every output has 7 rows, then the body computes all its shapes from those of its inputs: its batch is
    dynamic already, and the model stays as it is. Otherwise the body has a batch size baked in, or mixes its samples.
    So it is walked as a model with that static batch, and rewritten.
    """

    def __init__(self, model: Model, source: ir.Model, axes: Axes, original: Runs | None) -> None:
        self._model = model
        self._source = source
        self._axes = axes
        self._names = batch_names(model, axes)
        _check_names(model, axes, self._names)
        self._original = original
        # Inputs may have different names for the batch; with a different size for each, the model would not run.
        tied = dict.fromkeys(self._names, 1) if len(self._names) > 1 else {}
        found = original.working_sizes(tied) if original is not None else ()
        if not found:  # nothing can be learned from it
            self._original = None
        self._sizes = self._without_batch(found) or list(guessed_sizes(free_names(model, axes)))

    def result(self) -> BatchedModel:
        """Return the model with a dynamic batch: as it is, or rewritten.

        Raises:
            ModelError: It mixes its samples, or cannot be analysed.
        """
        free = self._walked_freely() if self._is_named() else None
        kept = None if free is None else self._kept(free)
        if kept is not None:
            return kept
        batch = free.pins.batch if free is not None and self._is_clean(free) else self._frozen_batch()
        sizes, small = self._sizes_at(batch), self._small_sizes_at(batch)
        frozen = follow_sizes(self._model, self._source, self._axes, batch, sizes, small)
        if not frozen.problems:
            self._check_chunks(batch)
            return frozen.rewritten(self._source)
        if free is not None and self._follows(free) and _is_undecided(free):
            return keep_batched(free)
        raise _refused(self._model, self._axes, frozen.problems)

    def _kept(self, free: Attempt) -> BatchedModel | None:
        """Return the model as it is, if its body follows the batch; None if it has to be rewritten.

        Raises:
            ModelError: It mixes its samples.
        """
        if self._is_clean(free):
            return keep_batched(free) if self._answers_one_row() else None
        if self._follows(free) and self._mixes(free):
            raise _refused(self._model, self._axes, free.problems)
        self._check_axes(free)
        return None

    def _is_clean(self, free: Attempt) -> bool:
        """Return whether the body follows the batch, no samples met, and every tensor has one row of each on axis 0."""
        return not free.problems and _are_in_front(free) and self._follows(free) is not False

    def _walked_freely(self) -> Attempt:
        """Walk the model with a batch size that is unrelated to it."""
        pins = Pins(self._axes, unrelated_batch(self._model, self._sizes[0]), self._sizes[0])
        return attempt(self._model, self._source, pins, has_free_batch=True)

    def _answers_one_row(self) -> bool:
        """Return whether a batch of one gives one row too; a Squeeze without axes, for example, removes that axis."""
        shapes = self._shapes_at(1, is_needed=True)
        return self._original is None or (shapes is not None and _have_rows(self._model, shapes, 1))

    def _check_chunks(self, batch: int) -> None:
        """Check that a body that takes `batch` samples at once, or a multiple of that, does not mix those.

        Raises:
            ModelError: It mixes them.
        """
        if batch == 1 or self._original is None or not self._is_named():
            return
        for times in (2, 3):
            shapes = self._shapes_at(times * batch)
            if shapes is None or not _have_rows(self._model, shapes, times * batch):
                return
        sizes = {**self._sizes[0], **dict.fromkeys(self._names, 2 * batch)}
        if not self._original.keeps_apart(sizes, self._axes, batch):
            raise ModelError(
                self._model.path,
                f"it takes {batch} samples or any multiple of that, and the answer to a sample depends on the others",
                "export it so that no sample changes the answer to another",
                is_about_batch=True,
            )

    def _is_named(self) -> bool:
        """Return whether every input has a symbolic batch."""
        pairs = ((spec, self._axes[spec.name]) for spec in self._model.inputs)
        return all(axis is not None and isinstance(spec.shape[axis], str) for spec, axis in pairs)

    def _shapes_at(self, batch: int, *, is_needed: bool = False) -> Mapping[str, Shape] | None:
        """Return the shapes of the original's outputs; None if it does not run at this batch size."""
        if self._original is None:
            return None
        sizes = {**self._sizes[0], **dict.fromkeys(self._names, batch)}
        return self._original.output_shapes(sizes, is_needed=is_needed)

    def _follows(self, free: Attempt) -> bool | None:
        """Return whether the original runs at this batch size and has it on axis 0 of every output; None if unknown."""
        if self._original is None:
            return None
        shapes = self._shapes_at(free.pins.batch, is_needed=True)
        return shapes is not None and _have_rows(self._model, shapes, free.pins.batch)

    def _mixes(self, free: Attempt) -> bool:
        """Return whether a body that follows the batch mixes its samples.

        Some nodes always do. For the others, the original answers a batch, and each of its rows alone. A scale that is
        shared by the whole batch does not count: it was not meant to mix samples, and each row can have its own.
        """
        if any(isinstance(problem.refusal, Mixing) for problem in free.problems):
            return True
        doubtful = [p for p in free.problems if not isinstance(p.refusal, SharedScale | Undecided)]
        sizes = {**free.pins.sizes, **dict.fromkeys(self._names, free.pins.batch)}
        return bool(doubtful) and self._original is not None and not self._original.keeps_apart(sizes, self._axes, 1)

    def _frozen_batch(self) -> int:
        """Return the batch size that the body was most likely frozen at.

        That is the first one at which it runs and gives that many rows wherever an output has the batch's name.
        """
        batches = baked_batches(self._model, self._axes)
        given = ((batch, self._shapes_at(batch)) for batch in batches)
        agreeing = (batch for batch, shapes in given if shapes is not None and self._agrees(shapes, batch))
        working = (batch for batch in batches if self._shapes_at(batch) is not None)
        return next(agreeing, None) or next(working, batches[0])

    def _agrees(self, shapes: Mapping[str, Shape], batch: int) -> bool:
        """Return whether the outputs have `batch` rows wherever they have the batch's name, except by mistake."""
        return all(
            shapes[spec.name][axis : axis + 1] == (batch,) or self._is_mislabelled(spec.name, axis)
            for spec in self._model.outputs
            for axis, dim in enumerate(spec.shape)
            if dim in self._names
        )

    def _is_mislabelled(self, name: str, axis: int) -> bool:
        """Return whether the batch of an output turns out to be on another axis than the one with its name."""
        one, two = self._shapes_at(1), self._shapes_at(2)
        if one is None or two is None or len(one[name]) != len(two[name]):
            return False
        pairs = list(zip(one[name], two[name], strict=True))
        return (1, 2) in pairs and pairs[axis : axis + 1] != [(1, 2)]

    def _check_axes(self, free: Attempt) -> None:
        """Check that the axes that were asked for are the batch: if they are longer, the original gives more answers.

        Raises:
            ModelError: It gives the same number, whatever their size is.
        """
        if 0 in self._axes.values():
            return
        shapes = self._shapes_at(free.pins.batch)
        fixed = [name for name, shape in (shapes or {}).items() if free.pins.batch not in shape]
        if fixed:
            listed = ", ".join(f"axis {axis} of {name!r}" for name, axis in self._axes.items())
            what = f"{listed} is not the batch: output {fixed[0]!r} has as many rows, whatever its size is"
            raise ModelError(self._model.path, what, "name the axis of the batch", is_about_batch=True)

    def _sizes_at(self, batch: int) -> Sequence[Sizes]:
        """Return choices of sizes for the other names at which the original runs with this batch size."""
        if self._original is None or not free_names(self._model, self._axes):
            return self._sizes
        found = self._original.working_sizes(dict.fromkeys(self._names, batch))
        return self._without_batch(found) or self._sizes

    def _small_sizes_at(self, batch: int) -> list[Sizes]:
        """Return the smallest size of all other names together at which the original runs with this batch."""
        names = free_names(self._model, self._axes)
        if self._original is None or not names:
            return []
        settled = dict.fromkeys(self._names, batch)
        choices = (dict.fromkeys(names, size) for size in SMALL)
        found = (sizes for sizes in choices if self._original.output_shapes({**sizes, **settled}) is not None)
        return list(islice(found, 1))

    def _without_batch(self, found: Sequence[Sizes]) -> list[Sizes]:
        """Leave out the sizes of the batch; of equal choices, one is kept."""
        others = [{name: size for name, size in sizes.items() if name not in self._names} for sizes in found]
        return [sizes for k, sizes in enumerate(others) if sizes not in others[:k]]


def _check_names(model: Model, axes: Axes, names: Collection[str]) -> None:
    """Check that the batch's name is on no other axis, as in a matrix of distances `[N, N]`.

    Raises:
        ModelError: It is on another axis too.
    """
    for spec in model.inputs:
        twice = [axis for axis, dim in enumerate(spec.shape) if dim in names and axis != axes[spec.name]]
        if twice:
            raise ModelError(
                model.path,
                f"axis {twice[0]} of input {spec.name!r} {list(spec.shape)} has the size of the batch, "
                "so that its samples belong together",
                "export it with another name for that axis",
                is_about_batch=True,
            )


def _have_rows(model: Model, shapes: Mapping[str, Shape], batch: int) -> bool:
    """Return whether every output has `batch` rows on axis 0."""
    return all(shapes[spec.name][:1] == (batch,) for spec in model.outputs)


def _is_undecided(free: Attempt) -> bool:
    """Return whether operators without a rule are the only problem."""
    return all(problem.is_undecided for problem in free.problems) and _are_in_front(free)


def _are_in_front(free: Attempt) -> bool:
    return all(tensor.batch_axis == 0 and tensor.rows == 1 for tensor in (*free.inputs, *free.outputs))


def _refused(model: Model, axes: Axes, problems: Sequence[Problem]) -> ModelError:
    what = Listing("the samples of its batch cannot be separated:", problems)
    fix = "export it without these nodes"
    frozen = [d for s in model.inputs if (axis := axes[s.name]) is not None and isinstance(d := s.shape[axis], int)]
    if any(isinstance(problem.refusal, Random) for problem in problems):
        fix = WITHOUT_RANDOM
    elif min(frozen, default=1) > 1:
        fix = f"{fix}, or with a batch of 1, which --per-sample needs"
    if any(isinstance(problem.refusal, SharedScale | SharedSteps) for problem in problems):
        fix = f"{fix}, or publish the model in fp32 with --precision int8-dynamic, which takes a scale for each row"
    return ModelError(model.path, what, fix, is_about_batch=True)
