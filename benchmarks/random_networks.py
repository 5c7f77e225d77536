"""Make static networks with random weights in realistic sizes, without a training framework.

`resnet50()` has the layers, parameters (25.6 million) and cost (4.1 GFLOP at 224 x 224) of the real network, with the
batch normalizations folded into the convolutions, as exporters do.
Source: He et al., Deep Residual Learning for Image Recognition, table 1; the stride is on the 3x3 convolution.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CACHE = Path(__file__).parent / ".cache"
OPSET = 17
INPUT, OUTPUT = "input.1", "495"
"""Names such as an exporter gives."""


class Network:
    """A graph that is built node by node: every method takes the name of a value and returns that of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node with one output."""
        output = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"/{output}", **attributes))
        return output

    def weight(self, *shape: int, gain: float = 2.0) -> str:
        """Add random weights that keep the variance of the values that pass through them (times gain / 2)."""
        fan_in = math.prod(shape[1:])
        values = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(gain / fan_in))
        return self.constant(values)

    def constant(self, values: np.ndarray) -> str:  # type: ignore[type-arg]
        """Add an initializer."""
        name = f"onnx::{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, channels: tuple[int, int], kernel: int, *, stride: int = 1, gain: float = 2.0) -> str:
        """Convolve `[N, in, h, w]` to `[N, out, h/stride, w/stride]`."""
        inputs, outputs = channels
        weight = self.weight(outputs, inputs, kernel, kernel, gain=gain)
        bias = self.constant(np.zeros(outputs, np.float32))
        pads = [kernel // 2] * 4
        return self.node("Conv", [x, weight, bias], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def dense(self, x: str, inputs: int, outputs: int, *, output: str | None = None) -> str:
        """Map `[N, inputs]` to `[N, outputs]`, with the given name for the result if there is one."""
        weight, bias = self.weight(outputs, inputs), self.constant(np.zeros(outputs, np.float32))
        name = self.node("Gemm", [x, weight, bias], transB=1)
        if output is not None:
            self.nodes[-1].output[:] = [output]
        return output or name

    def bottleneck(self, x: str, inputs: int, width: int, *, stride: int) -> str:
        """Add 1x1, 3x3 and 1x1 convolutions with a shortcut, to `4 * width` channels."""
        outputs = 4 * width
        branch = self.node("Relu", [self.conv(x, (inputs, width), 1)])
        branch = self.node("Relu", [self.conv(branch, (width, width), 3, stride=stride)])
        branch = self.conv(branch, (width, outputs), 1, gain=0.2)
        shortcut = x if inputs == outputs else self.conv(x, (inputs, outputs), 1, stride=stride, gain=1.0)
        return self.node("Relu", [self.node("Add", [branch, shortcut])])

    def model(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> onnx.ModelProto:
        """Return the model of all nodes so far."""
        inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, input_shape)]
        outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, output_shape)]
        graph = helper.make_graph(self.nodes, "main_graph", inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def resnet(blocks: Sequence[int], *, width: int, image_size: int, classes: int) -> onnx.ModelProto:
    """Return a network of bottleneck blocks, `float32[1, 3, size, size]` to `float32[1, classes]`."""
    network = Network()
    x = network.node("Relu", [network.conv(INPUT, (3, width), 7, stride=2)])
    x = network.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            x = network.bottleneck(x, channels, width << stage, stride=stride)
            channels = 4 * (width << stage)
    x = network.node("GlobalAveragePool", [x])
    x = network.node("Reshape", [x, network.constant(np.array([1, channels], np.int64))])
    network.dense(x, channels, classes, output=OUTPUT)
    return network.model([1, 3, image_size, image_size], [1, classes])


def perceptron(widths: Sequence[int]) -> onnx.ModelProto:
    """Return dense layers with ReLU between them, `float32[1, widths[0]]` to `float32[1, widths[-1]]`."""
    network = Network()
    x = INPUT
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        x = network.node("Relu", [network.dense(x, inputs, outputs)])
    network.dense(x, widths[-2], widths[-1], output=OUTPUT)
    return network.model([1, widths[0]], [1, widths[-1]])


def resnet50() -> Path:
    """Return the file of a network as large as the real one, 102 MB."""
    return _cached("resnet50", lambda: resnet((3, 4, 6, 3), width=64, image_size=224, classes=1000))


def resnet26_small() -> Path:
    """Return the file of a network that takes a few milliseconds on two cores."""
    return _cached("resnet26_small", lambda: resnet((2, 2, 2, 2), width=32, image_size=96, classes=100))


def ranker() -> Path:
    """Return the file of a small model whose 11 MB of weights take longer to read than one row takes to compute."""
    return _cached("ranker", lambda: perceptron((256, 1024, 1024, 1024, 256, 10)))


def _cached(name: str, make: Callable[[], onnx.ModelProto]) -> Path:
    path = CACHE / f"{name}.onnx"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        onnx.save(make(), path)
    return path
