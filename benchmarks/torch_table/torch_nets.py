"""Small PyTorch modules of many kinds, for `run_table.py`; each docstring says what is special about it."""

# mypy: allow-subclassing-any, no-warn-return-any

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it so
from torch import Tensor, nn


class Seeded(nn.Module):
    """A module whose random weights are the same each time it is made."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)


# ---------------------------------------------------------------- vision


class ResidualNet(Seeded):
    """Residual blocks with batch normalization whose statistics are not those of a new layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
            for _ in range(2)
        )
        self.head = nn.Linear(8, 5)
        for block in self.blocks:
            block[1].running_mean.uniform_(-1, 1)
            block[1].running_var.uniform_(0.5, 2)

    def forward(self, image: Tensor) -> Tensor:
        """Answer with scores."""
        x = self.stem(image)
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class UNet(Seeded):
    """Height and width must be divisible by 8, or the skip connections do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(i, 8, 3, 2, 1) for i in (3, 8, 8))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, 8, 2, 2) for i in (8, 16, 16))
        self.head = nn.Conv2d(11, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Answer with a map of the image's size."""
        kept, x = [], image
        for down in self.down:
            kept.append(x)
            x = F.silu(down(x))
        for up, other in zip(self.up, reversed(kept), strict=True):
            x = torch.cat([F.silu(up(x)), other], 1)
        return self.head(x)


class MobileBlock(Seeded):
    """Depthwise convolutions, squeeze and excitation, hard activations."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depth = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, 2, 1, groups=12)
        self.squeeze, self.excite, self.project = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1), nn.Conv2d(12, 6, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Answer with features."""
        x = F.hardswish(self.depth(F.relu6(self.expand(image))))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.project(x * gate)


class DetectionHead(Seeded):
    """YOLO's kind: a grid made from the size of the image, and boxes decoded in place."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 2 * 7, 1)
        self.register_buffer("anchors", torch.tensor([[10.0, 14.0], [23.0, 27.0]]))

    def forward(self, image: Tensor) -> Tensor:
        """Answer with [boxes, 7]: center, size, objectness and two classes."""
        x = self.head(F.silu(self.backbone(image)))
        batch, _, height, width = x.shape
        x = x.view(batch, 2, 7, height, width).permute(0, 1, 3, 4, 2).contiguous()
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([columns, rows], -1).float()
        x[..., 0:2] = (x[..., 0:2].sigmoid() * 2 - 0.5 + grid) * 4
        x[..., 2:4] = (x[..., 2:4].sigmoid() * 2) ** 2 * self.anchors.view(1, 2, 1, 1, 2)
        x[..., 4:] = x[..., 4:].sigmoid()
        return x.view(batch, -1, 7)


class FeaturePyramid(Seeded):
    """Each level is resized to the size of the next one; three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(i, 8, 3, 2, 1) for i in (3, 8, 8))
        self.lateral = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(3))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Answer with a list of maps, the largest first."""
        features, x = [], image
        for level in self.levels:
            x = F.relu(level(x))
            features.append(x)
        found = [self.lateral[2](features[2])]
        for i in (1, 0):
            larger = F.interpolate(found[0], size=features[i].shape[2:], mode="bilinear", align_corners=False)
            found.insert(0, self.lateral[i](features[i]) + larger)
        return found


class SuperResolution(Seeded):
    """PixelShuffle, and a bicubic enlargement of the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.shuffle = nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, image: Tensor) -> Tensor:
        """Answer with an image of twice the size."""
        larger = F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)
        return self.shuffle(self.layer(image)) + larger


class Deformable(Seeded):
    """Each position reads the features at an offset that the network chose (grid_sample)."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets, self.features = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Answer with the features."""
        identity = torch.eye(2, 3).expand(image.shape[0], 2, 3)
        grid = F.affine_grid(identity, list(image.shape), align_corners=False)
        grid = grid + 0.1 * self.offsets(image).tanh().permute(0, 2, 3, 1)
        return F.grid_sample(self.features(image), grid, align_corners=False)


class PatchMerging(Seeded):
    """A vision transformer that pads the image to whole windows, so that any size will do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Conv2d(3, 16, 1), nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, image: Tensor) -> Tensor:
        """Attend inside windows of 4 x 4."""
        x = self.embed(image)
        batch, channels, height, width = x.shape
        x = F.pad(x, (0, -width % 4, 0, -height % 4))
        rows, columns = x.shape[2] // 4, x.shape[3] // 4
        x = x.view(batch, channels, rows, 4, columns, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, channels)
        x = self.attention(x, x, x, need_weights=False)[0]
        x = x.view(batch, rows, columns, 4, 4, channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(batch, channels, rows * 4, columns * 4)[:, :, :height, :width]


class NormalizedBytes(Seeded):
    """An image of bytes, with its channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        """Answer with the mean of each channel."""
        return self.layer((image.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25).mean((2, 3))


class Volume(Seeded):
    """Three-dimensional and transposed convolutions with group normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.Mish(), nn.ConvTranspose3d(4, 2, 2, 2), nn.AvgPool3d(2)
        )

    def forward(self, scan: Tensor) -> Tensor:
        """Answer with a smaller volume."""
        return self.layers(scan)


# ---------------------------------------------------------------- audio and sequences


class Wave(Seeded):
    """Strided convolutions that take 400 samples at least."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(1, 4, 25, 20), nn.GELU(), nn.Conv1d(4, 4, 16, 8))
        self.head = nn.Linear(4, 3)

    def forward(self, audio: Tensor) -> Tensor:
        """Answer with scores."""
        return self.head(self.layers(audio[:, None]).mean(2))


class Spectrogram(Seeded):
    """A short-time Fourier transform, whose values are complex inside the module."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.head = nn.Linear(33, 4)

    def forward(self, audio: Tensor) -> Tensor:
        """Answer for each frame."""
        spectrum = torch.stft(audio, 64, 32, window=self.window, return_complex=True)
        return self.head(spectrum.abs().transpose(1, 2))


class Spectrum(Seeded):
    """A real Fourier transform, split into its real and imaginary part."""

    def forward(self, signal: Tensor) -> Tensor:
        """Answer with both parts."""
        found = torch.fft.rfft(signal)
        return torch.cat([found.real, found.imag], -1)


class Causal(Seeded):
    """Dilated causal convolutions with weight normalization."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(norm(nn.Conv1d(4, 4, 3, dilation=2**i)) for i in range(3))

    def forward(self, signal: Tensor) -> Tensor:
        """Answer for each step."""
        for i, layer in enumerate(self.layers):
            signal = signal + torch.tanh(layer(F.pad(signal, (2 * 2**i, 0))))
        return signal


class TwoLengths(Seeded):
    """A text and a memory of another length, with a mask for the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True)

    def forward(self, text: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Answer for each token of the text."""
        return self.layer(text, memory, memory_key_padding_mask=memory_mask == 0)


class PaddedEncoder(Seeded):
    """PyTorch's encoder with padded tokens."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed, self.encoder = nn.Embedding(50, 16, padding_idx=0), nn.TransformerEncoder(layer, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Answer with the mean over the tokens that count."""
        hidden = self.encoder(self.embed(ids), src_key_padding_mask=~mask)
        weight = mask.float()[..., None]
        return (hidden * weight).sum(1) / weight.sum(1)


class Forecast(Seeded):
    """Normalizes each series by itself, cuts it into patches, and undoes the normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, series: Tensor) -> Tensor:
        """Answer with the next steps of each patch."""
        mean, scale = series.mean(1, keepdim=True), series.std(1, keepdim=True) + 1e-5
        patches = ((series - mean) / scale).unfold(1, 8, 4)
        return self.layer(patches) * scale[..., None] + mean[..., None]


class Graph(Seeded):
    """Messages along the edges of each sample's own graph (index_add by scatter_add)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, nodes: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Answer for each node."""
        wide = source[..., None].expand(-1, -1, 4)
        messages = torch.relu(self.layer(nodes.gather(1, wide)))
        return nodes.scatter_add(1, target[..., None].expand(-1, -1, 4), messages)


class Viterbi(Seeded):
    """The best path through six steps, by a loop that keeps the largest scores."""

    def __init__(self) -> None:
        super().__init__()
        self.moves = nn.Parameter(torch.randn(4, 4))

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Answer with the score of the best path and its last state."""
        best = scores[:, 0]
        for step in range(1, 6):
            best = (best[:, :, None] + self.moves).amax(1) + scores[:, step]
        found = best.max(1)
        return found.values, found.indices


# ---------------------------------------------------------------- recurrent


class States(Seeded):
    """An LSTM whose states have the batch on axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, 2, batch_first=True)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer with all steps and the last states."""
        y, (h, c) = self.lstm(x, (h, c))
        return y, h, c


class TimeMajor(Seeded):
    """A GRU with time on axis 0 and the batch on axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8, bidirectional=True)

    def forward(self, signal: Tensor) -> Tensor:
        """Answer with all steps."""
        return self.gru(signal)[0]


class Bidirectional(Seeded):
    """A GRU in both directions, over any number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(6, 8, batch_first=True, bidirectional=True), nn.Linear(16, 3)

    def forward(self, signal: Tensor) -> Tensor:
        """Answer with scores."""
        return self.head(self.gru(signal)[0].mean(1))


class Packed(Seeded):
    """A packed sequence: padded steps do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)

    def forward(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """Answer with the state after the last step that counts."""
        packed = nn.utils.rnn.pack_padded_sequence(signal, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.lstm(packed)[1][0][-1]


class CellLoop(Seeded):
    """A loop over a fixed number of steps, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 8)

    def forward(self, signal: Tensor) -> Tensor:
        """Answer with the last state."""
        h = c = signal.new_zeros(signal.shape[0], 8)
        for step in range(signal.shape[1]):
            h, c = self.cell(signal[:, step], (h, c))
        return h


# ---------------------------------------------------------------- control flow


class Condition(Seeded):
    """torch.cond on the values of a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Answer by one of two branches."""
        return torch.cond(x.sum() > 0, lambda x: self.layer(x), lambda x: -self.layer(x), (x,))


class SizeBranch(Seeded):
    """A branch on a size that is dynamic."""

    def forward(self, signal: Tensor) -> Tensor:
        """Answer by one of two branches."""
        return signal.mean(1) if signal.shape[1] > 12 else signal.amax(1)


class ValueBranch(Seeded):
    """A branch on values."""

    def forward(self, x: Tensor) -> Tensor:
        """Answer by one of two branches."""
        return x * 2 if x.sum() > 0 else x - 1


class Leaky(Seeded):
    """A rare branch on values, beside a comparison of the input with 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Answer by one of two branches."""
        y = torch.where(x > 0, x, 0.1 * x)
        return y * 3 if bool((x < 0).all()) else y


class UntilStable(Seeded):
    """A loop that ends when the values are small enough."""

    def forward(self, x: Tensor) -> Tensor:
        """Halve until everything is below 1."""
        while x.abs().max() > 1:
            x = x / 2
        return x


class Keep(Seeded):
    """Rows are dropped by their values."""

    def forward(self, x: Tensor) -> Tensor:
        """Answer for some rows only."""
        return x[x.sum(1) > 0]


class Nonzero(Seeded):
    """The shape of the output depends on the values."""

    def forward(self, x: Tensor) -> Tensor:
        """Answer with the positions of the positive values."""
        return (x > 0).nonzero()


class Mixed(Seeded):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Answer with values that depend on the other rows."""
        return x - x.mean(0)


class Gated(Seeded):
    """A float that only gates: a mask of 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Answer with the masked maximum."""
        return torch.where(mask[..., None] > 0, self.layer(x), torch.tensor(-1e9)).amax(1)


class OneSample(Seeded):
    """Written for one sample: `view(1, -1)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

    def forward(self, image: Tensor) -> Tensor:
        """Answer with scores."""
        return self.head(self.layer(image).view(1, -1))


# ---------------------------------------------------------------- random and stateful


class LeftOnDropout(Seeded):
    """Dropout that does not look at the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Answer with noise."""
        return F.dropout(self.layer(x), 0.5)


class Autoencoder(Seeded):
    """A variational autoencoder, which draws its code."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread, self.decode = nn.Linear(8, 2), nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Answer with noise."""
        spread = self.spread(x)
        return self.decode(self.mean(x) + torch.randn_like(spread) * spread.exp())


class Draw(Seeded):
    """Draws a token."""

    def forward(self, scores: Tensor) -> Tensor:
        """Answer with a random token."""
        return torch.multinomial(scores.softmax(-1), 1)


class Counter(Seeded):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Answer with a number that grows with every call."""
        self.calls += 1
        return x * self.calls


class Remembers(Seeded):
    """A moving average of what it has seen, kept between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        """Answer with values that depend on earlier calls."""
        self.seen.mul_(0.9).add_(0.1 * x.mean(0))
        return x - self.seen


class Scratch(Seeded):
    """Writes into a buffer, all of which it overwrites at each call: no state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(6, 4))
        self.layer = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Answer with values that depend on this call only."""
        table = self.table.expand(x.shape[0], 6, 4).clone()
        table[:, 1:5] = x
        return self.layer(table.flatten(1))


class BatchStatistics(Seeded):
    """Batch normalization without running statistics: it uses those of the batch, also in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """Answer with values that depend on the other rows."""
        return self.norm(x)


def left_in_training() -> nn.Module:
    """Dropout and batch normalization, handed over in training mode."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).train()


# ---------------------------------------------------------------- types


def double() -> nn.Module:
    """Float64 in operators that ONNX Runtime has."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).double()


class DoubleError(Seeded):
    """Float64 in an operator that ONNX Runtime has in float32 only."""

    def forward(self, x: Tensor) -> Tensor:
        """Answer with the error function."""
        return torch.erf(x) + F.gelu(x)


def brain_float() -> nn.Module:
    """BF16, for which ONNX Runtime has few operators on the CPU."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)).bfloat16()


def half() -> nn.Module:
    """Float16."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)).half()


class Bits(Seeded):
    """Integers: remainders, shifts and comparisons."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Answer with integers and booleans."""
        return {"hash": (x * 31 + 7) % 97, "shifted": x << 2, "odd": (x & 1) == 1, "halves": x // 3}


class Sorting(Seeded):
    """The three largest, the order and the class."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer with values and indices."""
        best = x.topk(3)
        return best.values, best.indices, x.argsort(1, descending=True)


# ---------------------------------------------------------------- how it is written


class Nested(Seeded):
    """A dictionary with a tuple, `None` and another dictionary in it; an argument that is not given."""

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> dict[str, Any]:
        """Answer with nested outputs."""
        y = x if scale is None else x * scale
        return {"logits": y + 1, "states": (y * 2, None, {"last": y[:, -1]})}


class InPlace(Seeded):
    """Writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Answer with the changed input."""
        x[:, 1] = x[:, 0] * 2
        x.sub_(0.5)
        return self.layer(x)


class Tied(Seeded):
    """One table for the embedding and the output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Answer for each token."""
        return self.head(self.embed(ids).cumsum(1))


class NumpyDetour(Seeded):
    """Sorts in NumPy, which no exporter sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Answer with the sorted values."""
        return self.layer(torch.from_numpy(np.sort(x.detach().numpy(), axis=1).copy()))


def compiled() -> Any:
    """Wrapped by torch.compile."""
    return torch.compile(MobileBlock())


def scripted() -> Any:
    """A module that TorchScript compiled, with a loop over a size."""
    return torch.jit.script(Recurrence())


class Recurrence(Seeded):
    """A loop over the steps of a signal, of any number."""

    def forward(self, signal: Tensor) -> Tensor:
        """Answer with the last state."""
        state = signal[:, 0]
        for step in range(1, signal.shape[1]):
            state = torch.tanh(0.5 * state + signal[:, step])
        return state


def traced() -> Any:
    """A module that torch.jit.trace recorded."""
    torch.manual_seed(0)
    return torch.jit.trace(nn.Linear(16, 3).eval(), torch.randn(1, 16))


def quantized() -> Any:
    """Linear layers quantized by PyTorch, which no exporter takes."""
    torch.manual_seed(0)
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), {nn.Linear})


class Rotary(Seeded):
    """Rotary positions by complex numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """Answer with the rotated vectors."""
        angles = torch.arange(x.shape[1]).float()[:, None] * torch.tensor([1.0, 0.1])
        rotation = torch.polar(torch.ones_like(angles), angles)
        turned = torch.view_as_complex(x.reshape(*x.shape[:-1], 2, 2)) * rotation
        return torch.view_as_real(turned).flatten(-2)


class Temperature(Seeded):
    """A Python number among the parameters of forward."""

    def forward(self, x: Tensor, temperature: float, use_log: bool = False) -> Tensor:
        """Answer with probabilities, or with their logarithms."""
        scaled = x / temperature
        return scaled.log_softmax(-1) if use_log else scaled.softmax(-1)


class DictInput(Seeded):
    """Takes a dictionary and a tuple of tensors."""

    def forward(self, features: dict[str, Tensor], state: tuple[Tensor, Tensor]) -> Tensor:
        """Answer with the sum of them all."""
        return features["image"] * 2 + features["depth"] + state[0] - state[1]


class Extra(Seeded):
    """Beside its scores it returns a number without a batch."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Answer with scores and the number of classes."""
        return {"scores": x * math.pi, "classes": torch.tensor(4)}


def network(width: int = 8, depth: int = 1) -> nn.Module:
    """A factory with arguments."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, width), *(nn.Linear(width, width) for _ in range(depth - 1))]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(width, 2))


class FlatInput(Seeded):
    """`DictInput` with each tensor as a parameter of its own, for the judge."""

    def forward(self, features_image: Tensor, features_depth: Tensor, state_0: Tensor, state_1: Tensor) -> Tensor:
        """Answer with the sum of them all."""
        return DictInput()({"image": features_image, "depth": features_depth}, (state_0, state_1))
