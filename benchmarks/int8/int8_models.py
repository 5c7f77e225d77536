"""Train the models of the int8 table, and write them with their data, as a user of this project would have them.

    python benchmarks/int8/int8_models.py FOLDER [--only NAME]…

Beside the example of this project, which is trained on scans of handwritten digits, there are a residual network that
tells drawn shapes apart, a transformer that reads sequences of tokens, and a detector of drawn shapes. Each gets
`NAME.onnx` with a fixed batch of 1, `NAME_calibration.npz`, and `NAME_samples.npz` with labels. The rows of both were
not trained on, and no row is in both. Training takes two minutes of one core. Everything is drawn from a seed.
"""

import argparse
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
SEED = 15
CALIBRATION_ROWS, SAMPLE_ROWS = 128, 1000

Array = npt.NDArray[Any]


# Data: gray images with shapes, and sequences of tokens.

SIDE = 32
"""The height and width of an image in pixels."""

OUTLINES: Mapping[str, Callable[[Array, Array], Array]] = {
    "disc": lambda x, y: x**2 + y**2 < 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.85,
    "diamond": lambda x, y: abs(x) + abs(y) < 1,
    "triangle": lambda x, y: (abs(x) < (y + 1) / 2) & (y < 0.9),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
    "ring": lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.4),
    "bars": lambda x, y: (np.maximum(abs(x), abs(y)) < 0.9) & (abs(x) > 0.35),
    "crescent": lambda x, y: (x**2 + y**2 < 1) & ((x - 0.5) ** 2 + y**2 > 0.6),
}
"""Whether a point is inside, in coordinates in which a shape reaches from -1 to 1."""


def draw_shape(image: Array, kind: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw a shape at a random place into an image, and return its center and its radius in pixels."""
    radius = rng.uniform(5, 9)
    x, y = rng.uniform(radius, SIDE - radius, 2)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    inside = list(OUTLINES.values())[kind]((columns - x) / radius, (rows - y) / radius)
    image[inside] += rng.uniform(0.35, 1)
    return x, y, radius


def draw_classes(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return noisy images with one shape each, `float32[rows, 1, 32, 32]`, and its kind."""
    images = rng.normal(0, 0.25, (rows, SIDE, SIDE))
    kinds = rng.integers(0, len(OUTLINES), rows)
    for image, kind in zip(images, kinds, strict=True):
        draw_shape(image, kind, rng)
    return images[:, None].astype(np.float32), kinds


BOXED = 3
"""How many kinds of shapes the detector knows."""

CELLS = 4
"""The detector divides an image into this many rows and columns of cells. A shape belongs to the cell of its center."""


def draw_boxes(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return noisy images with one or two shapes, and for each cell its kind (-1 for none) and box in 0..1."""
    images = rng.normal(0, 0.2, (rows, SIDE, SIDE))
    found = np.zeros((rows, CELLS * CELLS, 5))
    found[..., 0] = -1
    for image, cells in zip(images, found, strict=True):
        for _ in range(rng.integers(1, 3)):
            kind = rng.integers(0, BOXED)
            x, y, radius = draw_shape(image, kind, rng)
            cell = int(y * CELLS / SIDE) * CELLS + int(x * CELLS / SIDE)
            corners = np.array([x - radius, y - radius, x + radius, y + radius]) / SIDE
            cells[cell] = [kind, *corners]
    return images[:, None].astype(np.float32), found.astype(np.float32)


LENGTH, WORDS, TOPICS = 24, 200, 8


def draw_tokens(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return sequences of tokens, `int64[rows, 24]`, and the topic of each.

    Token 1 marks the word after it. The topic is that of most marked words, where a word's topic is its number modulo
    8; all other words are noise. So a model has to look at neighbours to know which words count.
    """
    tokens = rng.integers(2, WORDS, (rows, LENGTH))
    topics = rng.integers(0, TOPICS, rows)
    for row, topic in zip(tokens, topics, strict=True):
        places = rng.choice(np.arange(0, LENGTH - 1, 2), 6, replace=False)
        row[places] = 1
        for place in places[:4]:
            row[place + 1] = 2 + (topic - 2) % TOPICS + TOPICS * rng.integers(0, (WORDS - 2) // TOPICS - 1)
    return tokens, topics


# Networks.


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, made: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, made, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(made), nn.BatchNorm2d(made)])
        self.shortcut = nn.Conv2d(channels, made, 1, stride) if stride > 1 or made != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map `float32[N, channels, H, W]` to `float32[N, made, H / stride, W / stride]`."""
        inner = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(inner)) + self.shortcut(x))


class Residual(nn.Module):
    """Tell shapes apart: `float32[N, 1, 32, 32]` to logits `float32[N, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, 2, 1)
        self.blocks = nn.Sequential(Block(16, 32, 1), Block(32, 64, 2), Block(64, 64, 1))
        self.scores = nn.Linear(64, len(OUTLINES))

    def forward(self, images: Tensor) -> Tensor:
        """Return one row of logits per image."""
        return self.scores(self.blocks(functional.relu(self.stem(images))).mean((2, 3)))


class Encoder(nn.Module):
    """Find the topic of a sequence: `int64[N, 24]` to logits `float32[N, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 128)
        self.places = nn.Parameter(torch.randn(LENGTH, 128) * 0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(128, 4, 512, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(128)
        self.scores = nn.Linear(128, TOPICS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return one row of logits per sequence."""
        x = self.words(tokens) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.scores(self.norm(x).mean(1))


class Detector(nn.Module):
    """Find shapes: `float32[N, 1, 32, 32]` to boxes `float32[N, 16, 4]` and scores `float32[N, 16, 3]`, by cell."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, made, stride in ((1, 16, 2), (16, 32, 1), (32, 48, 2), (48, 64, 2), (64, 64, 1)):
            layers += [nn.Conv2d(channels, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(64, 4 + BOXED, 1)
        cells = (torch.arange(CELLS) + 0.5) / CELLS
        self.register_buffer("centers", torch.cartesian_prod(cells, cells).flip(1).repeat(1, 2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return a box and scores for each cell."""
        found = self.head(self.layers(images)).flatten(2).transpose(1, 2)
        return self.centers + torch.tanh(found[..., :4]) * 0.6, torch.sigmoid(found[..., 4:])


# Training.


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how far logits are from the labels."""
    return functional.cross_entropy(scores, labels)


def detection_loss(found: tuple[Tensor, Tensor], cells: Tensor) -> Tensor:
    """Return how far boxes and scores are from the cells' kinds and boxes."""
    boxes, scores = found
    kinds = cells[..., 0].long()
    wanted = functional.one_hot(kinds + 1, BOXED + 1)[..., 1:].float()
    away = ((boxes - cells[..., 1:]).abs().sum(-1) * (kinds >= 0)).sum() / (kinds >= 0).sum()
    return functional.binary_cross_entropy(scores, wanted) * 8 + away


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one model."""

    net: Callable[[], nn.Module]
    draw: Callable[[int, np.random.Generator], tuple[Array, Array]]
    loss: Callable[[Any, Tensor], Tensor]
    rows: int
    epochs: int
    rate: float
    inputs: str
    outputs: tuple[str, ...]


RECIPES = {
    "residual": Recipe(Residual, draw_classes, cross_entropy, 4000, 5, 3e-3, "images", ("scores",)),
    "encoder": Recipe(Encoder, draw_tokens, cross_entropy, 6000, 5, 1e-3, "tokens", ("scores",)),
    "detector": Recipe(Detector, draw_boxes, detection_loss, 5000, 10, 4e-3, "images", ("boxes", "scores")),
}


def train(recipe: Recipe, data: Array, labels: Array) -> nn.Module:
    """Train a network, and return it in evaluation mode."""
    net = recipe.net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=1e-2)
    steps = recipe.epochs * -(-len(data) // 64)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    inputs, wanted = torch.from_numpy(data), torch.from_numpy(labels)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(data)).split(64):
            optimizer.zero_grad()
            recipe.loss(net(inputs[rows]), wanted[rows]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            plan.step()
    return net.eval()


def make(name: str, folder: Path) -> None:
    """Train one model, and write its three files."""
    recipe, rng = RECIPES[name], np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    parts = [recipe.draw(rows, rng) for rows in (recipe.rows, CALIBRATION_ROWS, SAMPLE_ROWS)]
    net = train(recipe, *parts[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DeprecationWarning and TracerWarning: tracing is intended
        example = (torch.from_numpy(parts[1][0][:1]),)
        names: dict[str, Any] = {"input_names": [recipe.inputs], "output_names": list(recipe.outputs)}
        torch.onnx.export(net, example, folder / f"{name}.onnx", dynamo=False, opset_version=17, **names)
    np.savez(folder / f"{name}_calibration.npz", **{recipe.inputs: parts[1][0]})
    np.savez(folder / f"{name}_samples.npz", **{recipe.inputs: parts[2][0], "label": parts[2][1]})


def take_example(folder: Path) -> None:
    """Copy the project's example. Its held-out images are calibrated on in part, and measured on otherwise."""
    shutil.copy(EXAMPLE / "digits.onnx", folder / "digits.onnx")
    with np.load(EXAMPLE / "test_images.npz") as held_out:
        images, labels = held_out["images"], held_out["labels"]
    name = "input.1"
    np.savez(folder / "digits_calibration.npz", **{name: images[:60]})
    np.savez(folder / "digits_samples.npz", **{name: images[60:], "label": labels[60:]})


def make_models(folder: Path, names: "list[str] | None" = None) -> None:
    """Write the files of all models, or of some of them."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("digits", *RECIPES):
        start = time.process_time()
        if name == "digits":
            take_example(folder)
        else:
            make(name, folder)
        print(f"{name}: {time.process_time() - start:.0f} s of CPU time", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", choices=("digits", *RECIPES))
    options = parser.parse_args()
    make_models(options.folder, options.only)


if __name__ == "__main__":
    main()
