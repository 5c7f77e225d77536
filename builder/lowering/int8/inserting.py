"""Put QuantizeLinear and DequantizeLinear into a graph, with ONNX Runtime's quantizer."""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir as ir

from builder.lowering.int8.places import Places, is_of_images, runs_on_integers
from builder.lowering.int8.ranges import Range
from builder.lowering.request import Runtime
from builder.model import operator

QUANTIZE, DEQUANTIZE = ("", "QuantizeLinear"), ("", "DequantizeLinear")


def insert_quantizers(
    model: ir.Model, places: Places, chosen: Collection[str], ranges: Mapping[str, Range], runtime: Runtime
) -> ir.Model:
    """Return a copy in which the chosen nodes compute on quantized values and weights.

    For TensorRT, values and weights are int8 with a zero point of 0, which is all that it takes, and biases stay in
    fp32. For a CPU, values are uint8 with any zero point, and weights have 7 bits, -64 to 64: a CPU without VNNI adds
    two products of uint8 and int8 in 16 bits, and 255 * 127 * 2 does not fit, but 255 * 64 * 2 = 32,640 does.

    Args:
        model: The graph, all constants initializers.
        places: Where it can be quantized.
        chosen: The names of the nodes to quantize.
        ranges: The range of each value, by name.
        runtime: What will run it.
    """
    if not chosen:
        return model.clone()
    with _quiet():
        quantized = _with_library(model, places, chosen, ranges, runtime)
    result = ir.from_proto(quantized)
    _leave_others(result, set(chosen))
    return result


def _with_library(
    model: ir.Model, places: Places, chosen: Collection[str], ranges: Mapping[str, Range], runtime: Runtime
) -> onnx.ModelProto:
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
        nodes_to_quantize=sorted(chosen),
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
        extra_options={
            "ActivationSymmetric": not is_cpu,
            "QuantizeBias": is_cpu,
            "OpTypesToExcludeOutputQuantization": ["Conv", "ConvTranspose", "Gemm", "MatMul"],
        },
    )
    for name in chosen:
        for value in (places.outputs.get(name), places.beside.get(name)):
            if value is not None and value.name in ranges:
                quantizer.quantize_activation_tensor(str(value.name))
    quantized: onnx.ModelProto = quantizer.quantize_model()
    del quantized.metadata_props[:]
    onnx.helper.set_model_props(quantized, metadata)
    quantized.producer_name, quantized.producer_version = producer
    return quantized


def _leave_others(model: ir.Model, chosen: Collection[str]) -> None:
    """Let nodes that stay in fp32 take the value itself again, not what is left of it after quantizing.

    The library gives the quantized value to whoever takes it. That is right between convolutions, where a sum can run
    on integers. Elsewhere it only loses digits: beside the products of a transformer, its residual connections.
    """
    for node in list(model.graph):
        if operator(node) != DEQUANTIZE:
            continue
        quantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if quantizer is None or operator(quantizer) != QUANTIZE:
            continue
        source, value = quantizer.inputs[0], node.outputs[0]
        assert source is not None
        if is_of_images(source):
            continue
        for user, position in list(value.uses()):
            if user.name not in chosen:
                user.replace_input_with(position, source)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's advice from the terminal: without a handler, Python would print it."""
    handler, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
