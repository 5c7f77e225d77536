"""The networks behind the test models: each has one or two things that make a baked batch hard to free."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNet(nn.Module):
    """Two convolutions and a dense layer over a view whose batch the tracer bakes in."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, channels, 3),
            nn.SiLU(),
        )
        self.scores = nn.Linear(channels * 9, 7)

    def forward(self, image: Tensor) -> Tensor:
        features = self.features(image)
        return self.scores(features.view(features.size(0), -1)).softmax(dim=1)


class Encoder(nn.Module):
    """PyTorch's own encoder layer: attention folds the batch with the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(24, nhead=4, dim_feedforward=32, dropout=0.0, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)


class Lstm(nn.Module):
    """A two-layer bidirectional LSTM whose first states are zeros made for the traced batch."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(10, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.scores = nn.Linear(24, 5)

    def forward(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        zeros = signal.new_zeros(4, signal.shape[0], 12)
        steps, (last, _) = self.lstm(signal, (zeros, zeros))
        return self.scores(steps), last.transpose(0, 1).reshape(signal.shape[0], 48)


class Attention(nn.Module):
    """Self-attention written by hand over `[batch, tokens, width]`, with an additive bias on the scores."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        if bias is not None:
            scores = scores + bias
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """Attention and a small perceptron, each after a normalization and around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.before_attention(x), bias)
        return x + self.mlp(self.before_mlp(x))


class TextEncoder(nn.Module):
    """Embeddings, position ids of batch 1, and a padding mask turned into large negative scores."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 24)
        self.positions = nn.Embedding(11, 24)
        self.block = Block(24, heads=3)
        self.register_buffer("position_ids", torch.arange(11).expand(1, -1))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.words(input_ids) + self.positions(self.position_ids[:, : input_ids.shape[1]])
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        hidden = self.block(x, bias)
        return hidden, torch.tanh(hidden[:, 0])


class VisionTransformer(nn.Module):
    """Patches by convolution, a class token expanded to the batch and joined in front."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 20, kernel_size=4, stride=4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 20))
        self.positions = nn.Parameter(torch.randn(1, 10, 20))
        self.block = Block(20, heads=5)
        self.scores = nn.Linear(20, 6)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.scores(self.block(x)[:, 0])


class Windows(nn.Module):
    """Attention inside shifted windows: the batch is folded with the windows; each has its own mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, kernel_size=2, stride=2)
        self.attention = Attention(16, heads=2)
        self.register_buffer("mask", torch.where(torch.rand(4, 9, 9) < 0.2, -100.0, 0.0))

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image).permute(0, 2, 3, 1)
        batch, height, width, channels = x.shape
        x = torch.roll(x, shifts=(-1, -1), dims=(1, 2))
        x = x.view(batch, height // 3, 3, width // 3, 3, channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, 9, channels)
        bias = self.mask.repeat(x.shape[0] // 4, 1, 1).unsqueeze(1)
        x = self.attention(x, bias)
        x = x.view(batch, height // 3, width // 3, 3, 3, channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, height, width, channels)
        return torch.roll(x, shifts=(1, 1), dims=(1, 2)).mean(dim=(1, 2))


class Upscaler(nn.Module):
    """Group normalization and pixel shuffle, which some opsets express with reshapes of baked sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.second = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        grown = functional.interpolate(image, scale_factor=2, mode="nearest")
        return grown + functional.pixel_shuffle(self.second(self.norm(self.first(image)).relu()), 2)


class Mixer(nn.Module):
    """Perceptrons over tokens and channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.over_tokens = nn.Linear(9, 9)
        self.norm = nn.LayerNorm(32)
        self.over_channels = nn.Linear(32, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        x = tokens + self.over_tokens(tokens.transpose(1, 2)).transpose(1, 2).relu()
        return (x + self.over_channels(self.norm(x))).reshape(tokens.shape[0], 9 * 32)


class Decoder(nn.Module):
    """A GRU over learned start states; the batch, the layers and the width of a step are all 4."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 8, num_layers=4, batch_first=True)
        self.start = nn.Parameter(torch.randn(4, 1, 8))
        self.block = Block(8, heads=4)

    def forward(self, steps: Tensor) -> Tensor:
        states, _ = self.gru(steps, self.start.expand(-1, steps.shape[0], -1).contiguous())
        return self.block(states)[:, -1]


class SoftmaxOverBatch(nn.Module):
    """Attention pooled over the rows of the batch: every answer depends on its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.value = nn.Linear(6, 1), nn.Linear(6, 5)

    def forward(self, rows: Tensor) -> Tensor:
        return self.weight(rows).softmax(dim=0) * self.value(rows)


class Loss(nn.Module):
    """A training graph: one number for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(6, 5)

    def forward(self, rows: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.scores(rows), labels)


class Similarity(nn.Module):
    """Every row against every other: `[batch, batch]`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 5)

    def forward(self, rows: Tensor) -> Tensor:
        embedded = functional.normalize(self.embed(rows), dim=1)
        return embedded @ embedded.T
