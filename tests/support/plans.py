"""Models whose plans are tried, their profiles, and whether this machine can build a plan."""

from pathlib import Path

from builder.batching import BatchedModel, add_batch_axis, free_axes
from builder.config import Shapes
from builder.config.profiles import parse
from builder.errors import HostError
from builder.tensorrt import find_host
from support.by_hand import original

MODELS = Path(__file__).parents[1] / "models"

WEIGHTS = "float[4, 3] w = {0.5, -0.25, 1.0, 0.75, 0.5, -0.5, -1.0, 0.25, 0.5, 0.1, 0.2, 0.3}"


def has_host() -> bool:
    try:
        find_host()
    except HostError:
        return False
    return True


HAS_HOST = has_host()
"""Whether there are a GPU, TensorRT and Polygraphy."""


def small(folder: Path) -> BatchedModel:
    """Return a model of `x: float[batch, 4]` with one MatMul."""
    return add_batch_axis(original(folder, f"g (float[1, 4] x) => (float[1, 3] y) <{WEIGHTS}> {{ y = MatMul (x, w) }}"))


def long(folder: Path) -> BatchedModel:
    """Return a model of `x: float[batch, length, 2]`, where the original has length 6."""
    text = "g (float[1, 6, 2] x) => (float[1, 6, 2] y) { y = Softmax <axis = 1> (x) }"
    return free_axes(add_batch_axis(original(folder, text)), {"x": {1: "length"}})


def ask(*texts: str) -> tuple[tuple[str, Shapes], ...]:
    """Return profiles as `--profile` gives them."""
    return tuple(map(parse, texts))
