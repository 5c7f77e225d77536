"""What this machine lacks to run models on an NVIDIA GPU, and published files on one, as Triton's backends run them."""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from builder.batching import add_batch_axis
from builder.lowering import Runtime
from builder.model import load
from builder.samples import draw
from builder.tensors import Arrays

Run = Callable[[Arrays], Arrays]


@cache
def missing_gpu() -> str:
    """Return why this process has no GPU, as the reason of a test that is skipped; nothing if it has one."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "needs an NVIDIA GPU: there is no driver (libcuda.so.1)"
    count = ctypes.c_int()
    if (error := cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))) or count.value < 1:
        return f"needs an NVIDIA GPU: the driver finds none (CUDA error {error})"
    return ""


@cache
def missing_cuda_provider() -> str:
    """Return why ONNX Runtime cannot use a GPU here, as the reason of a test that is skipped; nothing if it can."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return missing_gpu() or "needs ONNX Runtime's provider for CUDA: pip install onnxruntime-gpu"
    return missing_gpu()


def open_onnx(path: Path, *, on_gpu: bool) -> tuple[Run, str]:
    """Open an ONNX file as Triton's backend does for `KIND_GPU` or `KIND_CPU`; return what runs it, and where.

    On a GPU, it is first tried whether each node can run there. Without TF32, which Triton's backend does not use
    either unless it is asked to.
    """
    if not on_gpu:
        return _open(path, ["CPUExecutionProvider"], is_strict=False), "CPU"
    onnxruntime.preload_dlls()  # from the packages of NVIDIA, where they are installed
    cuda = ("CUDAExecutionProvider", {"use_tf32": 0})
    try:
        return _open(path, [cuda], is_strict=True), "GPU"
    except Exception:  # ONNX Runtime's own exceptions share no base class
        return _open(path, [cuda, "CPUExecutionProvider"], is_strict=False), "GPU and CPU"


def _open(path: Path, providers: list[Any], *, is_strict: bool) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The level that fp16 models are published with: with all optimizations, ONNX Runtime crashes for some of them.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if is_strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if providers != ["CPUExecutionProvider"] and "CUDAExecutionProvider" not in session.get_providers():
        raise RuntimeError("ONNX Runtime could not load its provider for CUDA")
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def int8_options(model: Path, folder: Path, runtime: Runtime) -> dict[str, Any]:
    """Return options of `PublishOptions` for int8, with calibration data that is drawn: it only has to be there."""
    file = folder / f"{model.stem}.calibration.npz"
    np.savez(file, **next(draw(add_batch_axis(load(model)), rows=64)))
    return {"calibration": file, "runtime": runtime, "min_speedup": 0.0}


def inputs_of(reference: Arrays, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the first samples of a reference as one batch, from the start again where there are too few."""
    return {
        key.removeprefix("input:"): np.resize(array, (rows, *array.shape[1:]))
        for key, array in reference.items()
        if key.startswith("input:")
    }


def outputs_of(reference: Arrays, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the answers to `inputs_of(reference, rows)`."""
    return {
        key.removeprefix("output:"): np.resize(array, (rows, *array.shape[1:]))
        for key, array in reference.items()
        if key.startswith("output:")
    }


def largest_error(found: Arrays, right: Arrays) -> float:
    """Return the largest difference of a number, as a part of the largest value of its output."""
    parts = [
        float(np.abs(found[name].astype(np.float64) - array).max()) / max(float(np.abs(array).max()), 1e-30)
        for name, array in right.items()
        if array.dtype.kind == "f"
    ]
    return max(parts, default=0.0)
