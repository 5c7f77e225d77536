"""Export one 3x3 convolution three times: with no dynamic axis, with axis 0, and with axes 2 and 3.

    pip install torch onnxscript
    python tests/models/make_convolution.py

The answers of the module itself, for the inputs that the tests feed, are kept beside them.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
DYNAMIC: Mapping[str, Mapping[int, str]] = {
    "static": {},
    "axis_0": {0: "batch"},
    "axes_2_3": {2: "height", 3: "width"},
}
SHAPES = [(1, 3, 10, 10), (2, 3, 10, 10), (1, 3, 20, 20)]


def convolution() -> torch.nn.Module:
    """Return the same convolution every time."""
    torch.manual_seed(3)
    return torch.nn.Conv2d(3, 4, 3).eval()


def export(folder: Path, *, dynamo: bool) -> None:
    """Write `convolution_NAME.onnx` for each choice of dynamic axes."""
    module = convolution()
    for name, axes in DYNAMIC.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the older exporter warns that it is the older one
            torch.onnx.export(
                module,
                # torch.export takes a size of 1 for a constant
                (torch.ones(2 if 0 in axes else 1, 3, 10, 10),),
                folder / f"convolution_{name}.onnx",
                input_names=["x"],
                output_names=["y"],
                dynamo=dynamo,
                external_data=False,
                verbose=False,
                **({"dynamic_shapes": ({**axes},)} if dynamo else {"dynamic_axes": {"x": {**axes}}}),
            )


def answers() -> dict[str, np.ndarray[Any, Any]]:
    """Return an input of each shape, and what the module answers."""
    rng = np.random.default_rng(3)
    module = convolution()
    found: dict[str, np.ndarray[Any, Any]] = {}
    for shape in SHAPES:
        x = rng.standard_normal(shape).astype(np.float32)
        with torch.no_grad():
            name = "x".join(map(str, shape))
            found |= {f"x:{name}": x, f"y:{name}": module(torch.from_numpy(x)).numpy()}
    return found


if __name__ == "__main__":
    export(HERE, dynamo=False)
    np.savez_compressed(HERE / "convolution.npz", **answers())
