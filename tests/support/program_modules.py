"""PyTorch modules that are saved as exported programs and as TorchScript."""

from torch import Tensor, nn


class Heads(nn.Module):
    """Two named outputs of an image of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        y = self.conv(image).mean((2, 3))
        return {"logits": y, "scores": y.softmax(-1)}


class InContainers(nn.Module):
    """Tensors in a dict and in a tuple, and a number."""

    def forward(
        self, batch: dict[str, Tensor], state: tuple[Tensor, Tensor], *, gain: float
    ) -> tuple[Tensor, list[Tensor]]:
        return batch["x"] * gain + state[0], [state[1] * 2]


class OneLonger(nn.Module):
    """`mask` is one longer than `past`, whose length is even: an export keeps both as conditions."""

    def forward(self, past: Tensor, mask: Tensor) -> Tensor:
        return past * 2 + mask[:, 1:] if past.shape[1] % 2 == 0 else past


class Counting(nn.Module):
    """A loop, an optional input and a number, which only a script keeps."""

    def forward(self, x: Tensor, mask: Tensor | None = None, times: int = 2) -> Tensor:
        for _ in range(times):
            x = x * 0.5 + 1
        return x if mask is None else x * mask
