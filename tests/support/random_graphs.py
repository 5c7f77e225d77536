"""Random small graphs over the operators that have rules, for the property tests."""

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

OPSET = 17
LARGEST = 400
"""Elements of a value; larger ones are not made."""

MOST_AXES = 5


class Graph:
    """A graph while it grows; every value has a static shape.

    Attributes:
        values: Shape and element type of every value that may be read next.
    """

    def __init__(self, rng: Random, static_batch: int, opset: int = OPSET) -> None:
        self.rng = rng
        self.static_batch = static_batch
        self.opset = opset
        self.inputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.values: dict[str, tuple[Shape, int]] = {}
        self.refused: list[str] = []

    def input(self, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        """Add a graph input."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        self.values[name] = shape, dtype
        return name

    def weight(self, array: Array) -> str:
        """Add an initializer."""
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def floats(self, shape: Sequence[int]) -> str:
        """Add an initializer of random floats, exact in a few bits."""
        count = math.prod(shape)
        drawn = [self.rng.randint(-8, 8) / 4 for _ in range(count)]
        return self.weight(np.asarray(drawn, np.float32).reshape(tuple(shape)))

    def ints(self, values: object) -> str:
        """Add an initializer of int64."""
        return self.weight(np.asarray(values, np.int64))

    def pick(self, dtype: int = TensorProto.FLOAT, *, least: int = 0, most: int = 9) -> tuple[str, Shape] | None:
        """A value of some type and rank; late ones more often."""
        fitting = [n for n, (s, d) in self.values.items() if d == dtype and least <= len(s) <= most]
        if not fitting:
            return None
        name = fitting[-1] if self.rng.random() < 0.6 else self.rng.choice(fitting)
        return name, self.values[name][0]

    def node(self, op_type: str, inputs: Sequence[str], count: int = 1, **attributes: Any) -> list[str]:
        """Append a node; its outputs become values when ONNX can tell their shapes."""
        outputs = [f"v{len(self.nodes)}_{k}" for k in range(count)]
        domain = attributes.pop("domain", "")
        name = f"{op_type}_{len(self.nodes)}"
        node = helper.make_node(op_type, inputs, outputs, name=name, domain=domain, **attributes)
        found = self._infer(node)
        if any(math.prod(shape) > LARGEST or len(shape) > MOST_AXES or 0 in shape for shape, _ in found):
            return []
        self.nodes.append(node)
        self.values.update(zip(outputs, found, strict=True))
        return outputs

    @staticmethod
    def one(outputs: Sequence[str]) -> str | None:
        """The only output of a node, or None where the node was not made."""
        return outputs[0] if outputs else None

    def _infer(self, node: onnx.NodeProto) -> list[tuple[Shape, int]]:
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        types, data = {}, {}
        for name in filter(None, node.input):
            if name in self.weights:
                array = self.weights[name]
                data[name] = numpy_helper.from_array(array)
                types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            else:
                shape, dtype = self.values[name]
                types[name] = helper.make_tensor_type_proto(dtype, shape)
        imports = [helper.make_opsetid("", self.opset)]
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
        result = []
        for name in node.output:
            tensor = found[name].tensor_type
            result.append((tuple(d.dim_value for d in tensor.shape.dim), tensor.elem_type))
        return result

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """The graph as a model with these outputs."""
        declared = [helper.make_tensor_value_info(n, self.values[n][1], self.values[n][0]) for n in outputs]
        initializers = [numpy_helper.from_array(a, n) for n, a in self.weights.items()]
        graph = helper.make_graph(self.nodes, "random", self.inputs, declared, initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


Maker = Callable[[Graph, Random], object]
MAKERS: list[Maker] = []


def maker(times: int = 1) -> Callable[[Maker], Maker]:
    """Add a way to grow a graph; `times` makes it more likely."""

    def add(make: Maker) -> Maker:
        MAKERS.extend([make] * times)
        return make

    return add


def some_axis(rng: Random, shape: Shape) -> int:
    """An axis, seldom the first, which holds the batch more often than others."""
    axis = rng.randrange(len(shape))
    if axis == 0 and rng.random() < 0.7:
        axis = rng.randrange(len(shape))
    return axis - len(shape) if rng.random() < 0.4 else axis


def factors(rng: Random, total: int, rank: int) -> list[int]:
    """A random shape of `rank` axes and `total` elements."""
    dims = [1] * rank
    rest = total
    for p in (2, 3, 5, 7, 11, 13):
        while rest % p == 0:
            dims[rng.randrange(rank)] *= p
            rest //= p
    dims[rng.randrange(rank)] *= rest
    return dims


@maker(2)
def unary(g: Graph, rng: Random) -> None:
    if found := g.pick():
        g.node(rng.choice(["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Identity", "Sqrt", "Softplus"][:6]), [found[0]])


@maker(3)
def binary_constant(g: Graph, rng: Random) -> None:
    if found := g.pick():
        name, shape = found
        rank = rng.randint(0, min(len(shape) + 1, MOST_AXES))
        dims = [shape[len(shape) - rank + i] if len(shape) - rank + i >= 0 else 1 for i in range(rank)]
        dims = [1 if rng.random() < 0.4 else d for d in dims]
        if rng.random() < 0.2 and dims:
            at = rng.randrange(len(dims))
            behind = len(shape) - rank + at
            if dims[at] == 1 and (behind < 0 or shape[behind] == 1):
                dims[at] = rng.randint(1, 3)
        sides = [name, g.floats(dims)]
        rng.shuffle(sides)
        g.node(rng.choice(["Add", "Mul", "Sub", "Max"]), sides)


@maker(4)
def binary(g: Graph, rng: Random) -> None:
    a, b = g.pick(), g.pick()
    if a and b and _broadcasts(a[1], b[1]):
        g.node(rng.choice(["Add", "Mul", "Sub", "Min"]), [a[0], b[0]])


def _broadcasts(a: Shape, b: Shape) -> bool:
    return all(p == q or 1 in (p, q) for p, q in zip(a[::-1], b[::-1], strict=False))


@maker(2)
def where(g: Graph, rng: Random) -> None:
    a, b = g.pick(), g.pick()
    if a and b and _broadcasts(a[1], b[1]):
        mask = g.one(g.node("Greater", [a[0], g.floats([])]))
        if mask:
            g.node("Where", [mask, b[0], g.floats([1] * rng.randint(0, 2))])


@maker(5)
def reshape(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        name, shape = found
        dims = factors(rng, math.prod(shape), rng.randint(1, 4))
        if rng.random() < 0.4:
            dims[rng.randrange(len(dims))] = -1
        for i, d in enumerate(dims[: len(shape)]):
            if d == shape[i] and rng.random() < 0.2:
                dims[i] = 0
        g.node("Reshape", [name, g.ints(dims)])


@maker(4)
def merge_or_split(g: Graph, rng: Random) -> None:
    """Reshape as exporters do: two neighbours merged, or one axis split."""
    if found := g.pick(least=1):
        name, shape = found
        at = rng.randrange(len(shape))
        if rng.random() < 0.5 and at + 1 < len(shape):
            dims = [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]]
        else:
            dims = [*shape[:at], *factors(rng, shape[at], 2), *shape[at + 1 :]]
        g.node("Reshape", [name, g.ints(dims)])


@maker(4)
def transpose(g: Graph, rng: Random) -> None:
    if found := g.pick(least=2):
        perm = list(range(len(found[1])))
        rng.shuffle(perm)
        g.node("Transpose", [found[0]], perm=perm)


@maker(2)
def flatten(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        g.node("Flatten", [found[0]], axis=rng.randint(-len(found[1]), len(found[1])))


@maker(3)
def squeeze(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        ones = [i for i, d in enumerate(found[1]) if d == 1]
        if ones:
            axes = rng.sample(ones, rng.randint(1, len(ones)))
            axes = [a - len(found[1]) if rng.random() < 0.3 else a for a in axes]
            g.node("Squeeze", [found[0], g.ints(axes)] if rng.random() < 0.9 else [found[0]])


@maker(3)
def unsqueeze(g: Graph, rng: Random) -> None:
    if found := g.pick(most=4):
        rank = len(found[1]) + 1
        g.node("Unsqueeze", [found[0], g.ints([rng.randint(-rank, rank - 1)])])


@maker(3)
def reduce(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        rank = len(found[1])
        axes = list({some_axis(rng, found[1]) % rank for _ in range(rng.randint(1, 2))})
        axes = [a - rank if rng.random() < 0.3 else a for a in axes]
        keep = rng.randint(0, 1)
        kind = rng.choice(["ReduceMean", "ReduceMax", "ReduceL2"])
        if rng.random() < 0.3:
            g.node("ReduceSum", [found[0], g.ints(axes)], keepdims=keep)
        else:
            g.node(kind, [found[0]], axes=axes, keepdims=keep)


@maker(2)
def softmax(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        g.node(rng.choice(["Softmax", "LogSoftmax"]), [found[0]], axis=some_axis(rng, found[1]))


@maker(2)
def cumsum(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        axis = some_axis(rng, found[1])
        g.node("CumSum", [found[0], g.ints(axis)], exclusive=rng.randint(0, 1), reverse=rng.randint(0, 1))


@maker()
def arg_max(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        axis = some_axis(rng, found[1])
        g.node("ArgMax", [found[0]], axis=axis, keepdims=rng.randint(0, 1))


@maker()
def top_k(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        axis = some_axis(rng, found[1])
        g.node("TopK", [found[0], g.ints([rng.randint(1, found[1][axis])])], 2, axis=axis)


@maker(3)
def concat(g: Graph, rng: Random) -> None:
    a, b = g.pick(least=1), g.pick(least=1)
    if a and b and len(a[1]) == len(b[1]):
        rank = len(a[1])
        axes = [i for i in range(rank) if all(a[1][j] == b[1][j] for j in range(rank) if j != i)]
        if axes:
            axis = rng.choice(axes)
            g.node("Concat", [a[0], b[0]], axis=axis if rng.random() < 0.7 else axis - rank)


@maker(2)
def concat_constant(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        name, shape = found
        axis = rng.randrange(len(shape))
        dims = [*shape]
        dims[axis] = rng.randint(1, 3)
        sides = [name, g.floats(dims)]
        rng.shuffle(sides)
        g.node("Concat", sides, axis=axis)


@maker(3)
def slice_(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        name, shape = found
        axis = rng.randrange(len(shape))
        if rng.random() < 0.3:
            start, end, step = rng.choice([(-1, -(2**31), -1), (shape[axis], -(2**63), -1), (-1, -shape[axis] - 1, -1)])
        else:
            start = rng.randint(-shape[axis], shape[axis] - 1)
            end = rng.choice([rng.randint(1, shape[axis]), 2**63 - 1, -1])
            step = rng.choice([1, 1, 2, 3])
        given = axis if rng.random() < 0.7 else axis - len(shape)
        g.node("Slice", [name, g.ints([start]), g.ints([end]), g.ints([given]), g.ints([step])])


@maker(2)
def split(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        name, shape = found
        axis = some_axis(rng, shape)
        if shape[axis] > 1:
            first = rng.randint(1, shape[axis] - 1)
            g.node("Split", [name, g.ints([first, shape[axis] - first])], 2, axis=axis)


@maker(2)
def pad(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        name, shape = found
        mode = rng.choice(["constant", "edge"])
        pads = [rng.choice([0, 0, 1]) for _ in range(2 * len(shape))]
        g.node("Pad", [name, g.ints(pads)], mode=mode)


@maker(2)
def expand(g: Graph, rng: Random) -> None:
    if found := g.pick():
        name, shape = found
        lead = [rng.randint(1, 2)] if rng.random() < 0.3 and len(shape) < MOST_AXES else []
        dims = lead + [rng.choice([1, d, rng.randint(1, 3) if d == 1 else d]) for d in shape]
        if dims:
            g.node("Expand", [name, g.ints(dims)])


@maker(2)
def tile(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        g.node("Tile", [found[0], g.ints([rng.choice([1, 1, 2]) for _ in found[1]])])


@maker(3)
def gather(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        name, shape = found
        axis = some_axis(rng, shape)
        size = shape[axis]
        kind = rng.randint(0, 3)
        drawn = [rng.randint(-size, size - 1) for _ in range(rng.randint(1, 4))]
        indices: object = [drawn[0], drawn, [drawn], [*range(size)]][kind]
        g.node("Gather", [name, g.ints(indices)], axis=axis)


@maker()
def look_up(g: Graph, rng: Random) -> None:
    found = g.pick(TensorProto.INT64)
    if found:
        table = [rng.randint(1, 3) for _ in range(rng.randint(1, 3))]
        axis = rng.randrange(len(table))
        table[axis] = 60
        g.node("Gather", [g.floats(table), found[0]], axis=axis)


@maker()
def gather_samples(g: Graph, rng: Random) -> None:
    a, i = g.pick(least=1), g.pick(TensorProto.INT64)
    if a and i:
        axis = rng.randrange(len(a[1]))
        index = g.one(g.node("Mod", [i[0], g.ints(a[1][axis])]))
        if index:
            g.node("Gather", [a[0], index], axis=axis)


@maker()
def gather_elements(g: Graph, rng: Random) -> None:
    a, i = g.pick(least=1), g.pick(TensorProto.INT64, least=1)
    if a and i and len(a[1]) == len(i[1]):
        axis = rng.randrange(len(a[1]))
        if all(p <= q for k, (p, q) in enumerate(zip(i[1], a[1], strict=True)) if k != axis):
            index = g.one(g.node("Mod", [i[0], g.ints(a[1][axis])]))
            if index:
                g.node("GatherElements", [a[0], index], axis=axis)


@maker()
def scatter_elements(g: Graph, rng: Random) -> None:
    if a := g.pick(least=1):
        axis = rng.randrange(len(a[1]))
        index = g.one(g.node("ArgMax", [a[0]], axis=axis, keepdims=1))
        update = g.one(g.node("ReduceMax", [a[0]], axes=[axis], keepdims=1))
        if index and update:
            g.node("ScatterElements", [a[0], index, update], axis=axis, reduction=rng.choice(["none", "add"]))


@maker()
def gather_nd(g: Graph, rng: Random) -> None:
    if a := g.pick(least=1):
        name, shape = a
        dims = rng.randint(0, min(1, len(shape) - 1))
        last = rng.randint(1, len(shape) - dims)
        lead = [*shape[:dims], *([rng.randint(1, 3)] if rng.random() < 0.6 or not dims else [])]
        indices = np.zeros((*lead, last), np.int64)
        for k in range(last):
            size = shape[dims + k]
            indices[..., k] = np.asarray([rng.randint(-size, size - 1) for _ in range(math.prod(lead))]).reshape(lead)
        g.node("GatherND", [name, g.weight(indices)], batch_dims=dims)


@maker(4)
def matmul_constant(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        name, shape = found
        if rng.random() < 0.6:
            lead = [d if rng.random() < 0.5 else 1 for d in shape[:-2]] if rng.random() < 0.4 else []
            weight = g.floats([*lead, shape[-1], *([rng.randint(1, 3)] if lead or rng.random() < 0.8 else [])])
            g.node("MatMul", [name, weight])
        elif len(shape) > 1:
            g.node("MatMul", [g.floats([*([rng.randint(1, 3)] if rng.random() < 0.8 else []), shape[-2]]), name])


@maker(3)
def matmul(g: Graph, rng: Random) -> None:
    a, b = g.pick(least=1), g.pick(least=1)
    if a and b:
        inner = b[1][-2] if len(b[1]) > 1 else b[1][0]
        if a[1][-1] == inner and _broadcasts(a[1][:-2], b[1][:-2]):
            g.node("MatMul", [a[0], b[0]])


@maker(2)
def gram(g: Graph, rng: Random) -> None:
    if a := g.pick(least=2):
        perm = [*range(len(a[1]) - 2), len(a[1]) - 1, len(a[1]) - 2]
        turned = g.one(g.node("Transpose", [a[0]], perm=perm))
        if turned:
            g.node("MatMul", [a[0], turned] if rng.random() < 0.5 else [turned, a[0]])


@maker(2)
def gemm(g: Graph, rng: Random) -> None:
    if found := g.pick(least=2, most=2):
        name, shape = found
        flip, turn = rng.randint(0, 1), rng.randint(0, 1)
        rows, inner = shape[::-1] if flip else shape
        out = rng.randint(1, 3)
        weight = g.floats([out, inner] if turn else [inner, out])
        bias = [g.floats(rng.choice([[out], [1, out], [rows, out], [rows, 1], []]))] if rng.random() < 0.7 else []
        g.node("Gemm", [name, weight, *bias], transA=flip, transB=turn, alpha=rng.choice([1.0, 0.5]))


@maker()
def gemm_samples(g: Graph, rng: Random) -> None:
    a, b = g.pick(least=2, most=2), g.pick(least=2, most=2)
    if a and b:
        for flip in (0, 1):
            for turn in (0, 1):
                if a[1][1 - flip] == b[1][turn]:
                    g.node("Gemm", [a[0], b[0]], transA=flip, transB=turn)
                    return


@maker(2)
def einsum(g: Graph, rng: Random) -> None:
    a = g.pick(least=1, most=4)
    b = g.pick(least=1, most=4)
    if a and b:
        letters: dict[int, list[str]] = {}
        names = iter("abcdefgh")
        terms = []
        for shape in (a[1], b[1]):
            term = ""
            for d in shape:
                free = [c for c in letters.get(d, []) if c not in term]
                letter = rng.choice(free) if free and rng.random() < 0.7 else next(names)
                letters.setdefault(d, []).append(letter)
                term += letter
            terms.append(term)
        every = sorted(set("".join(terms)))
        kept = rng.sample(every, rng.randint(1, min(4, len(every))))
        g.node("Einsum", [a[0], b[0]], equation=f"{','.join(terms)}->{''.join(kept)}")


@maker(2)
def convolution(g: Graph, rng: Random) -> None:
    if found := g.pick(least=3, most=4):
        name, shape = found
        groups = shape[1] if rng.random() < 0.3 else 1
        out = groups * rng.randint(1, 2)
        weight = g.floats([out, shape[1] // groups, *[1] * (len(shape) - 2)])
        g.node("Conv", [name, weight, *([g.floats([out])] if rng.random() < 0.5 else [])], group=groups)


@maker()
def pool(g: Graph, rng: Random) -> None:
    if found := g.pick(least=3, most=4):
        g.node(rng.choice(["GlobalAveragePool", "GlobalMaxPool"]), [found[0]])


@maker()
def normalize(g: Graph, rng: Random) -> None:
    if found := g.pick(least=3, most=4):
        channels = [found[1][1]]
        if rng.random() < 0.5:
            g.node("InstanceNormalization", [found[0], g.floats(channels), g.floats(channels)])
        else:
            rest = [g.floats(channels), g.floats(channels), g.floats(channels), g.weight(np.ones(channels, np.float32))]
            g.node("BatchNormalization", [found[0], *rest])


@maker(2)
def layer_normalization(g: Graph, rng: Random) -> None:
    if found := g.pick(least=1):
        axis = rng.randrange(len(found[1]))
        dims = found[1][axis:]
        g.node("LayerNormalization", [found[0], g.floats(dims), g.floats(dims)], axis=axis)


@maker()
def trilu(g: Graph, rng: Random) -> None:
    if found := g.pick(least=2):
        g.node("Trilu", [found[0], g.ints(rng.randint(-1, 1))], upper=rng.randint(0, 1))


@maker()
def one_hot(g: Graph, rng: Random) -> None:
    if found := g.pick(TensorProto.INT64, least=1, most=3):
        axis = rng.randint(-len(found[1]) - 1, len(found[1]))
        g.node("OneHot", [found[0], g.ints([3]), g.floats([2])], axis=axis)


@maker()
def resize(g: Graph, rng: Random) -> None:
    if found := g.pick(least=3, most=4):
        name, shape = found
        sizes = [*shape[:2], *(d * rng.randint(1, 2) for d in shape[2:])]
        if rng.random() < 0.5:
            g.node("Resize", [name, "", "", g.ints(sizes)], mode="nearest")
        else:
            scales = [float(s / d) for s, d in zip(sizes, shape, strict=True)]
            g.node("Resize", [name, "", g.weight(np.asarray(scales, np.float32))], mode="nearest")


@maker()
def cast(g: Graph, rng: Random) -> None:
    if found := g.pick():
        bounded = g.one(g.node("Clip", [found[0], g.floats([]), g.weight(np.asarray(9, np.float32))]))
        if bounded:
            (absolute,) = g.node("Abs", [bounded])
            g.node("Cast", [absolute], to=TensorProto.INT64)


@maker(2)
def shape_arithmetic(g: Graph, rng: Random) -> None:
    """A reshape target computed from shapes, as tracing leaves it."""
    if found := g.pick(least=2):
        name, shape = found
        (whole,) = g.node("Shape", [name])
        (first,) = g.node("Gather", [whole, g.ints(0)], axis=0)
        (lead,) = g.node("Unsqueeze", [first, g.ints([0])])
        for used in (whole, first, lead):
            g.values.pop(used, None)
        target = helper.make_node("Concat", [lead, g.ints([-1])], [f"t{len(g.nodes)}"], axis=0)
        g.nodes.append(target)
        g.weights[target.output[0]] = np.asarray([shape[0], -1], np.int64)
        try:
            g.node("Reshape", [name, target.output[0]])
        finally:
            del g.weights[target.output[0]]


@maker()
def recurrent(g: Graph, rng: Random) -> None:
    if found := g.pick(least=3, most=3):
        name, (_, rows, size) = found
        hidden = 2
        state = [g.floats([1, rows, hidden])] if rng.random() < 0.5 else []
        if state and rng.random() < 0.5:
            g.weights[state[0]][:] = g.weights[state[0]][:, :1]
        weights = [g.floats([1, 3 * hidden, size]), g.floats([1, 3 * hidden, hidden])]
        g.node("GRU", [name, *weights, "", "", *state], 2, hidden_size=hidden)


def grow(rng: Random, static_batch: int, nodes: int) -> onnx.ModelProto:
    """A random model of about `nodes` nodes whose outputs lead with the batch wherever that can be arranged."""
    g = Graph(rng, static_batch)
    for _ in range(rng.choice([1, 1, 2])):
        g.input((static_batch, *(rng.randint(1, 4) for _ in range(rng.randint(0, 3)))))
    tries = 0
    while len(g.nodes) < nodes and tries < 10 * nodes:
        rng.choice(MAKERS)(g, rng)
        tries += 1
    return g.model(_outputs(g, rng))


def _outputs(g: Graph, rng: Random) -> list[str]:
    """End the graph at every value that a node made and no node reads."""
    read = {name for node in g.nodes for name in node.input}
    made = {name for node in g.nodes for name in node.output}
    if not made:
        return g.node("Identity", [list(g.values)[-1]])
    outputs = []
    for name in [n for n in g.values if n not in read and n in made] or [list(g.values)[-1]]:
        if g.static_batch == 1 and rng.random() < 0.7:
            outputs += g.node("Unsqueeze", [name, g.ints([0])]) or [name]
        else:
            outputs.append(name)
    return outputs
