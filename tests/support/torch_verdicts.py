"""Modules that are random, keep a state, or give answers whose shape depends on the values, as in users' code."""

import random
import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class DropsInForward(nn.Module):
    """Dropout that evaluation mode does not switch off; with these odds it often drops nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.1)


class SwitchesTraining(nn.Module):
    """Puts a layer into training mode itself."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop.train()(x)


class Reparametrized(nn.Module):
    """A variational autoencoder's middle."""

    def sample(self, mean: Tensor) -> Tensor:
        noise = torch.randn_like(mean)
        return mean + noise

    def forward(self, x: Tensor) -> Tensor:
        return self.sample(x)


class RandomBatches(nn.Module):
    """Draws random numbers for more than one row only."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[0] < 2 else x + torch.rand(x.shape)


class Picks(nn.Module):
    """Draws one of the choices."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.multinomial(x.softmax(1), 1)


class Attends(nn.Module):
    """Attention with dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5)


class NumPyRandom(nn.Module):
    """Random numbers that are not PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(np.random.rand())


class PythonRandom(nn.Module):
    """Random numbers that are not PyTorch's either."""

    def forward(self, x: Tensor) -> Tensor:
        return x * random.random()


class OwnGenerator(nn.Module):
    """Random numbers of a generator that the module keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape[1:], generator=self.generator)


class Unpredictable(nn.Module):
    """Random numbers that no state shows."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(np.random.default_rng().random())


class DrawsInVain(nn.Module):
    """Random numbers that change nothing."""

    def forward(self, x: Tensor) -> Tensor:
        torch.randn(3)
        return x * 2


class Counter(nn.Module):
    """A buffer that changes the answer, and is changed by every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return x * self.steps


class ChangesData(nn.Module):
    """A buffer that is changed behind PyTorch's count of changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.total.data.add_(x.mean(0))
        return x + self.total


class Average(nn.Module):
    """A running mean, which stays the same as long as the inputs do."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        now = x.mean()
        self.mean = now if self.mean is None else 0.5 * self.mean + 0.5 * now
        return x - self.mean


class FirstScale(nn.Module):
    """Keeps the scale of the first inputs, in one of several ways."""

    def __init__(self, way: str = "attribute") -> None:
        super().__init__()
        self.way = way
        self.kept: dict[str, Tensor] = {}
        self.register_buffer("scale", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "attribute" and not hasattr(self, "first"):
            self.first = x.abs().max()
        if self.way == "dictionary":
            self.kept.setdefault("scale", x.abs().max())
        if self.way == "buffer" and not self.scale.any():
            self.scale.fill_(float(x.abs().max()))
        return x / {"attribute": getattr(self, "first", 1), "dictionary": self.kept.get("scale", 1)}.get(
            self.way, self.scale
        )


class FirstSize(nn.Module):
    """Keeps a table of positions, which depends on the size alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "table"):
            self.table = torch.arange(x.shape[1]) / x.shape[1]
        return x + self.table


class Cache(nn.Module):
    """A list that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x * len(self.seen)


class CountsOnly(nn.Module):
    """A counter that changes no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


class Keep(nn.Module):
    """Drops rows by their values."""

    def forward(self, x: Tensor) -> Tensor:
        return x[x.sum(1) > 0]


class KeepRarely(nn.Module):
    """Drops rows by their values, but hardly one of those that are drawn."""

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x)[x[:, 0] < 1.3]


class Trims(nn.Module):
    """An answer as long as there are large values, which a trace freezes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sort(dim=1)[0][:, : int((x > 0.5).sum())]


class Refuses(nn.Module):
    """Accepts about half of all samples."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x.sum(1) < 0).any()):
            raise ValueError("the sum is negative")
        return 2 * x


class RefusesMost(nn.Module):
    """Accepts few samples unless they are cautious, and the one that a module is exported with."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(((x[:, :3] < 0) | (x[:, :3] > 0.9)).any()):
            raise ValueError("a value is out of range")
        return 2 * x


class Condition(nn.Module):
    """A branch for the whole batch, which TorchScript cannot trace."""

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x,))
        return answer


class Warns(nn.Module):
    """A warning of its own, and one of PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        warnings.warn("a warning of the user's", stacklevel=1)
        return x[0].T[None] * 2


class Double(nn.Module):
    """A convolution of a type that ONNX Runtime has none for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(1, 2, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, None]).mean(2)


class Spectrum(nn.Module):
    """An answer of complex numbers."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"spectrum": torch.fft.rfft(x)}


class Sparse(nn.Module):
    """An answer without a dense layout."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to_sparse()


class Float8(nn.Module):
    """An answer of a type that NumPy does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float8_e4m3fn)
