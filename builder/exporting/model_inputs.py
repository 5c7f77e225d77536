"""The inputs of a model in transformers' format: names, types, sizes and dynamic axes, read from its config.

The sizes are those of the first try: long enough to show what the model does, and short enough for its positions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from builder.exporting.options import InputSpec
from builder.exporting.tasks import WITH_DECODER

_LENGTH, _CHOICES = 16, 2
"""How many tokens a text of the first try has, and how many answers a multiple choice."""

_SAMPLING_RATE = 16_000
"""Samples in a second of sound, where no file says it."""

_IMAGE = 224
"""Pixels on a side of an image, where no file says it."""

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions", "max_sequence_length")
_MEL_BINS = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "feature_size")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a model.

    Attributes:
        task: Its task.
        main: The name of its main input, as transformers gives it.
        parameters: The parameters of its `forward`.
        required: Those without a default.
        configs: Its config, and those inside it.
        preprocessor: What `preprocessor_config.json` holds.
        tokenizer: What `tokenizer_config.json` holds.
    """

    task: str
    main: str
    parameters: Sequence[str]
    required: Sequence[str]
    configs: Sequence[Mapping[str, Any]]
    preprocessor: Mapping[str, Any]
    tokenizer: Mapping[str, Any]

    def number(self, *names: str) -> int | None:
        """Return the first of these numbers that is in a config, or in the preprocessor's."""
        found = (each.get(name) for each in (*self.configs, self.preprocessor) for name in names)
        return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)

    def size(self, name: str) -> tuple[int, int] | None:
        """Return the height and width that a setting gives: `32`, `[32, 48]` or `{"height": 32, "width": 48}`."""
        for each in (*self.configs, self.preprocessor):
            if (found := _height_and_width(each.get(name))) is not None:
                return found
        return None

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether it decodes one text from another, or from sound."""
        return bool(self.configs[0].get("is_encoder_decoder"))


@dataclass(frozen=True, slots=True)
class Declared:
    """The inputs that a model declares: all of them, or none if they are not known."""

    inputs: tuple[InputSpec, ...]
    dynamic: Mapping[str, Mapping[int, str]]


@dataclass(frozen=True, slots=True)
class _Input:
    """An input: its type, and its shape with the names of its dynamic axes."""

    name: str
    dtype: str
    dims: tuple[int | tuple[str, int], ...]

    def declare(self) -> tuple[InputSpec, Mapping[int, str]]:
        """Return it with numbers, and the names by axis."""
        shape = tuple(dim if isinstance(dim, int) else dim[1] for dim in self.dims)
        named = {axis: dim[0] for axis, dim in enumerate(self.dims) if not isinstance(dim, int)}
        return InputSpec(self.name, ir.DataType[self.dtype], shape), named


def declared_inputs(facts: Facts) -> Declared:
    """Return the inputs of a model for its task; none if its main input is of an unknown kind."""
    found = [each.declare() for each in (*_main(facts), *_tokens_to_decode(facts))]
    known = {spec.name for spec, _ in found}
    if not found or any(name not in known for name in facts.required):
        return Declared((), {})
    return Declared(tuple(spec for spec, _ in found), {spec.name: axes for spec, axes in found if axes})


def _main(facts: Facts) -> Iterator[_Input]:
    is_both = facts.task.startswith("zero-shot-image") or {"input_ids", "pixel_values"} <= set(facts.required)
    if facts.main == "input_ids" or (is_both and "input_ids" in facts.parameters):
        yield from _text(facts)
    if facts.main == "pixel_values" or (is_both and "pixel_values" in facts.parameters):
        yield _Input("pixel_values", "FLOAT", _image(facts))
    if facts.main == "pixel_values_videos":
        yield _Input("pixel_values_videos", "FLOAT", _image(facts))
    if facts.main == "input_values":
        yield _Input("input_values", "FLOAT", _sound(facts))
    if facts.main == "input_features":
        yield _Input("input_features", "FLOAT", _spectrum(facts))


# ---------------------------------------------------------------- text


def _text(facts: Facts) -> Iterator[_Input]:
    length: tuple[int | tuple[str, int], ...] = (("length", _length(facts)),)
    dims = (1, _CHOICES, *length) if facts.task == "multiple-choice" else (1, *length)
    yield _Input("input_ids", "INT64", dims)
    if "attention_mask" in facts.parameters:
        yield _Input("attention_mask", "INT64", dims)
    if "token_type_ids" in facts.parameters and _has_segments(facts):
        yield _Input("token_type_ids", "INT64", dims)
    if "bbox" in facts.parameters:
        yield _Input("bbox", "INT64", (*dims, 4))


def _has_segments(facts: Facts) -> bool:
    """Return whether clients send which of two texts a token is from: by the tokenizer, or else by the config."""
    sent = facts.tokenizer.get("model_input_names")
    if isinstance(sent, list):
        return "token_type_ids" in sent
    return (facts.number("type_vocab_size") or 0) > 1


def _length(facts: Facts) -> int:
    """Return a length of which twice as much still has positions: some models use up two of them."""
    most = min((n for name in _POSITIONS for n in [facts.number(name)] if n is not None), default=None)
    return _LENGTH if most is None else max(2, min(_LENGTH, most // 2 - 2))


def _tokens_to_decode(facts: Facts) -> Iterator[_Input]:
    if facts.is_encoder_decoder and "decoder_input_ids" in facts.parameters and facts.task in WITH_DECODER:
        yield _Input("decoder_input_ids", "INT64", (1, ("decoder_length", max(2, _length(facts) // 2))))


# ---------------------------------------------------------------- images


def _image(facts: Facts) -> tuple[int, ...]:
    """Return the shape of an image, or of the frames of a video."""
    height, width = (
        facts.size("image_size") or facts.size("crop_size") or facts.size("size") or facts.size("pad_size")
    ) or (_IMAGE, _IMAGE)
    shape = (facts.number("num_channels", "in_channels", "in_chans") or 3, height, width)
    frames = facts.number("num_frames")
    is_video = facts.task == "video-classification" or facts.main == "pixel_values_videos"
    return (1, frames or 8, *shape) if is_video else (1, *shape)


def _height_and_width(value: Any) -> tuple[int, int] | None:
    sides = value
    if isinstance(value, Mapping):
        shortest = value.get("shortest_edge")
        sides = [value.get("height", shortest), value.get("width", shortest)]
    elif isinstance(value, int):
        sides = [value, value]
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        return None
    height, width = sides
    is_size = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in (height, width))
    return (height, width) if is_size else None


# ---------------------------------------------------------------- sound


def _sound(facts: Facts) -> tuple[int | tuple[str, int], ...]:
    """Return the shape of a second of sound, or that of a spectrum of fixed size."""
    frames, bins = facts.number("max_length"), facts.number("num_mel_bins")
    if bins is not None and frames is not None:
        return (1, frames, bins)
    return (1, ("time", facts.number("sampling_rate") or _SAMPLING_RATE))


def _spectrum(facts: Facts) -> tuple[int | tuple[str, int], ...]:
    bins = facts.number(*_MEL_BINS) or 80
    positions = facts.number("max_source_positions")
    if facts.number("num_mel_bins") and positions is not None:
        return (1, bins, 2 * positions)  # Whisper: two frames for each position, and no other number of them
    return (1, ("time", 100), bins)
