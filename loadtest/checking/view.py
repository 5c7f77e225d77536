"""See a stored reference as the clients of a server see it.

A server's config may show less than the version has, or in another form: other dims (`reshape`), a fixed size where the
model takes any, fewer outputs, a smaller batch. Requests and right answers have to be as the server has them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from loadtest.checking.reference import Reference
from loadtest.wire import Array, TensorSpec

Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class View:
    """What a server shows of a model.

    Attributes:
        inputs: The tensors that clients send.
        outputs: The tensors that clients get.
        max_batch_size: The most rows of a request, 0 without a batch; None if the server does not say.
        input_dims: By input, the dims that the model itself has, if the server says them.
        output_dims: The same by output.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int | None = None
    input_dims: Mapping[str, Dims] = field(default_factory=dict)
    output_dims: Mapping[str, Dims] = field(default_factory=dict)

    def of(self, reference: Reference) -> Reference:
        """Return the reference as clients see it, with the outputs that they can get.

        Raises:
            ValueError: The server shows something else than this version.
        """
        inputs, samples = _seen("input", reference.inputs, reference.samples, self.inputs, self.input_dims)
        if missing := {spec.name for spec in reference.inputs} ^ {spec.name for spec in inputs + self.inputs}:
            raise ValueError(f"only one of them has the input {min(missing)}")
        outputs, answers = _seen("output", reference.outputs, reference.answers, self.outputs, self.output_dims)
        if not outputs:
            raise ValueError("they have no output in common")
        limit = reference.max_batch_size if self.max_batch_size is None else self.max_batch_size
        return replace(
            reference, max_batch_size=limit, inputs=inputs, outputs=outputs, samples=samples, answers=answers
        )


def left_out(reference: Reference, seen: Reference) -> list[str]:
    """Return the outputs of a reference that clients do not see, so that nobody can check them."""
    names = {spec.name for spec in seen.outputs}
    return [spec.name for spec in reference.outputs if spec.name not in names]


def _seen(
    side: str,
    ours: Sequence[TensorSpec],
    arrays: Mapping[str, Array],
    theirs: Sequence[TensorSpec],
    model_dims: Mapping[str, Dims],
) -> tuple[tuple[TensorSpec, ...], dict[str, Array]]:
    """Return the tensors of a reference that a server shows too, and their rows in its form."""
    there = {spec.name: spec for spec in theirs}
    specs = [there[spec.name] for spec in ours if spec.name in there]
    for spec in ours:
        if spec.name in there and spec.datatype != there[spec.name].datatype:
            raise ValueError(
                f"{side} {spec.name} is {spec.datatype} in one and {there[spec.name].datatype} in the other"
            )
    return tuple(specs), {
        spec.name: _reshaped(side, spec, arrays[spec.name], model_dims.get(spec.name)) for spec in specs
    }


def _reshaped(side: str, spec: TensorSpec, rows: Array, model_dims: Dims | None) -> Array:
    """Return `[rows, *stored dims]` as `[rows, *dims]`.

    The sizes that vary are taken over in their order: rows of [3, 4, 5] that the model takes as [-1, 4, 5] have dims
    [3, 20] in a server that shows [-1, 20].
    """
    stored = rows.shape[1:]
    if spec.takes(stored) and model_dims in (None, spec.dims):
        return rows
    shape = _shape(stored, spec.dims, model_dims)
    if shape is None:
        asked = list(spec.dims if model_dims is None else model_dims)
        raise ValueError(f"{side} {spec.name} has the dims {asked} there, and the stored rows have {list(stored)}")
    return rows.reshape(len(rows), *shape)


def _shape(stored: Dims, dims: Dims, model_dims: Dims | None) -> Dims | None:
    """Return the shape of a row for clients; None if the row is not one of this model."""
    if model_dims is None:
        return _guess(stored, dims)
    if model_dims == () and stored == (1,):  # a scalar for each row, which is stored as one value
        stored = ()
    if not TensorSpec("", "", model_dims).takes(stored) or dims.count(-1) != model_dims.count(-1):
        return None
    varying = iter([size for size, dim in zip(stored, model_dims, strict=True) if dim == -1])
    shape = tuple(next(varying) if dim == -1 else dim for dim in dims)
    return shape if math.prod(shape) == math.prod(stored) else None


def _guess(stored: Dims, dims: Dims) -> Dims | None:
    """Return the shape where the server says only what clients send: the number of values decides."""
    known, values = math.prod(dim for dim in dims if dim != -1), math.prod(stored)
    if -1 not in dims:
        return dims if known == values else None
    if dims.count(-1) > 1 or values % known:
        return None
    return tuple(values // known if dim == -1 else dim for dim in dims)
