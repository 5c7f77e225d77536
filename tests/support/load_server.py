"""A small model repository made by hand, and real servers on it, for the tests of the load tester."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from builder.server import Server

ROWS = 24
DIMS = 5
CLASSES = 3

_CONFIG = """
name: "{name}"
backend: "onnxruntime"
max_batch_size: {max_batch_size}
input [ {{ name: "image" data_type: TYPE_FP32 dims: [ {input_dims} ] }} ]
output [
  {{ name: "scores" data_type: TYPE_FP32 dims: [ {output_dims} ] }},
  {{ name: "label" data_type: TYPE_INT64 dims: [ {label_dims} ] }}
]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}
version_policy {{ {policy} }}
{batching}
"""

BATCHING = "dynamic_batching { max_queue_delay_microseconds: 3000 }"
"""Users who get no answer sooner leave the machine to other tests: a load test would take all of it otherwise."""


def classifier(seed: int, *, batch: int | None = None) -> onnx.ModelProto:
    """`image` FP32[batch, 5] -> `scores` FP32[batch, 3], `label` INT64[batch, 1]; the batch is free by default."""
    weights = np.random.default_rng(seed).standard_normal((DIMS, CLASSES)).astype(np.float32)
    size: Any = "batch" if batch is None else batch
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["image", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=-1, keepdims=1),
        ],
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [size, DIMS])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [size, CLASSES]),
            helper.make_tensor_value_info("label", TensorProto.INT64, [size, 1]),
        ],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_version(
    repository: Path,
    name: str = "classifier",
    version: int = 1,
    *,
    seed: int = 0,
    max_batch_size: int = 16,
    served: Sequence[int] | None = None,
) -> Path:
    """Write what publishing writes: model, reference, manifest and config; `served` defaults to `version`."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    model = classifier(seed, batch=None if max_batch_size else 1)
    write_model(folder, model)
    write_reference(folder, model, max_batch_size=max_batch_size)
    write_config(repository, name, max_batch_size=max_batch_size, served=served or [version])
    return folder


def write_model(folder: Path, model: onnx.ModelProto) -> None:
    """Write the model, over one that is there."""
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def write_reference(folder: Path, model: onnx.ModelProto, *, max_batch_size: int = 16) -> None:
    """Run ONNX Runtime on random rows; write them with the answers, and a manifest."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(7).standard_normal((ROWS, DIMS)).astype(np.float32)
    answers = [session.run(["scores", "label"], {"image": row[np.newaxis]}) for row in images]
    scores, labels = (np.stack([answer[i] for answer in answers]) for i in range(2))
    if max_batch_size:
        scores, labels = scores[:, 0], labels[:, 0]
    else:
        images = images[:, np.newaxis]
    arrays = {"input:image": images, "output:scores": scores, "output:label": labels}
    np.savez(folder / "reference.npz", **arrays)
    write_manifest(folder, max_batch_size=max_batch_size)


def write_manifest(folder: Path, *, max_batch_size: int = 16) -> None:
    """Write the part of a manifest that load tests read."""
    lead = [] if max_batch_size else [1]
    manifest = {
        "format": 1,
        "max_batch_size": max_batch_size,
        "inputs": [{"name": "image", "data_type": "TYPE_FP32", "dims": [*lead, DIMS]}],
        "outputs": [
            {"name": "scores", "data_type": "TYPE_FP32", "dims": [*lead, CLASSES]},
            {"name": "label", "data_type": "TYPE_INT64", "dims": [*lead, 1]},
        ],
        "proof": {"rows": ROWS, "outputs": {"scores": {"rtol": 1e-4, "atol": 1e-6}}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_config(repository: Path, name: str, *, max_batch_size: int = 16, served: Sequence[int]) -> None:
    """Write config.pbtxt, with dynamic batching if the model takes batches."""
    lead = "" if max_batch_size else "1, "
    text = _CONFIG.format(
        name=name,
        max_batch_size=max_batch_size,
        input_dims=f"{lead}{DIMS}",
        output_dims=f"{lead}{CLASSES}",
        label_dims=f"{lead}1",
        policy=f"specific {{ versions: [ {', '.join(map(str, served))} ] }}",
        batching=BATCHING if max_batch_size else "",
    )
    (repository / name / "config.pbtxt").write_text(text)


def write_words(repository: Path) -> None:
    """The model `words`: `image` FP32[batch, 5] -> `word` BYTES[batch, 1], `high` BOOL[batch, 5], one of them True."""
    words = np.array(["null", "one", "größer", "drei", "4"], dtype=object)
    graph = helper.make_graph(
        [
            helper.make_node("ArgMax", ["image"], ["best"], axis=-1, keepdims=1),
            helper.make_node("Gather", ["words", "best"], ["word"]),
            helper.make_node("ReduceMax", ["image"], ["highest"], axes=[-1], keepdims=1),
            helper.make_node("GreaterOrEqual", ["image", "highest"], ["high"]),
        ],
        "words",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", DIMS])],
        [
            helper.make_tensor_value_info("word", TensorProto.STRING, ["batch", 1]),
            helper.make_tensor_value_info("high", TensorProto.BOOL, ["batch", DIMS]),
        ],
        [helper.make_tensor("words", TensorProto.STRING, [len(words)], [word.encode() for word in words])],
    )
    folder = repository / "words" / "1"
    folder.mkdir(parents=True)
    write_model(folder, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    images = np.random.default_rng(7).standard_normal((ROWS, DIMS)).astype(np.float32)
    best = images.argmax(axis=1)
    answers = {"output:word": words[best].astype(np.str_)[:, np.newaxis], "output:high": np.eye(DIMS, dtype=bool)[best]}
    np.savez(folder / "reference.npz", **{"input:image": images}, **answers)
    outputs = [("word", "TYPE_STRING", 1), ("high", "TYPE_BOOL", DIMS)]
    manifest = {
        "format": 1,
        "max_batch_size": 16,
        "inputs": [{"name": "image", "data_type": "TYPE_FP32", "dims": [DIMS]}],
        "outputs": [{"name": name, "data_type": kind, "dims": [size]} for name, kind, size in outputs],
        "proof": {"rows": ROWS, "outputs": {}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    described = ", ".join(f'{{ name: "{name}" data_type: {kind} dims: [ {size} ] }}' for name, kind, size in outputs)
    text = f"""name: "words" backend: "onnxruntime" max_batch_size: 16
    input [ {{ name: "image" data_type: TYPE_FP32 dims: [ {DIMS} ] }} ] output [ {described} ]
    instance_group [ {{ kind: KIND_CPU count: 1 }} ]"""
    (repository / "words" / "config.pbtxt").write_text(text)


def write_rare(repository: Path, rows: int = 10_000) -> None:
    """A model with a reference of 10,000 rows, changed afterwards so that it answers a single one wrongly."""
    folder = write_version(repository, "rare", seed=6)
    model = classifier(6)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(8).standard_normal((rows, 5)).astype(np.float32)
    scores, labels = session.run(["scores", "label"], {"image": images})
    np.savez(folder / "reference.npz", **{"input:image": images, "output:scores": scores, "output:label": labels})
    write_model(folder, corrupted(model, images[1234]))


def corrupted(model: onnx.ModelProto, victim: Any) -> onnx.ModelProto:
    """Return the same model, except that it adds 0.01 to the scores of the row `victim` (FP32[5])."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes = made.graph.node
    softmax = next(node for node in nodes if node.op_type == "Softmax")
    softmax.output[0] = "clean"
    constants = {"victim": victim, "five": np.array([4.5], np.float32), "off": np.array([0.01], np.float32)}
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    made.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    extra = [
        helper.make_node("Equal", ["image", "victim"], ["same"]),
        helper.make_node("Cast", ["same"], ["same_f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["same_f", "axis"], ["hits"], keepdims=1),
        helper.make_node("Greater", ["hits", "five"], ["is_victim"]),
        helper.make_node("Cast", ["is_victim"], ["is_victim_f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["is_victim_f", "off"], ["shift"]),
        helper.make_node("Add", ["clean", "shift"], ["scores"]),
    ]
    ordered = [*nodes[:2], *extra, *nodes[2:]]
    del nodes[:]
    nodes.extend(ordered)
    return made


@contextmanager
def serving(repository: Path, **options: Any) -> Iterator[Server]:
    """Run the embedded Triton on free ports. At the end it is killed: unloading its models would take 3 s."""
    with Server.start(repository, http_port=0, grpc_port=0, metrics_port=0, **options) as server:
        try:
            yield server
        finally:
            server._process.kill()
