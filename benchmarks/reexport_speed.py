"""Compare the speed of rewritten models with that of the same PyTorch modules exported again with a dynamic batch.

    python benchmarks/reexport_speed.py [--rounds 15] [--json]

It needs PyTorch and transformers, which the project does not install. Each module, with random weights, is exported
twice by TorchScript: with a static batch of 1, and with `dynamic_axes`. The static file is published. Then both dynamic
files run in ONNX Runtime on one thread, in turns, at batch sizes 1 and 8. A ratio is the median processor time of the
re-export over that of the published file: above 1 the published file is faster.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from builder.publishing import PublishOptions, publish

BATCHES = (1, 8)

Example = Mapping[str, Any]
"""The inputs of one sample, by name, as tensors."""


def modules() -> dict[str, Callable[[], tuple[Any, Example]]]:
    """Return what makes each module and the inputs of one sample."""
    import torch
    import transformers as hf

    images = {"pixel_values": torch.rand(1, 3, 64, 64)}
    ids = {"input_ids": torch.arange(32)[None] % 99, "attention_mask": torch.ones(1, 32, dtype=torch.int64)}
    small: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}

    class Recurrent(torch.nn.Module):
        """Two LSTM layers and a linear one."""

        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(64, 128, 2, batch_first=True)
            self.head = torch.nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            """Answer for the last step."""
            return self.head(self.lstm(x)[0][:, -1])

    def config(name: str, **values: Any) -> Any:
        return getattr(hf, f"{name}Config")(**values, attn_implementation="eager")

    return {
        "BERT": lambda: (hf.BertModel(config("Bert", vocab_size=99, intermediate_size=512, **small)), ids),
        "Swin": lambda: (hf.SwinModel(config("Swin", image_size=64, embed_dim=32, depths=[2, 2], num_heads=[2, 4],
                                             window_size=4)), images),
        "ViT": lambda: (hf.ViTModel(config("ViT", image_size=64, patch_size=8, **small)), images),
        "ResNet": lambda: (hf.ResNetModel(config("ResNet", embedding_size=32, hidden_sizes=[64, 128, 256, 512],
                                                 depths=[2, 2, 2, 2])), images),
        "ConvNeXt": lambda: (hf.ConvNextModel(config("ConvNext", hidden_sizes=[48, 96, 192, 384],
                                                     depths=[2, 2, 4, 2])), images),
        "LSTM": lambda: (Recurrent(), {"x": torch.rand(1, 32, 64)}),
    }  # fmt: skip


def export(module: Any, example: Example, path: Path, *, is_dynamic: bool) -> None:
    """Export the first output of a module by TorchScript."""
    import torch

    class First(torch.nn.Module):
        """The module with its first output alone."""

        def __init__(self) -> None:
            super().__init__()
            self.whole = module

        def forward(self, *values: Any) -> Any:
            """Return the first output."""
            found = self.whole(**dict(zip(example, values, strict=True)))
            return found if isinstance(found, torch.Tensor) else found[0]

    torch.onnx.export(
        First().eval(),
        tuple(example.values()),
        path,
        input_names=list(example),
        output_names=["y"],
        dynamic_axes={name: {0: "batch"} for name in (*example, "y")} if is_dynamic else None,
        opset_version=17,
        dynamo=False,
    )


def compare(files: Sequence[Path], example: Example, batch: int, rounds: int) -> list[float]:
    """Return the median processor time of each file, seconds, measured in turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    sessions = [onnxruntime.InferenceSession(str(file), options) for file in files]
    feeds = {name: np.repeat(value.numpy(), batch, axis=0) for name, value in example.items()}
    spent: list[list[float]] = [[] for _ in files]
    for _ in range(rounds + 2):
        for session, times in zip(sessions, spent, strict=True):
            started = time.process_time()
            for _ in range(5):
                session.run(None, feeds)
            times.append((time.process_time() - started) / 5)
    return [median(times[2:]) for times in spent]  # the first rounds warm up


def main() -> None:
    """Export, publish, run, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, make in modules().items():
            module, example = make()
            module = module.eval()
            static, again = folder / f"{title}.onnx", folder / f"{title}.dynamic.onnx"
            export(module, example, static, is_dynamic=False)
            export(module, example, again, is_dynamic=True)
            done = publish(static, folder / "repository", options=PublishOptions())
            published = done.version.path / "model.onnx"
            names = {t.original: t.name for t in done.manifest.inputs}
            if any(original != served for original, served in names.items()):
                sys.exit(f"{title}: publish renamed an input")
            results[title] = {}
            for batch in BATCHES:
                mine, theirs = compare([published, again], example, batch, asked.rounds)
                results[title][str(batch)] = theirs / mine
            if not asked.json:
                print(title, ", ".join(f"batch {b}: {ratio:.2f}" for b, ratio in results[title].items()), flush=True)
    if asked.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
