"""Train the example classifier and export it the way most models come: static, with the exporter's names.

The data are the handwritten digits of scikit-learn: 1,797 gray images of 8x8 pixels (Alpaydin and Kaynak, UCI
Machine Learning Repository, CC BY 4.0). A fifth of them is held out and written to a file as test images.

    pip install torch scikit-learn onnx onnxruntime
    python examples/digits/make_digits.py

The script writes three files next to itself: `digits.onnx` (with a fixed batch of 1), `test_images.npz` (the held-out
images and labels) and `digits.json` (how they were made, and the accuracy on the held-out images). The seed makes the
result reproducible on the same machine with the same version of PyTorch; other versions round differently.
"""

import hashlib
import json
import platform
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
SEED = 20
EPOCHS = 40
BATCH_SIZE = 64
OPSET = 17
PACKAGES = ("torch", "scikit-learn", "numpy", "onnx", "onnxruntime")


class DigitsNet(nn.Module):
    """Classify ten digits with two convolutions, batch normalization, pooling and two dense layers.

    It maps `float32[N, 1, 8, 8]`, pixels in 0..1, to the logits `float32[N, 10]`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden = nn.Linear(32 * 4 * 4, 64)
        self.dropout = nn.Dropout(0.3)
        self.scores = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return one row of logits per image."""
        features = self.features(images)
        flat = features.reshape(images.shape[0], -1)  # the exporter writes the traced batch size into the graph here
        return self.scores(self.dropout(functional.relu(self.hidden(flat))))


def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the training images and labels, then the held-out ones, with the same share of every digit."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, np.newaxis]
    labels = digits.target.astype(np.int64)
    parts = train_test_split(images, labels, test_size=0.2, random_state=SEED, stratify=labels)
    train_images, test_images, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return train_images, train_labels, test_images, test_labels


def train(images: Tensor, labels: Tensor) -> DigitsNet:
    """Train the network, and return it in evaluation mode."""
    net = DigitsNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH_SIZE):
            optimizer.zero_grad()
            functional.cross_entropy(net(images[rows]), labels[rows], label_smoothing=0.05).backward()
            optimizer.step()
    return net.eval()


def export(net: DigitsNet, path: Path) -> None:
    """Trace `net` at batch 1 and let the exporter choose every name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of tracing, which is intended here
        torch.onnx.export(net, (torch.zeros(1, 1, 8, 8),), path, dynamo=False, opset_version=OPSET)


def accuracy(model: Path, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Return the share of `images` that the exported file classifies correctly, with one image in each call."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    guesses = [session.run(None, {name: image[np.newaxis]})[0].argmax() for image in images]
    return float((np.array(guesses) == labels).mean())


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Make the three files."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # so that sums are always computed in the same order
    torch.use_deterministic_algorithms(True)
    train_images, train_labels, test_images, test_labels = split()

    model, samples = HERE / "digits.onnx", HERE / "test_images.npz"
    export(train(train_images, train_labels), model)
    images, labels = test_images.numpy(), test_labels.numpy()
    np.savez_compressed(samples, images=images, labels=labels)

    record = {
        "seed": SEED,
        "epochs": EPOCHS,
        "opset": OPSET,
        "train_rows": len(train_images),
        "test_rows": len(images),
        "test_accuracy": accuracy(model, images, labels),
        "sha256": {path.name: sha256(path) for path in (model, samples)},
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    (HERE / "digits.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
