"""Triton's `onnxruntime` backend in Python, which runs ONNX models on the CPU by the rules of the C++ backend.

Triton runs this file in a separate process for each model instance. It compares the configuration with the model as the
C++ backend does, with the same error messages, so that a model that loads here also loads there.

Source: triton-inference-server/onnxruntime_backend, src/onnxruntime.cc and src/onnxruntime_utils.cc;
triton-inference-server/python_backend, README.md.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which writes $TMPDIR/.ses otherwise

import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

Array = np.ndarray[Any, Any]
Config = Mapping[str, Any]

DATA_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
"""The names of element types in ONNX Runtime and in the configuration."""

ONNX_TYPES = {"seq": "ONNX_TYPE_SEQUENCE", "map": "ONNX_TYPE_MAP", "sparse_tensor": "ONNX_TYPE_SPARSETENSOR"}

GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

UNSUPPORTED = ("sequence_batching", "batch_input", "batch_output")
"""Settings that this backend does not implement."""

ORT_ERRORS = [error for error in vars(ort_errors).values() if isinstance(error, type) and issubclass(error, Exception)]
RUN_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, ValueError, RuntimeError)
"""What ONNX Runtime raises when it cannot open a model or run a request; its own exceptions share no base class."""


DEFAULT_MAX_BATCH_SIZE = 4
"""The max_batch_size of a model that has a batch, where its configuration gives none."""


class TritonPythonModel:
    """One instance of one version of a model, with an ONNX Runtime session of its own."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Complete a configuration from the model, if it lists no inputs or no outputs. Triton calls this by its name.

        Raises:
            TritonModelException: It has a batch, and the model has none; or ONNX Runtime cannot open the model.
        """
        config = auto_complete_model_config.as_dict()
        if config["input"] and config["output"]:
            return auto_complete_model_config
        try:
            session = open_session(config, path_given_to_this_process())
        except RUN_ERRORS as error:
            raise pb_utils.TritonModelException(str(error)) from None
        complete(auto_complete_model_config, session)
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the model and check it against its configuration.

        Raises:
            TritonModelException: They contradict each other, or ONNX Runtime cannot open the model.
        """
        config = json.loads(args["model_config"])
        try:
            session = open_session(config, model_path(config, args))
        except RUN_ERRORS as error:
            raise pb_utils.TritonModelException(str(error)) from None
        check(config, session)
        self._run = session.run
        self._batches = config["max_batch_size"] > 0
        self._outputs = [output["name"] for output in config["output"]]
        self._strings = {io["name"] for io in config["input"] if io["data_type"] == "TYPE_STRING"}
        shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
        self._scalars = {
            io["name"]: io_dims(io) for io in (*config["input"], *config["output"]) if shapes.get(io["name"]) == []
        }

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one dynamic batch, in order."""
        if len(requests) > 1:
            with suppress(*RUN_ERRORS):  # one of the requests is bad; run alone, the others succeed
                return self._answer_together(requests)
        return [self._answer_alone(request) for request in requests]

    def _answer_together(self, requests: Sequence[Any]) -> list[Any]:
        """Run all requests as one batch: concatenate their inputs and split the outputs along axis 0."""
        feeds = [self._feed(request) for request in requests]
        rows = [len(next(iter(feed.values()))) for feed in feeds]
        wanted = [request.requested_output_names() for request in requests]
        names = [name for name in self._outputs if any(name in some for some in wanted)]
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        outputs = self._infer(names, joined, sum(rows))
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, array[end - count : end]) for name, array in outputs if name in some]
            )
            for count, end, some in zip(rows, accumulate(rows), wanted, strict=True)
        ]

    def _answer_alone(self, request: Any) -> Any:
        try:
            feed = self._feed(request)
            wanted = request.requested_output_names()
            names = [name for name in self._outputs if name in wanted]
            rows = len(next(iter(feed.values()))) if self._batches else None
            outputs = self._infer(names, feed, rows)
        except RUN_ERRORS as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs])

    def _feed(self, request: Any) -> dict[str, Array]:
        feed = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        for name in self._strings & feed.keys():
            feed[name] = decoded(feed[name])
        for name in self._scalars.keys() & feed.keys():
            feed[name] = feed[name].reshape(())
        return feed

    def _infer(self, names: Sequence[str], feed: Mapping[str, Array], rows: int | None) -> list[tuple[str, Array]]:
        """Run the model.

        Raises:
            ValueError: `rows` is given, and an output does not have that many.
        """
        outputs = list(zip(names, self._run(names, feed), strict=True))
        for position, (name, array) in enumerate(outputs):
            if name in self._scalars:
                outputs[position] = name, array.reshape(self._scalars[name])
            elif rows is not None and array.shape[:1] != (rows,):
                raise ValueError(f"output '{name}' has shape {list(array.shape)} for a batch of {rows}")
        return outputs


def decoded(strings: Array) -> Array:
    """Turn strings as Triton gives them, `bytes[*shape]`, into those that ONNX Runtime expects, `str[*shape]`."""
    decoded = np.array([string.decode() for string in strings.ravel()], dtype=np.object_)
    return decoded.reshape(strings.shape)


def model_path(config: Config, args: Mapping[str, str]) -> Path:
    """Return the .onnx file: `default_model_filename` in the version's directory, or `model.onnx` inside that."""
    filename = config.get("default_model_filename") or "model.onnx"
    path = Path(args["model_repository"], args["model_version"], filename)
    path = path / "model.onnx" if path.is_dir() else path
    if not path.exists():
        raise pb_utils.TritonModelException(f"unable to find '{path}' for model instance '{config['name']}'")
    return path


def path_given_to_this_process() -> Path:
    """Return the .onnx file of the version whose configuration is completed: Triton passes it to the process only."""
    arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    path = Path(os.fsdecode(arguments[1]))
    return path / "model.onnx" if path.is_dir() else path


def complete(completing: Any, session: ort.InferenceSession) -> None:
    """Complete a configuration as the C++ backend does.

    It has a batch if the first dimension of every input and output varies, also where it says `max_batch_size: 0`.

    Args:
        completing: Triton's object for it.
        session: The model.

    Raises:
        TritonModelException: It has a batch, and the model has none.

    Source: AutoCompleteConfig in
    https://github.com/triton-inference-server/onnxruntime_backend/blob/main/src/onnxruntime.cc
    """
    config = completing.as_dict()
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if all(value.shape and not isinstance(value.shape[0], int) for value in (*inputs, *outputs)):
        completing.set_max_batch_size(config["max_batch_size"] or DEFAULT_MAX_BATCH_SIZE)
        if config["max_batch_size"] > 1 and "sequence_batching" not in config:
            completing.set_dynamic_batching()
    elif config["max_batch_size"]:
        raise pb_utils.TritonModelException(
            f"autofill failed for model '{config['name']}': model does not support batching while non-zero "
            "max_batch_size is specified"
        )
    has_batch = config["max_batch_size"] > 0
    if not config["input"]:
        add_tensors(completing.add_input, inputs, has_batch=has_batch)
    if not config["output"]:
        add_tensors(completing.add_output, outputs, has_batch=has_batch)


def add_tensors(add: Callable[[dict[str, Any]], None], values: Sequence[ort.NodeArg], *, has_batch: bool) -> None:
    """List the inputs or outputs of the model. One value in each row is shown to clients as one of dims [1]."""
    for value in values:
        dims = [dim if isinstance(dim, int) else -1 for dim in value.shape[has_batch:]]
        data_type = DATA_TYPES.get(value.type, "TYPE_INVALID")
        entry: dict[str, Any] = {"name": value.name, "data_type": data_type, "dims": dims or [1]}
        add(entry)
        if not dims and has_batch:
            entry["reshape"] = {"shape": []}


def open_session(config: Config, path: Path) -> ort.InferenceSession:
    """Open the model with the settings in its configuration.

    Triton, and often its clients, use the same cores as the model. So the default for the number of threads is an even
    share of the cores for each instance (ONNX Runtime would give all cores to each one), and idle threads do not spin.
    """
    options = ort.SessionOptions()
    level = config.get("optimization", {}).get("graph", {}).get("level", 0)
    options.graph_optimization_level = GRAPH_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    options.execution_mode = execution_mode(config)
    options.intra_op_num_threads = max(0, integer(config, "intra_op_thread_count")) or fair_share(config)
    options.inter_op_num_threads = max(0, integer(config, "inter_op_thread_count"))
    options.enable_cpu_mem_arena = boolean(config, "enable_mem_arena")
    options.enable_mem_pattern = boolean(config, "enable_mem_pattern")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def execution_mode(config: Config) -> ort.ExecutionMode:
    """Return whether the nodes of the graph run one after the other (0) or in parallel (1)."""
    mode = integer(config, "execution_mode")
    if mode not in (0, 1):
        raise pb_utils.TritonModelException(
            f"Invalid configuration value provided. Expected values for execution_mode are 0 or 1 but got {mode}."
        )
    return ort.ExecutionMode.ORT_PARALLEL if mode else ort.ExecutionMode.ORT_SEQUENTIAL


def fair_share(config: Config) -> int:
    """Return the number of cores for each instance of this model, at least 1.

    The server is told how many cores its container allows, which may be fewer than those that it runs on.
    """
    instances: int = sum(group["count"] for group in config["instance_group"])
    cores = int(os.environ.get("BUILDER_CORES", 0)) or len(os.sched_getaffinity(0))
    return max(1, cores // instances)


def integer(config: Config, parameter: str) -> int:
    """Return a parameter as a number, 0 if it is not set."""
    text = config.get("parameters", {}).get(parameter, {"string_value": "0"})["string_value"]
    if not re.fullmatch(r"\s*[-+]?\d+\s*", text):
        raise pb_utils.TritonModelException(f"failed to convert '{text}' to int, given for {parameter}")
    return int(text)


def boolean(config: Config, parameter: str) -> bool:
    """Return a parameter as a truth value, True if it is not set."""
    text = config.get("parameters", {}).get(parameter, {"string_value": "1"})["string_value"].lower()
    if text not in ("0", "1", "false", "true", "off", "on"):
        raise pb_utils.TritonModelException(f"failed to convert '{text}' to bool, given for {parameter}")
    return text in ("1", "true", "on")


def check(config: Config, session: ort.InferenceSession) -> None:
    """Compare the configuration with the model.

    Raises:
        TritonModelException: They contradict each other.
    """
    fault = next(faults(config, session), None)
    if fault is not None:
        raise pb_utils.TritonModelException(fault)


def faults(config: Config, session: ort.InferenceSession) -> Iterator[str]:
    """Yield every contradiction, in the words and the order of the C++ backend."""
    for key in UNSUPPORTED:
        if config.get(key):
            yield f"'{key}' is not supported by the embedded server's onnxruntime backend"
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for value in (*inputs, *outputs):
        if not value.type.startswith("tensor("):
            kind = ONNX_TYPES.get(value.type.partition("(")[0], "ONNX_TYPE_UNKNOWN")
            yield f"Unsupported ONNX Type '{kind}' for I/O '{value.name}', expected 'ONNX_TYPE_TENSOR'."
    yield from input_faults(config, inputs, session.get_overridable_initializers())
    yield from output_faults(config, outputs)


def input_faults(config: Config, inputs: Sequence[ort.NodeArg], initializers: Sequence[ort.NodeArg]) -> Iterator[str]:
    """Check that every input is configured once. Initializers that are also inputs may be configured as optional."""
    model = config["name"]
    required = [io["name"] for io in config["input"] if not io["optional"]]
    if len(set(required)) != len(inputs):
        yield (
            f"unable to load model '{model}', configuration expects {len(set(required))} inputs, "
            f"model provides {len(inputs)}"
        )
    values = {value.name: value for value in (*inputs, *initializers)}
    for io in config["input"]:
        if io["optional"] and config["max_batch_size"] > 0:
            yield (
                f"unable to load model '{model}', optional input '{io['name']}' is not supported for models "
                "that support batching"
            )
        if io["allow_ragged_batch"]:
            yield f"ragged input '{io['name']}' is not supported by the embedded server's onnxruntime backend"
        yield from tensor_faults(config, io, "input", values, exact=False)


def output_faults(config: Config, outputs: Sequence[ort.NodeArg]) -> Iterator[str]:
    """Check that every configured output is an output of the model."""
    values = {value.name: value for value in outputs}
    for io in config["output"]:
        yield from tensor_faults(config, io, "output", values, exact=True)


def tensor_faults(
    config: Config, io: Config, role: str, values: Mapping[str, ort.NodeArg], *, exact: bool
) -> Iterator[str]:
    """Compare one configured input or output with the model's."""
    model, name, data_type = config["name"], io["name"], io["data_type"]
    if name not in values:
        yield f"unexpected inference {role} '{name}', allowed {role}s are: {', '.join(sorted(values))}"
        return
    provided = DATA_TYPES.get(values[name].type, "TYPE_INVALID")
    if data_type not in DATA_TYPES.values():
        yield f"unsupported datatype {data_type} for {role} '{name}' for model '{model}'"
    elif data_type != provided:
        yield (
            f"unable to load model '{model}', configuration expects datatype {data_type} for {role} "
            f"'{name}', model provides {provided}"
        )
    shape = [dim if isinstance(dim, int) else -1 for dim in values[name].shape]
    yield from shape_faults(config, name, shape, io_dims(io), exact=exact)


def io_dims(io: Config) -> list[int]:
    """Return the dims that the model gets: those of `reshape` if it is given, or else `dims`."""
    dims = io["reshape"]["shape"] if "reshape" in io else io["dims"]
    return [int(dim) for dim in dims]


def shape_faults(config: Config, name: str, shape: list[int], dims: list[int], *, exact: bool) -> Iterator[str]:
    """Compare `dims` with the model's shape, where -1 is a symbolic dimension.

    For an input, a symbolic dimension accepts any number. For an output, which is compared `exact`, only -1.
    """
    tensor = f"model '{config['name']}', tensor '{name}'"
    batches = config["max_batch_size"] > 0
    if not shape and not batches:
        if any(dim != 1 for dim in dims):
            yield (
                f"unable to load model '{config['name']}', scalar tensor '{name}', should only provide 1 in "
                "the model configuration when the model doesn't support batching. Model configuration provided: "
                f"{listed(dims)}."
            )
        return
    if batches and shape[:1] != [-1]:
        yield (
            f"{tensor}: for the model to support batching the shape should have at least 1 dimension and the "
            f"first dimension must be -1; but shape expected by the model is {listed(shape)}"
        )
    full = [-1, *dims] if batches else dims
    fits = [model_dim == dim or (model_dim == -1 and not exact) for model_dim, dim in zip(shape, full, strict=False)]
    if len(shape) != len(full) or not all(fits):
        initial = (
            "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, "
            "making complete shape "
        )
        yield (
            f"{tensor}: the model expects {len(shape)} dimensions (shape {listed(shape)}) but the model "
            f"configuration specifies {len(full)} dimensions "
            f"({initial if batches else 'shape '}{listed(full)})"
        )


def listed(dims: Sequence[int]) -> str:
    """Return a shape as Triton writes it: `[-1,3,224]`."""
    return f"[{','.join(map(str, dims))}]"
