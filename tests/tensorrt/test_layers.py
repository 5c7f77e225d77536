"""The data types of layers, as the inspectors and the logs of different releases show them."""

from typing import Any

from builder.tensorrt import read_formats
from builder.tensorrt.layers import read_log


def test_the_precision_is_read_from_the_layers_of_the_engine() -> None:
    """The layers are printed as the engine inspectors of several releases do."""
    layers: list[dict[str, Any]] = [
        {
            "Name": "a",
            "Outputs": [{"Name": "t", "Dimensions": [1, 8], "Format/Datatype": "Row major linear FP16 format"}],
        },
        {"Name": "b", "Outputs": [{"Name": "u", "Format/Datatype": "Half"}, {"Name": "v", "Format/Datatype": "Float"}]},
        {"Name": "c", "Outputs": [{"Name": "w", "Format/Datatype": "BFloat16"}]},
        {"Name": "d", "Outputs": [{"Name": "w", "Format/Datatype": "N/A due to dynamic shapes"}]},
        {"Name": "e"},
    ]
    assert read_formats(layers) == {"FP16": 1, "Half": 1, "Float": 1, "BFloat16": 1, "other": 1}


def test_tensorrt_11_names_the_type_apart_from_the_format() -> None:
    """Its inspector lists a layer as its log does; `Format/Datatype` is gone."""
    outputs = [
        {"Name": "t", "Dimensions": [1, 8], "Datatype": "Half", "Format": "(Linear) Row major linear format"},
        {"Name": "u", "Dimensions": [1, 8], "Datatype": "Something", "Format": "(NHWC) Channel major format"},
    ]
    assert read_formats([{"Name": "a", "Outputs": outputs}]) == {"Half": 1, "other": 1}


LISTED = """Layers:
Name: a, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,4], Datatype: Float, Format: (Linear) Row major linear \
format }], Constants: [], Outputs: [ { Name: t, Dimensions: [1,4], Datatype: Half, Format: (Linear) Row major linear \
format }, { Name: u, Dimensions: [1,4], Datatype: Int32, Format: (Linear) Row major linear format }], TacticName: \
__myl_Cast, StreamId: 0, Metadata: [ONNX Layer: c]
Name: b, LayerType: gemm, Inputs: [ { Name: t, Dimensions: [1,4], Datatype: Half, Format: ? }], Constants: [ { Name: \
w, Datatype: Half }], Outputs: [ { Name: y, Dimensions: [1,4], Datatype: Half, Format: ? }], TacticName: , StreamId: 0

I/O Tensors:
 Name: x, IOMode: Input, DataType: Float, Dimensions: [1,4], Location: Device
"""


def test_the_precision_is_read_from_the_log_of_a_build() -> None:
    assert read_log(["Graph optimization time: 0.1 s", LISTED]) == {"Half": 2, "Int32": 1}
    assert read_log(["Engine Layer Information:\nLayer(kgen): a, Tactic: 0x1, x (Float[1,4]) -> t (Half[1,4])"]) == {}
