"""Choose the names of inputs and outputs, and rename their values in the graph."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from builder.batching import BatchedModel, BatchedTensor
from builder.errors import ModelError
from builder.model import free_name, node_names, value_names
from builder.naming.contract import Contract, Side, served_names
from builder.naming.stable import stable_name
from builder.printable import counted
from builder.record import ServedTensor

_VALID_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]{0,999}")
_QUANTIZATION = "quant_parameter_tensor_names"


def rename(
    batched: BatchedModel,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    renames: Mapping[str, str] | None = None,
    contract: Contract | None = None,
) -> BatchedModel:
    """Return the model with the names of its inputs and outputs changed, in the graph and in the record.

    The graph of `batched` is changed in place: use only what is returned.

    Args:
        batched: The model, with the names of the original.
        input_names: The user's names for all inputs, in order.
        output_names: The user's names for all outputs, in order.
        renames: The user's names for single inputs and outputs, by their names in the original.
        contract: The tensors of the served version, whose names this model must keep.

    Raises:
        ModelError: A name that the user gives is unknown, invalid or used twice, or the model does not match the
            contract.
    """
    asked_inputs, asked_outputs = _asked(batched, input_names, output_names, renames or {})
    if contract is None:
        inputs, outputs = _first_names(batched, asked_inputs, asked_outputs)
    else:
        sides = [
            Side("input", _as_served(batched.inputs), tuple(asked_inputs), contract.inputs),
            Side("output", _as_served(batched.outputs), tuple(asked_outputs), contract.outputs),
        ]
        inputs, outputs = served_names(batched.original.path, sides)
    _check_unique(batched, inputs, outputs)
    _rename_graph(batched, inputs, outputs)
    return replace(
        batched,
        inputs=tuple(replace(t, name=n) for t, n in zip(batched.inputs, inputs, strict=True)),
        outputs=tuple(replace(t, name=n) for t, n in zip(batched.outputs, outputs, strict=True)),
    )


def _as_served(tensors: Sequence[BatchedTensor]) -> tuple[ServedTensor, ...]:
    return tuple(ServedTensor.of(tensor) for tensor in tensors)


# ---------------------------------------------------------------- the user's names


def _asked(
    batched: BatchedModel,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    renames: Mapping[str, str],
) -> tuple[list[str | None], list[str | None]]:
    """Return the user's name for each input and each output, None where there is none."""
    where = batched.original.path
    known = dict.fromkeys(t.original for t in (*batched.inputs, *batched.outputs))
    for old in renames:
        if old not in known:
            raise ModelError(where, f"there is no input or output {old!r} to rename", f"use one of {', '.join(known)}")
    for name in (*renames.values(), *(input_names or ()), *(output_names or ())):
        if not _VALID_NAME.fullmatch(name):
            fix = "use up to 1,000 letters, digits and _ . - / : and start with a letter, a digit or _"
            raise ModelError(where, f"{name!r} is not a valid name for an input or output", fix)

    def side(names: Sequence[str] | None, tensors: Sequence[BatchedTensor], option: str) -> list[str | None]:
        if names is not None and len(names) != len(tensors):
            listed = ", ".join(t.original for t in tensors)
            what = f"{option} needs {counted(len(tensors), 'name')}, for {listed}, but gives {len(names)}"
            raise ModelError(where, what, f"give {option} a name for each of them, in this order")
        return [renames.get(t.original, names[i] if names else None) for i, t in enumerate(tensors)]

    return (
        side(input_names, batched.inputs, "--input-names"),
        side(output_names, batched.outputs, "--output-names"),
    )


def _check_unique(batched: BatchedModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Check that no name is used twice, except by an input that is also an output."""
    passed_on = {t.original for t in batched.outputs}
    may_repeat = {new for t, new in zip(batched.inputs, inputs, strict=True) if t.original in passed_on}
    repeated = [name for side in (inputs, outputs) for name, n in Counter(side).items() if n > 1]
    repeated += [name for name in outputs if name in inputs and name not in may_repeat]
    if repeated:
        what = f"two inputs or outputs would be named {repeated[0]!r}"
        fix = "give each a different name with --rename OLD=NEW, --input-names or --output-names"
        raise ModelError(batched.original.path, what, fix)


# ---------------------------------------------------------------- names for a first version


def _first_names(
    batched: BatchedModel, asked_inputs: Sequence[str | None], asked_outputs: Sequence[str | None]
) -> tuple[list[str], list[str]]:
    inputs = _stable_names(batched.inputs, asked_inputs, "input", taken=_given(asked_outputs))
    # An input that is also an output stays one value with one name.
    passed_on = dict(zip((t.name for t in batched.inputs), inputs, strict=True))
    asked = [name or passed_on.get(t.name) for t, name in zip(batched.outputs, asked_outputs, strict=True)]
    return inputs, _stable_names(batched.outputs, asked, "output", taken=set(inputs))


def _stable_names(
    tensors: Sequence[BatchedTensor], asked: Sequence[str | None], generic: str, taken: set[str]
) -> list[str]:
    """Return the name asked for, or the stable one, or `input` (among several tensors `input_0`, by position)."""
    wanted = [a or stable_name(t.original, len(tensors)) for t, a in zip(tensors, asked, strict=True)]
    times = Counter(wanted)
    names: list[str] = []
    for i, (name, given) in enumerate(zip(wanted, asked, strict=True)):
        if given is None and (name is None or times[name] > 1 or name in taken):
            name = generic if len(tensors) == 1 else f"{generic}_{i}"
            name = _unused(name, taken | (_given(wanted) - {wanted[i]}))
        assert name is not None
        names.append(name)
    return names


def _given(names: Sequence[str | None]) -> set[str]:
    return {name for name in names if name}


def _unused(name: str, taken: set[str]) -> str:
    """Return `name`, with underscores added until it is not taken."""
    while name in taken:
        name += "_"
    return name


# ---------------------------------------------------------------- the graph


def _rename_graph(batched: BatchedModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Rename the values of the inputs and outputs; other values with one of those names get a new one.

    To name the input `x` of a graph `image`, when a value inside it is called `image` already, `x` becomes `image` and
    `image` becomes `image_inner`.
    """
    graph = batched.ir.graph
    new_names = _served_values(batched, inputs, outputs)
    values = [value for value in _values(graph) if value.name]
    taken = {value.name for value in values if value.name} | set(new_names.values())
    wanted = set(new_names.values())
    for value in values:
        if value not in new_names and value.name in wanted:
            new_names[value] = _unused(f"{value.name}_inner", taken)
            taken.add(new_names[value])
    changed = {value.name: new for value, new in new_names.items() if value.name != new}
    ir.convenience.rename_values(list(new_names), list(new_names.values()))
    for value in values:
        if annotation := value.meta.get(_QUANTIZATION):
            value.meta[_QUANTIZATION] = {role: changed.get(name, name) for role, name in annotation.items()}


def _served_values(batched: BatchedModel, inputs: Sequence[str], outputs: Sequence[str]) -> dict[ir.Value, str]:
    """Return the values of the inputs and outputs with their new names.

    A value that has to have two names, because an input is also an output or an output is listed twice, is copied.
    """
    graph = batched.ir.graph
    by_name = {value.name: value for value in graph.inputs}
    new_names = {by_name[t.name]: new for t, new in zip(batched.inputs, inputs, strict=True)}
    for i, new in enumerate(outputs):
        value = graph.outputs[i]
        if new_names.get(value, new) != new:
            value = graph.outputs[i] = _copied(batched.ir, value)
        new_names[value] = new
    return new_names


def _copied(model: ir.Model, value: ir.Value) -> ir.Value:
    node = ir.node("Identity", [value])
    copy = node.outputs[0]
    copy.type, copy.shape = value.type, value.shape
    copy.name = _unused(f"{value.name}_copy", value_names(model))
    taken = node_names(model)
    model.graph.append(node)
    node.name = free_name(str(node.name), taken)  # onnx-ir looks only at this graph
    return copy


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield every value of the graph and of the graphs inside its nodes."""
    for inner in (graph, *graph.subgraphs()):
        yield from inner.inputs
        yield from (v for v in inner.initializers.values() if v not in set(inner.inputs))
        for node in inner:
            yield from node.outputs
