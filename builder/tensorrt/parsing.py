"""Let TensorRT parse an ONNX file, and find the nodes that its messages are about.

Polygraphy's own loader raises "Could not parse ONNX correctly" and logs the reasons, so the parser is called here. Each
of its errors has the node, the operator and the assertion that failed.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from builder.batching import BatchedModel
from builder.tensorrt.diagnosis import diagnosed
from builder.tensorrt.kinds import DECIDES_SHAPES, Asked, Complaint
from builder.tensorrt.messages import Log, printed, reasons

_IMPORTER = re.compile(r"import([A-Z]\w*)")
"""The parser's function for an operator: errors that do not name the operator name the function.

`importInput` is for an input of the graph. There, the input's name stands where the name of a source file should be.
"""

_BEFORE_NAME = r"(?:^|\.\.\.|[\[({'\"`+] ?|\b(?:node|layer|tensor|I[A-Z]\w*Layer|failed\.) )"
_AFTER_NAME = r"(?:_\d+)?(?=$|: |\.\.\.|[\])}'\"`,.;]| (?:has|must|is|in|\+|\[|\())"
"""What stands around the name of a node in a message. TensorRT names its layers after the nodes, with a number behind
the name if a node became several layers: `/r/LSTM_12 has no runners`, `{ForeignNode[/a/Conv.../b/Relu]}`."""

_OPERATION = re.compile(r"\bfor operation: \d+: \w+: (\S+)")
"""What the compiler calls an operation, among the names of many others: the name of a node, or of its output.

`Could not infer output types for operation: 382: deconv: /u/ConvTranspose_output_0_before_bias- | /d/Relu_output_0-(…`
"""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a model that TensorRT is given.

    Attributes:
        operators: Their operators, by name, in the order of the graph. The domain is part of it, unless it is ONNX's.
        original: The names of the nodes in the user's file.
    """

    operators: Mapping[str, str]
    original: Collection[str] = frozenset()

    @classmethod
    def of(cls, batched: BatchedModel) -> "Nodes":
        """List the nodes of a model, also those inside of other nodes and of functions."""
        operators = {
            str(node.name): f"{node.domain}.{node.op_type}".removeprefix(".")
            for node in _nodes(batched.ir)
            if node.name
        }
        return cls(operators, {str(node.name) for node in _nodes(batched.original.ir)})

    def complaint(self, reason: str, node: str = "", operator: str = "", tensor: str = "") -> Complaint:
        """Return a complaint about a node, with its operator and without its name in the reason."""
        if not node and operator:
            same = [name for name, found in self.operators.items() if found.rpartition(".")[2] == operator]
            node = same[0] if len(same) == 1 else ""
        if node:  # it is named before the reason, by itself and as a layer: "ITopKLayer /topk: /topk: K exceeds ..."
            reason = re.sub(rf"(?<![^\s:])(?:I\w+Layer )?{re.escape(node)}(?:_\d+)?: ", "", reason)
        is_added = node in self.operators and node not in self.original
        return Complaint(reason, node, self.operators.get(node, operator), tensor, is_added)

    def complaints(self, texts: Sequence[str]) -> list[Complaint]:
        """Return what messages of a build complain about, as far as they name nodes."""
        return [self.complaint(text, self._operation_in(text) or next(iter(self.named_in(text)), "")) for text in texts]

    def _operation_in(self, text: str) -> str:
        """Return the node that the message says it is about, if it says so."""
        called = _OPERATION.search(text)
        return max((name for name in self.operators if called and called[1].startswith(name)), key=len, default="")

    def named_in(self, text: str) -> tuple[str, ...]:
        """Return the nodes that a message names, in the order of the message; the longest where several names fit."""
        found: dict[int, str] = {}
        for name in self.operators:
            if name not in text:
                continue
            for match in re.finditer(f"{_BEFORE_NAME}({re.escape(name)}){_AFTER_NAME}", text):
                found[match.start(1)] = max(found.get(match.start(1), ""), name, key=len)
        return tuple(dict.fromkeys(found[place] for place in sorted(found)))


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def parse(file: Path, batched: BatchedModel, log: Log, asked: Asked | None = None) -> tuple[Any, Any, Any]:
    """Return TensorRT's builder, network and parser for an ONNX file, as Polygraphy's loaders take them.

    Args:
        file: The ONNX file. Its external weights lie beside it.
        batched: The model that was written to it.
        log: Where TensorRT logs to.
        asked: What decides the fix of an error.

    Raises:
        UnbuildableError: TensorRT refuses the model.
        HostError: TensorRT cannot parse any model here.
    """
    from polygraphy.backend.trt import CreateNetwork, get_trt_logger
    from polygraphy.exception import PolygraphyException
    from polygraphy.mod.trt_importer import lazy_import_trt

    where, trt = batched.original.path, lazy_import_trt()
    try:
        builder, network = CreateNetwork(strongly_typed=True)()
    except (PolygraphyException, TypeError) as error:  # pybind11's TypeError: "factory function returned nullptr"
        texts = log.errors or reasons([str(error)])
        raise diagnosed(where, "does not start", [Complaint(text) for text in texts], asked) from error
    trt.init_libnvinfer_plugins(get_trt_logger(), "")
    parser = trt.OnnxParser(network, get_trt_logger())
    with printed(2) as lines:  # "Unsupported ONNX data type: UINT32 (12)"
        succeeded = parser.parse_from_file(str(file))
    nodes = Nodes.of(batched)
    if succeeded and not parser.num_errors:
        # Polygraphy would take the shapes of a profile for the values of such an input.
        inputs = map(network.get_input, range(network.num_inputs))
        if shapes := [Complaint(DECIDES_SHAPES, tensor=found.name) for found in inputs if found.is_shape_tensor]:
            raise diagnosed(where, "cannot build a plan of the model", shapes, asked)
        return builder, network, parser
    complaints = [_complaint(parser.get_error(index), nodes) for index in range(parser.num_errors)]
    said = [_without(file.parent, text) for text in (*log.errors, *reasons(lines))]
    raise diagnosed(where, "cannot parse the model", complaints or nodes.complaints(said), asked)


def _complaint(error: Any, nodes: Nodes) -> Complaint:
    """Return the complaint of one ParserError.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/parsers/Onnx/pyOnnx.html#parsererror
    """
    reason = next(iter(reasons([error.desc()])), error.desc())
    importer = _IMPORTER.fullmatch(error.func() or "")
    name, operator = error.node_name() or "", error.node_operator() or ""
    if importer and importer[1] == "Input":
        return nodes.complaint(reason, tensor=error.file())
    if importer and not operator:
        operator = importer[1]
    return nodes.complaint(reason, name, operator)


def _without(folder: Path, text: str) -> str:
    """Return a message without the path of the temporary folder."""
    return text.replace(f"{folder}/", "")
