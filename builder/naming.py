"""Give inputs and outputs the names that clients will use, and keep those names from version to version.

The first version's names are the model's contract. Without a contract and without the caller's own names, a
name is made by `stable_name`: it keeps what a person chose and drops what an exporter counted.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import onnx
import onnx_ir as ir

from builder.batching import BatchedModel, BatchedTensor
from builder.errors import ModelError
from builder.record import ServedTensor

_VALID_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]*")
_EXPORTER_WORDS = frozenset(
    {
        *(
            "val",
            "tensor",
            "node",
            "var",
            "variable",
            "getitem",
            "onnx",
            "partitionedcall",
            "statefulpartitionedcall",
        ),
        *("batchnorm", "linear", "addmm", "mm", "bmm", "conv1d", "conv2d", "conv3d", "convolution"),
        *("layernorm", "groupnorm", "view", "permute", "select", "cat", "stack", "embedding"),
    }
)
"""PyTorch's and TensorFlow's words for a value nobody named, where ONNX has no operator of that name."""
_QUANTIZATION = "quant_parameter_tensor_names"


@dataclass(frozen=True, slots=True)
class Contract:
    """The inputs and outputs that clients of the served version rely on, in order."""

    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]


def rename(
    batched: BatchedModel,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    renames: Mapping[str, str] | None = None,
    contract: Contract | None = None,
) -> BatchedModel:
    """Name the inputs and outputs, in the graph and in the record.

    The graph of `batched` is changed in place: use only what is returned.

    Args:
        batched: Named as in the original.
        input_names: The caller's names for all inputs, in order.
        output_names: The caller's names for all outputs, in order.
        renames: The caller's name for single inputs or outputs, by the name in the original.
        contract: The served version's tensors, onto which this model must map with certainty.

    Raises:
        ModelError: A name asked for is unknown, invalid or taken, or the model does not fit the contract.
    """
    asked_inputs, asked_outputs = _asked(batched, input_names, output_names, renames or {})
    if contract is None:
        inputs = _stable_names(batched.inputs, asked_inputs, "input", taken=_named(asked_outputs))
        # Where an input is also an output, the two stay one value with one name.
        passed_on = dict(zip((t.name for t in batched.inputs), inputs, strict=True))
        outputs = _stable_names(
            batched.outputs,
            [a or passed_on.get(t.name) for t, a in zip(batched.outputs, asked_outputs, strict=True)],
            "output",
            taken=set(inputs),
        )
    else:
        inputs, outputs = _onto_contract(batched, asked_inputs, asked_outputs, contract)
    _check_names(batched, inputs, outputs)
    _rename_graph(batched, inputs, outputs)
    return replace(
        batched,
        inputs=tuple(replace(t, name=n) for t, n in zip(batched.inputs, inputs, strict=True)),
        outputs=tuple(replace(t, name=n) for t, n in zip(batched.outputs, outputs, strict=True)),
    )


# ---------------------------------------------------------------- what the caller asked for


def _named(names: Sequence[str | None]) -> set[str]:
    return {name for name in names if name}


def _asked(
    batched: BatchedModel,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    renames: Mapping[str, str],
) -> tuple[list[str | None], list[str | None]]:
    """The caller's name for each input and output, None where none was given."""
    tensors = (*batched.inputs, *batched.outputs)
    for old in renames:
        if old not in {t.original for t in tensors}:
            known = ", ".join(dict.fromkeys(t.original for t in tensors))
            what = f"has no input or output {old!r} to rename"
            raise ModelError(batched.original.path, what, f"use one of {known}")

    for name in (*renames.values(), *(input_names or ()), *(output_names or ())):
        if not _VALID_NAME.fullmatch(name):
            fix = "use letters, digits and _ . - / : and begin with a letter, a digit or _"
            raise ModelError(batched.original.path, f"{name!r} is not a name for an input or output", fix)

    def side(names: Sequence[str] | None, tensors: Sequence[BatchedTensor], option: str) -> list[str | None]:
        if names is not None and len(names) != len(tensors):
            known = ", ".join(t.original for t in tensors)
            what = f"{option} gives {len(names)} names for {len(tensors)}: {known}"
            raise ModelError(batched.original.path, what, f"give {option} one name for each, in this order")
        return [renames.get(t.original, names[i] if names else None) for i, t in enumerate(tensors)]

    return (
        side(input_names, batched.inputs, "--input-names"),
        side(output_names, batched.outputs, "--output-names"),
    )


def _check_names(batched: BatchedModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    where = batched.original.path
    twice = [name for side in (inputs, outputs) for name, n in Counter(side).items() if n > 1]
    handed_on = {t.original for t in batched.outputs}
    passed_on = {new for t, new in zip(batched.inputs, inputs, strict=True) if t.original in handed_on}
    twice += [name for name in outputs if name in inputs and name not in passed_on]
    if twice:
        fix = "give each its own with --rename OLD=NEW, --input-names or --output-names"
        raise ModelError(where, f"{twice[0]!r} would name two of its inputs and outputs", fix)


# ---------------------------------------------------------------- names for a first version


@cache
def _operator_words() -> frozenset[str]:
    return _EXPORTER_WORDS | {schema.name.lower() for schema in onnx.defs.get_all_schemas()}


def stable_name(original: str, count: int) -> str | None:
    """What a person would call this tensor, or None where only an exporter has named it.

    - Of a path the last part counts: `serving_default/image:0` is `image`, `onnx::Gemm_0` is `Gemm_0`.
    - TensorFlow's `:0` and TorchScript's `.1` are counters: `images.1` is `images`.
    - A trailing `_12` is a counter if it is larger than `count`, how many tensors are on this side:
      `logits_274` is `logits`, `box_2` of four stays.
    - What is left says nothing if it has no letter (`42`), is `input` or `output` and was counted, or is a
      word for an operator with a number behind (`batchnorm_274`, `Identity:0`, `Gemm_0`).
    """
    last = re.split(r"/|::", original)[-1]
    plain = re.sub(r"(:\d+|\.\d+)+$", "", last)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_-")
    number = re.search(r"_(\d+)$", plain)
    stem = plain[: number.start()] if number else plain
    word = re.sub(r"_?output$", "", stem.lower()) or stem.lower()
    counted = number is not None or plain != last
    if not re.search("[A-Za-z]", stem) or (counted and word.replace("_", "") in _operator_words()):
        return None
    if number and int(number.group(1)) > count:
        plain = stem
    return None if plain != last and plain in ("input", "output") else plain


def _stable_names(
    tensors: Sequence[BatchedTensor], asked: Sequence[str | None], generic: str, taken: set[str]
) -> list[str]:
    """The asked name, else the stable one, else `input` or, among several, `input_0` by position."""
    wanted = [a or stable_name(t.original, len(tensors)) for t, a in zip(tensors, asked, strict=True)]
    times = Counter(wanted)
    names: list[str] = []
    for i, (name, given) in enumerate(zip(wanted, asked, strict=True)):
        if given is None and (name is None or times[name] > 1 or name in taken):
            name = generic if len(tensors) == 1 else f"{generic}_{i}"
            name = _fresh(name, taken | (_named(wanted) - {wanted[i]}))
        assert name is not None
        names.append(name)
    return names


def _fresh(name: str, taken: set[str]) -> str:
    """`name`, with as many underscores behind it as make it new."""
    while name in taken:
        name += "_"
    return name


# ---------------------------------------------------------------- names for a later version


_Signature = tuple[str, tuple[int, ...]]


def _signature(tensor: ServedTensor) -> _Signature:
    """What must not change. Triton shows a row of rank 0 to clients as one of dims [1]."""
    return tensor.data_type, tensor.dims or (1,)


def _as_text(tensor: ServedTensor) -> str:
    return f"{tensor.name} {tensor.data_type} {list(tensor.dims)}"


def _onto_contract(
    batched: BatchedModel,
    asked_inputs: Sequence[str | None],
    asked_outputs: Sequence[str | None],
    contract: Contract,
) -> tuple[list[str], list[str]]:
    """The contract's name for each input and output of this model.

    Raises:
        ModelError: With both sides in a table, unless each tensor has one certain counterpart.
    """
    sides = (
        ("input", contract.inputs, batched.inputs, asked_inputs),
        ("output", contract.outputs, batched.outputs, asked_outputs),
    )
    names: list[list[str]] = []
    faults: list[str] = []
    for side, served, tensors, asked in sides:
        found = _match([ServedTensor.of(t) for t in tensors], asked, served)
        if isinstance(found, str):
            faults.append(f"{side}s: {found}")
        else:
            names.append(found)
    if faults:
        table = "\n".join(_table(sides))
        fix = "name them after the served ones with --rename OLD=NEW, or publish a new model with --name"
        what = f"does not map onto the served version with certainty ({'; '.join(faults)})\n{table}"
        raise ModelError(batched.original.path, what, fix)
    return names[0], names[1]


_Side = tuple[str, tuple[ServedTensor, ...], tuple[BatchedTensor, ...], Sequence[str | None]]


def _table(sides: Sequence[_Side]) -> Iterator[str]:
    rows = [("", "served version", "this model")]
    for side, served, tensors, _ in sides:
        new = [_as_text(ServedTensor.of(t)) for t in tensors]
        for i in range(max(len(served), len(new))):
            left = _as_text(served[i]) if i < len(served) else "-"
            rows.append((side, left, new[i] if i < len(new) else "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for side, left, right in rows:
        yield f"    {side:{widths[0]}}  {left:{widths[1]}}  {right}"


def _match(new: Sequence[ServedTensor], asked: Sequence[str | None], served: Sequence[ServedTensor]) -> list[str] | str:
    """The served name for each new tensor, or what stands in the way.

    A tensor of a type and dims that no other on its side has is certain. Among tensors alike, names decide
    where a person gave them; order decides where an exporter numbered them all.
    """
    if len(new) != len(served):
        return f"{len(new)} for {len(served)}"
    unknown = [a for a in asked if a and a not in {s.name for s in served}]
    if unknown:
        return f"{unknown[0]!r} is not a name of the served version"
    if not any(asked) and [(t.original, _signature(t)) for t in new] == [(t.original, _signature(t)) for t in served]:
        return [t.name for t in served]
    alike: dict[_Signature, tuple[list[int], list[int]]] = {}
    for i, tensor in enumerate(new):
        alike.setdefault(_signature(tensor), ([], []))[0].append(i)
    for j, tensor in enumerate(served):
        alike.setdefault(_signature(tensor), ([], []))[1].append(j)
    if any(len(ours) != len(theirs) for ours, theirs in alike.values()):
        return "a data type or dim changed"
    names = [""] * len(new)
    for ours, theirs in alike.values():
        pairs = _pair(ours, theirs, new, asked, served)
        if isinstance(pairs, str):
            return pairs
        for i, j in pairs.items():
            names[i] = served[j].name
    return _contradiction(new, asked, served, names) or names


def _contradiction(
    new: Sequence[ServedTensor],
    asked: Sequence[str | None],
    served: Sequence[ServedTensor],
    names: Sequence[str],
) -> str:
    """Why `names` cannot be right: a tensor bears, from a person's hand, the name of another served one."""
    for tensor, wish, name in zip(new, asked, names, strict=True):
        if wish and wish != name:
            return f"{tensor.name!r} cannot be {wish!r}: another data type or dims"
        own = stable_name(tensor.name, len(new))
        if not wish and own == tensor.name != name and tensor.name in {s.name for s in served}:
            return f"{tensor.name!r} has the data type and dims of {name!r}"
    return ""


def _pair(
    ours: Sequence[int],
    theirs: Sequence[int],
    new: Sequence[ServedTensor],
    asked: Sequence[str | None],
    served: Sequence[ServedTensor],
) -> dict[int, int] | str:
    """Pair tensors of one type and dims: new index -> served index."""
    pairs: dict[int, int] = {}
    for i in ours:
        own = asked[i] or stable_name(new[i].name, len(new))
        same = [j for j in theirs if own in (served[j].name, None if asked[i] else served[j].original)]
        if len(same) == 1 and same[0] not in pairs.values():
            pairs[i] = same[0]
    left = [i for i in ours if i not in pairs]
    free = [j for j in theirs if j not in pairs.values()]
    if len(left) <= 1:
        return pairs | dict(zip(left, free, strict=True))
    counted = all(stable_name(new[i].name, len(new)) is None for i in left)
    swapped = {new[i].name for i in left} == {served[j].original for j in free} and any(
        new[i].name != served[j].original for i, j in zip(left, free, strict=True)
    )
    if counted and not swapped:
        return pairs | dict(zip(left, free, strict=True))
    these = ", ".join(repr(new[i].name) for i in left)
    return f"{these} are alike in data type and dims, and their names do not tell which is which"


# ---------------------------------------------------------------- the graph


def _rename_graph(batched: BatchedModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Rename the values behind the inputs and outputs; what else bears one of those names makes way."""
    graph = batched.ir.graph
    by_name = {value.name: value for value in graph.inputs}
    targets = {by_name[t.name]: new for t, new in zip(batched.inputs, inputs, strict=True)}
    for i, new in enumerate(outputs):
        value = graph.outputs[i]
        if targets.get(value, new) != new:
            # An input handed on, or an output listed twice, under another name: it needs its own value.
            value = graph.outputs[i] = _copied(graph, value)
        targets[value] = new
    values = [value for value in _values(graph) if value.name]
    taken = {value.name for value in values if value.name} | set(targets.values())
    for value in values:
        if value not in targets and value.name in targets.values():
            assert value.name is not None
            targets[value] = _fresh(value.name + "_inner", taken)
            taken.add(targets[value])
    changed = {value.name: new for value, new in targets.items() if value.name != new}
    ir.convenience.rename_values(list(targets), list(targets.values()))
    for value in values:
        if annotation := value.meta.get(_QUANTIZATION):
            value.meta[_QUANTIZATION] = {role: changed.get(name, name) for role, name in annotation.items()}


def _copied(graph: ir.Graph, value: ir.Value) -> ir.Value:
    node = ir.node("Identity", [value])
    copy = node.outputs[0]
    copy.type, copy.shape = value.type, value.shape
    copy.name = _fresh(f"{value.name}_copy", {v.name for v in _values(graph) if v.name})
    graph.append(node)
    return copy


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of the graph and of the graphs inside its nodes."""
    for inner in (graph, *graph.subgraphs()):
        yield from inner.inputs
        yield from (v for v in inner.initializers.values() if v not in set(inner.inputs))
        for node in inner:
            yield from node.outputs
