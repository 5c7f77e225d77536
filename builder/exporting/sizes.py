"""The sizes of a module's dynamic axes: those that it is proven with first, and others near them that it accepts."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from builder.batching import BatchedModel
from builder.errors import ModelError
from builder.exporting.asking import Asking, WrongRowsError
from builder.exporting.options import ExportOptions, tensor_name
from builder.model import Model
from builder.samples import FRACTIONS, Sizes, never_varied, searched_sizes
from builder.tensors import Arrays

BUDGET_S = 30.0
"""The longest time to look for sizes at which a module works near those at which it fails."""


class OneSizeError(ModelError):
    """An axis that was called dynamic works only at the size given, whichever way the module is exported."""


def ask_given(where: str, options: ExportOptions, *, are_declared: bool) -> ExportOptions:
    """Return the options with the sizes that were asked for by the names of the axes in `dynamic`.

    Args:
        where: The source, for messages.
        options: What to export, with all inputs and dynamic axes.
        are_declared: Whether the source declares the inputs itself, so that other sizes than theirs may be asked for.

    Raises:
        ModelError: A size is of no dynamic axis, or contradicts --input or another one.
    """
    sizes: dict[str, int] = {}
    for text, size in options.sizes.items():
        label = _label(where, text, options)
        if sizes.setdefault(label, size) != size:
            what = f"--size gives the axis {label!r} two sizes, {sizes[label]} and {size}"
            raise ModelError(where, what, "give it one")
        declared = options.shape_sizes[label]
        if not are_declared and declared != size:
            what = f"--size {text}={size} contradicts --input, which gives that axis size {declared}"
            raise ModelError(where, what, f"give size {size} in --input, or leave {text} out of --size")
    return replace(options, sizes=sizes)


def _label(where: str, text: str, options: ExportOptions) -> str:
    labels = options.shape_sizes
    if text in labels:
        return text
    name, _, axis = text.rpartition(":")
    axes = options.dynamic.get(tensor_name(name), {})
    if axis.isdigit() and int(axis) in axes:
        return axes[int(axis)]
    fix = f"use one of its dynamic axes: {', '.join(labels)}" if labels else "make that axis dynamic with --dynamic"
    raise ModelError(where, f"--size names {text!r}, which is no dynamic axis", fix)


def with_given_sizes(model: Model, options: ExportOptions) -> Model:
    """Return a file that was just exported, with the given sizes by the names that its axes have."""
    given, sizes = options.given_sizes, dict[str, int]()
    for spec in model.inputs:
        for axis, label in options.dynamic.get(spec.name, {}).items():
            dim = spec.shape[axis] if axis < len(spec.shape) else 1
            if isinstance(dim, str):
                sizes[dim] = given[label]
    return replace(model, sizes=sizes)


def in_file(batched: BatchedModel, options: ExportOptions, sizes: Sizes) -> dict[str, int]:
    """Return sizes by the names that the axes have in an export: an exporter may have given them others.

    Args:
        batched: The export.
        options: What the user asked for.
        sizes: Sizes by the names in `options.dynamic`.
    """
    found: dict[str, int] = {}
    for tensor in batched.inputs:
        labels = options.dynamic.get(tensor.original, {})
        axes = (axis for axis in range(len(tensor.original_shape)) if axis != tensor.batch_axis)
        for axis, dim in zip(axes, tensor.dims, strict=False):
            if isinstance(dim, str) and axis in labels:
                found[dim] = sizes[labels[axis]]
    return found


@dataclass(slots=True)
class OtherSizes:
    """Other sizes of a module's dynamic axes, near the given ones, with what it answers there.

    Attributes:
        asking: The module.
        options: What the user asked for.
        skipped: Sizes at which it fails, and for which none near them were found that work.
    """

    asking: Asking
    options: ExportOptions
    skipped: list[Sizes] = field(default_factory=list)
    _answers: Arrays = field(default_factory=dict)
    _first: ModelError | None = None

    def find(self) -> Iterator[tuple[Sizes, Arrays]]:
        """Yield sizes by the names in `options.dynamic`, and samples of these sizes with the answers.

        Raises:
            OneSizeError: There is an axis that works only at the size given.
            VerificationError: The module gives a wrong number of rows somewhere, or shapes that depend on the values.
        """
        given = self.options.given_sizes
        end = time.monotonic() + BUDGET_S
        plain = 0

        def why_not(sizes: Sizes) -> str | None:
            nonlocal plain
            plain += 1
            return self._fault_at(sizes) if plain <= len(FRACTIONS) or time.monotonic() < end else ""

        found = []
        for wanted, sizes in searched_sizes(given, why_not):
            if sizes is None:
                self.skipped.append(wanted)
            else:
                found.append(sizes)
                yield sizes, self._answers
        if fixed := never_varied(given, found):
            raise self._works_at_one_size(fixed)

    def _fault_at(self, sizes: Sizes) -> str | None:
        """Return why the module fails at these sizes; if it works, keep what it answers."""
        named = in_file(self.asking.batched, self.options, sizes)
        try:
            if (error := self.asking.fault_at(named)) is None:
                self._answers = self.asking.drawn(named)
                return None
        except ModelError as failed:
            error = failed
        except WrongRowsError as wrong:
            raise wrong.error from wrong
        self._first = self._first or error
        return str(error.__cause__ or "")

    def _works_at_one_size(self, fixed: Sequence[str]) -> OneSizeError:
        given = self.options.given_sizes
        sizes = ", ".join(f"{label}={given[label]}" for label in fixed)
        axes = {label: f"{name}:{axis}={label}" for name, axis, label in self.options.dynamic_axes}
        why = f": {self._first.what}" if self._first else ""
        what = f"it works only at the size given for its dynamic axes, {sizes}{why}"
        if len(fixed) == len(given):
            return OneSizeError(self.asking.subject.where, what, "leave out --dynamic")
        fix = f"leave {', '.join(axes[label] for label in fixed)} out of --dynamic"
        return OneSizeError(self.asking.subject.where, what, fix)
