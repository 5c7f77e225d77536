"""The four models that `tune` is measured with: what each is, and how large a p99 it may have.

`digits` is the example, a tiny network: the load generator and the server's front end are what limits it. `transformer`
is one encoder layer, `residual` a network of 26 convolutions: both compute for milliseconds per row, and gain from
batches and instances in different ways. `ranker` has dense layers whose weights take longer to read than one row takes
to compute, so that the largest batches are the best, and a delay that fills them.

All weights are random numbers from a fixed seed. Batches are made by `publish`, from files with a batch of 1.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from random_networks import INPUT, OUTPUT, Network, perceptron, resnet  # noqa: E402

TOKENS, WIDTH, HEADS = 48, 384, 6


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and the limit under which it is tuned.

    Attributes:
        name: Its name.
        make: Makes it; None takes the example's file.
        limit_ms: The limit on p99. It lies between the p99 of the best settings and that with twice as many users.
        users: The loads of the ladder.
    """

    name: str
    make: Callable[[], onnx.ModelProto] | None
    limit_ms: float
    users: tuple[int, ...]


def transformer() -> onnx.ModelProto:
    """Return an encoder layer with attention and a perceptron, `float32[1, tokens, width]` to the same."""
    network = Network()
    x = INPUT
    normed = _normalize(network, x)
    q, k, v = (_heads(network, _dense(network, normed, WIDTH, WIDTH)) for _ in range(3))
    scores = network.node("MatMul", [q, network.node("Transpose", [k], perm=[0, 1, 3, 2])])
    scale = network.constant(np.array((WIDTH // HEADS) ** -0.5, np.float32))
    weights = network.node("Softmax", [network.node("Mul", [scores, scale])], axis=-1)
    mixed = network.node("Transpose", [network.node("MatMul", [weights, v])], perm=[0, 2, 1, 3])
    joined = network.node("Reshape", [mixed, network.constant(np.array([1, TOKENS, WIDTH], np.int64))])
    x = network.node("Add", [x, _dense(network, joined, WIDTH, WIDTH)])
    inner = network.node("Relu", [_dense(network, _normalize(network, x), WIDTH, 4 * WIDTH)])
    network.node("Add", [x, _dense(network, inner, 4 * WIDTH, WIDTH)])
    network.nodes[-1].output[:] = [OUTPUT]
    return network.model([1, TOKENS, WIDTH], [1, TOKENS, WIDTH])


def _dense(network: Network, x: str, inputs: int, outputs: int) -> str:
    """Multiply the last axis by random weights, with a bias of 0."""
    values = network.rng.standard_normal((inputs, outputs), dtype=np.float32) * np.float32(inputs**-0.5)
    product = network.node("MatMul", [x, network.constant(values)])
    return network.node("Add", [product, network.constant(np.zeros(outputs, np.float32))])


def _normalize(network: Network, x: str) -> str:
    scale, bias = network.constant(np.ones(WIDTH, np.float32)), network.constant(np.zeros(WIDTH, np.float32))
    return network.node("LayerNormalization", [x, scale, bias], axis=-1)


def _heads(network: Network, x: str) -> str:
    """Split `[1, tokens, width]` into `[1, heads, tokens, width / heads]`."""
    shape = network.constant(np.array([1, TOKENS, HEADS, WIDTH // HEADS], np.int64))
    return network.node("Transpose", [network.node("Reshape", [x, shape])], perm=[0, 2, 1, 3])


def residual() -> onnx.ModelProto:
    return resnet((2, 2, 2, 2), width=32, image_size=96, classes=100)


def ranker() -> onnx.ModelProto:
    return perceptron((512, 2048, 2048, 2048, 64))


SUBJECTS = {
    each.name: each
    for each in (
        Subject("digits", None, 5.0, (1, 2, 4, 8, 16, 32)),
        Subject("transformer", transformer, 12.0, (1, 2, 4, 8, 16)),
        Subject("residual", residual, 15.5, (1, 2, 4, 8, 16)),
        Subject("ranker", ranker, 12.0, (1, 2, 4, 8, 16, 32, 64)),
    )
}


def publish(subject: Subject, repository: Path) -> None:
    """Publish a model with everything left to its default, unless it is there already."""
    if (repository / subject.name).exists():
        return
    file = ROOT / "examples" / "digits" / "digits.onnx"
    if subject.make is not None:
        repository.parent.mkdir(parents=True, exist_ok=True)
        file = repository.parent / f"{subject.name}.onnx"
        onnx.save(subject.make(), file)
    command = [sys.executable, "-m", "builder", "publish", str(file), "--name", subject.name]
    subprocess.run([*command, "--repository", str(repository)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
