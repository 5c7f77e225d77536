"""Draw calibration data for a model: 32 random samples, so that int8 can be tried on a model without data.

    python plans_calibration.py MODEL.onnx FILE.npz [INPUT=AXIS]…

The numbers say nothing about the model's accuracy on real data. INPUT=AXIS is the axis of the batch where it is not 0.
A model whose batch cannot be made dynamic gets no file, and no complaint: `inspect` says why.
"""

import sys
from pathlib import Path

import numpy as np

from builder.batching import add_batch_axis
from builder.errors import BuilderError
from builder.model import load
from builder.samples import draw


def main() -> None:
    axes = {name: int(axis) for name, _, axis in (text.rpartition("=") for text in sys.argv[3:])}
    try:
        batched = add_batch_axis(load(Path(sys.argv[1])), batch_axes=axes)
    except BuilderError:
        return
    np.savez(sys.argv[2], **next(draw(batched, rows=32)))


if __name__ == "__main__":
    main()
