"""Do only what `publish` cannot avoid, to find the least that publishing a model can cost.

    python benchmarks/floor.py ORIGINAL.onnx PUBLISHED.onnx REFERENCE.npz BATCHES.json OUT.onnx

It imports the libraries that `publish` imports, parses the model, and opens a session each for the original and the
rewritten file. It runs the original on every row of the reference, and the rewritten model on the batches (lists of
rows) that `publish` proves, and writes the bytes to disk. Threads do not spin, as in `publish`. Rewriting, comparing,
hashing and making the config are left out.
"""

import json
import os
import sys
from pathlib import Path

import click  # noqa: F401  the imports are part of the cost
import numpy as np
import onnx  # noqa: F401
import onnx_ir as ir
import onnxruntime
from tritonclient.grpc import model_config_pb2  # noqa: F401


def main(original: Path, published: Path, reference: Path, batches: Path, out: Path) -> None:
    """Do the work once."""
    ir.load(original)
    model_bytes = published.read_bytes()
    with np.load(reference) as arrays:
        inputs = {name.removeprefix("input:"): arrays[name] for name in arrays if name.startswith("input:")}

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    static = onnxruntime.InferenceSession(original, options, providers=["CPUExecutionProvider"])
    originals = [value.name for value in static.get_inputs()]
    for row in range(len(next(iter(inputs.values())))):
        rows = [array[row : row + 1] for array in inputs.values()]
        static.run(None, dict(zip(originals, rows, strict=True)))

    batched = onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
    for chosen in json.loads(batches.read_text()):
        batched.run(None, {name: array[chosen] for name, array in inputs.items()})

    with out.open("wb") as stream:
        stream.write(model_bytes)
        os.fsync(stream.fileno())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
