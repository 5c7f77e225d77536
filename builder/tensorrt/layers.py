"""Read the data types of the layers of a plan, from its engine or from what the compiler says when it builds it."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from builder.tensorrt.library import Library

KNOWN = ("BFloat16", "BF16", "Half", "FP16", "Float", "FP32", "Int8", "Int32", "Int64", "Bool", "FP8", "UInt8")
"""The names of data types, of which the inspectors of different releases have two for some."""

LAYERS = "Layers:\n"
"""How the message begins in which the compiler lists the layers of a plan."""


def count_formats(engine: Any, library: Library) -> Counter[str]:
    """Count the outputs of layers by data type, as the engine reports them.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-tools.html
    """
    form = library.module.LayerInformationFormat.JSON
    report = json.loads(engine.create_engine_inspector().get_engine_information(form))
    layers = [layer for layer in report["Layers"] if isinstance(layer, dict)]
    return read_formats(layers)


def read_formats(layers: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Count the data types of the layers' outputs; what names none of them counts as "other".

    TensorRT 10 has them in `Format/Datatype`, where `Row major linear FP16 format` counts as `FP16`, and `N/A due to
    dynamic shapes` as `other`. TensorRT 11 has them in `Datatype`.
    """
    found: Counter[str] = Counter()
    for layer in layers:
        for output in layer.get("Outputs", ()):
            words = re.split(r"[^A-Za-z0-9]+", str(output.get("Datatype", output.get("Format/Datatype", ""))))
            found.update([next((word for word in reversed(words) if word in KNOWN), "other")])
    return found


def read_log(messages: Iterable[str]) -> Counter[str]:
    """Count the data types of the layers' outputs, as the compiler lists them in detail when it has built a plan.

    TensorRT for RTX shows `Name: a, LayerType: kgen, Inputs: [...], Constants: [...], Outputs: [ { Name: b, ...,
    Datatype: Half, Format: ... }], TacticName: ...`, one layer on each line. Nothing is counted if there is no such
    list, as with `Layer(kgen): a, Tactic: ..., b (Float[...]) -> c (Half[...])` of TensorRT 10.
    """
    found: Counter[str] = Counter()
    for message in messages:
        if message.startswith(LAYERS):
            for line in message.splitlines():
                if line.startswith("Name: ") and ", LayerType: " in line:
                    found.update(_outputs(line))
    return found


def _outputs(line: str) -> list[str]:
    """Return the data types of the outputs in a line of the list of layers."""
    outputs = line.partition(", Outputs: [")[2].rpartition("], TacticName: ")[0]
    types = re.findall(r", Datatype: (\w+)", outputs)
    return [word if word in KNOWN else "other" for word in types]
