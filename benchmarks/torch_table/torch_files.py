"""Write the files that `run_table.py` publishes: a program, TorchScript, weights, and a Hugging Face folder.

python torch_files.py FOLDER
"""

import importlib.util
import sys
from pathlib import Path

import torch
import torch_nets


def write_files(folder: Path) -> None:
    """Write all files into the folder."""
    net, image = torch_nets.MobileBlock().eval(), torch.randn(2, 3, 16, 16)
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(net, (image,), dynamic_shapes=({0: batch},)), folder / "dynamic.pt2")
    torch.export.save(torch.export.export(net, (image[:1],)), folder / "static.pt2")
    torch.jit.save(torch_nets.scripted(), folder / "scripted.pt")
    torch.jit.save(torch_nets.traced(), folder / "traced.pt")
    torch.save(net.state_dict(), folder / "weights.pth")
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, folder / "lightning.ckpt")
    if importlib.util.find_spec("transformers"):
        import torch_hf

        torch_hf.bert().save_pretrained(folder / "bert")


if __name__ == "__main__":
    write_files(Path(sys.argv[1]))
