"""Put QuantizeLinear and DequantizeLinear into a graph with ONNX Runtime's quantizer, and take some out again."""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from builder.lowering.int8.places import Places, is_of_images
from builder.lowering.int8.ranges import Range
from builder.lowering.request import Runtime
from builder.model import free_name, operator, value_names

QUANTIZE, DEQUANTIZE = ("", "QuantizeLinear"), ("", "DequantizeLinear")

_TYPES = ["Conv", "ConvTranspose", "Gemm", "MatMul"]


@dataclass(frozen=True, slots=True)
class Quantized:
    """A graph in which all nodes that can be are quantized, and the graph in fp32 that it was made from."""

    full: ir.Model
    floats: ir.Model
    places: Places

    def keeping(self, names: Collection[str]) -> ir.Model:
        """Return a copy in which these nodes compute in fp32.

        They take the values themselves and the weights in fp32 again. So do all nodes that are not quantized, except
        between convolutions, where a sum can run on integers: the library gives the quantized value to whoever takes
        it, and beside the products of a transformer that only costs its residual connections some digits.
        """
        model = self.full.clone()
        chosen = self.places.units.keys() - set(names)
        owners = {value.name: name for name, value in (*self.places.outputs.items(), *self.places.beside.items())}
        weights = _Weights(model, self.floats)
        for node in list(model.graph):
            if operator(node) == DEQUANTIZE:
                quantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
                if quantizer is None:
                    weights.restore(node, chosen)
                else:
                    _restore_values(node, quantizer.inputs[0], chosen, owners)
        RemoveUnusedNodesPass()(model)
        return model


class _Weights:
    """Puts weights and biases in fp32 back into a quantized graph."""

    def __init__(self, model: ir.Model, floats: ir.Model) -> None:
        self._model = model
        self._names = value_names(model)
        self._floats = {node.name: node for node in floats.graph}
        self._restored: dict[ir.Value, ir.Value] = {}

    def restore(self, node: ir.Node, chosen: Collection[str]) -> None:
        """Let nodes that are not chosen take what a DequantizeLinear makes as it was before."""
        for user, position in list(node.outputs[0].uses()):
            source = self._floats[user.name].inputs[position] if user.name not in chosen else None
            if source is not None:
                user.replace_input_with(position, self._made(source))

    def _made(self, source: ir.Value) -> ir.Value:
        if source not in self._restored:
            # The library gives the name of a bias to what DequantizeLinear makes of it.
            name = free_name(f"{source.name}_fp32", self._names)
            value = ir.Value(name=name, type=source.type, shape=source.shape, const_value=source.const_value)
            self._model.graph.register_initializer(value)
            self._restored[source] = value
        return self._restored[source]


def _restore_values(
    node: ir.Node, source: ir.Value | None, chosen: Collection[str], owners: Mapping[str | None, str]
) -> None:
    """Let nodes take a value as it was before it was quantized, if they do not compute on integers."""
    value = node.outputs[0]
    uses = list(value.uses())
    is_made_so = source is not None and owners.get(source.name) in chosen
    is_taken_so = any(user.name in chosen for user, _ in uses)
    if is_made_so or (is_taken_so and is_of_images(source)):
        return
    for user, position in uses:
        if user.name not in chosen:
            user.replace_input_with(position, source)


def quantize(model: ir.Model, places: Places, ranges: Mapping[str, Range], runtime: Runtime) -> Quantized:
    """Quantize all nodes that can be.

    For TensorRT, values and weights are int8 with a zero point of 0, which is all that it takes, and biases stay in
    fp32. For a CPU, values are uint8 with any zero point, and weights have 7 bits, -64 to 64: a CPU without VNNI adds
    two products of uint8 and int8 in 16 bits, and 255 * 127 * 2 does not fit, but 255 * 64 * 2 = 32,640 does.

    Args:
        model: The graph, whose constants are initializers and whose nodes have names.
        places: Where it can be quantized.
        ranges: The range of each value, by name.
        runtime: What will run it.
    """
    with _quiet():
        full = ir.from_proto(_with_library(model, places, ranges, runtime))
    full.graph.sort()
    return Quantized(full, model, places)


def _with_library(model: ir.Model, places: Places, ranges: Mapping[str, Range], runtime: Runtime) -> onnx.ModelProto:
    from onnxruntime.quantization import QDQQuantizer, QuantType, TensorData
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    proto = ir.to_proto(model)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    producer = proto.producer_name, proto.producer_version
    add_infer_metadata(proto)  # its types are known already
    is_cpu = runtime == "cpu"
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=is_cpu,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8 if is_cpu else QuantType.QInt8,
        tensors_range={
            name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()
        },
        nodes_to_quantize=sorted(places.units),
        nodes_to_exclude=[],
        op_types_to_quantize=_TYPES,
        extra_options={
            "ActivationSymmetric": not is_cpu,
            "QuantizeBias": is_cpu,
            "OpTypesToExcludeOutputQuantization": _TYPES,
        },
    )
    for value in (*places.outputs.values(), *places.beside.values()):
        if value.name in ranges:
            quantizer.quantize_activation_tensor(str(value.name))
    quantized: onnx.ModelProto = quantizer.quantize_model()
    del quantized.metadata_props[:]
    onnx.helper.set_model_props(quantized, metadata)
    quantized.producer_name, quantized.producer_version = producer
    return quantized


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's advice from the terminal: without a handler, Python would print it."""
    handler, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
