r"""Quantize a file as the documentation of a library shows it: what a user would do without this project.

    python int8_plain.py onnxruntime-static|onnxruntime-dynamic|modelopt IN.onnx CALIBRATION.npz OUT.onnx

It imports nothing of the project. ModelOpt needs other versions of onnx and ONNX Runtime than this project, so it is
run by the Python of an environment of its own:

    python3 -m venv modelopt
    modelopt/bin/pip install torch 'onnx~=1.21.0' 'onnxruntime~=1.24.2' onnx-graphsurgeon onnxslim onnxscript \
        'onnxconverter-common~=1.16.0' polygraphy cppimport lief omegaconf 'pulp<4' pydantic regex rich safetensors \
        scipy ninja nvidia-ml-py
    modelopt/bin/pip install --no-deps nvidia-modelopt==0.47.0

`--no-deps` leaves out cupy and onnxruntime-gpu, which it asks for and does not need on a CPU.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def named(model: Path, rows: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of each input by its name in the file; the inputs go by their order."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_inputs()], rows.values(), strict=True))


def static(model: Path, rows: Mapping[str, Any], target: Path) -> None:
    """Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static, shape_inference

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = len(next(iter(rows.values())))
            self.left: Iterator[dict[str, Any]] = ({n: v[i : i + 1] for n, v in rows.items()} for i in range(count))

        def get_next(self) -> "dict[str, Any] | None":
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        shape_inference.quant_pre_process(model, prepared)
        quantize_static(prepared, target, Rows())


def dynamic(model: Path, target: Path) -> None:
    """Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(model, target)


def modelopt(model: Path, rows: Mapping[str, Any], target: Path) -> None:
    """Source: https://nvidia.github.io/Model-Optimizer/guides/_onnx_quantization.html."""
    from modelopt.onnx.quantization import quantize

    options = {"quantize_mode": "int8", "calibration_eps": ["cpu"], "high_precision_dtype": "fp32"}
    quantize(str(model), calibration_data=dict(rows), output_path=str(target), **options)


def main() -> None:
    way, model, calibration, target = sys.argv[1], *map(Path, sys.argv[2:5])
    with np.load(calibration) as rows:
        inputs = named(model, dict(rows))
    if way == "onnxruntime-static":
        static(model, inputs, target)
    elif way == "onnxruntime-dynamic":
        dynamic(model, target)
    elif way == "modelopt":
        modelopt(model, inputs, target)
    else:
        raise SystemExit(f"no such way: {way}")


if __name__ == "__main__":
    main()
