"""Operators through which no batch can be carried, and why."""

from collections.abc import Mapping
from itertools import chain

RANDOM = frozenset(
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)
"""Operators of ai.onnx that draw random numbers."""

_REASONS: Mapping[str, Mapping[str, list[str]]] = {
    "": {
        "it draws random numbers, so no answer can be proven": sorted(RANDOM),
        "how much it returns depends on the samples' values": ["NonZero", "StringSplit", "Unique"],
        "its size is computed from the samples": [
            "BlackmanWindow",
            "ConstantOfShape",
            "HammingWindow",
            "HannWindow",
            "MelWeightMatrix",
            "Range",
        ],
        "it decodes one image a call, of a size that depends on its bytes": ["ImageDecoder"],
        "it returns one list of boxes for the whole batch, of a length that depends on the samples' values": [
            "NonMaxSuppression"
        ],
    },
    "ai.onnx.ml": {
        "it takes or gives maps, which Triton cannot serve (scikit-learn: options={'zipmap': False})": [
            "CastMap",
            "DictVectorizer",
            "ZipMap",
        ],
    },
    "com.microsoft": {
        "how much it returns depends on the samples' values": ["Tokenizer", "Unique"],
        "it searches for the whole batch in one loop, which ends when every sample is done": [
            "BeamSearch",
            "GreedySearch",
            "Sampling",
            "WhisperBeamSearch",
        ],
        "its caches are laid out for one batch size": [
            "DecoderAttention",
            "DecoderMaskedMultiHeadAttention",
            "DecoderMaskedSelfAttention",
            "PackedAttention",
            "PackedMultiHeadAttention",
            "PagedAttention",
            "SparseAttention",
        ],
        "it takes a scale over the whole batch in every step, so that one sample changes the others": [
            "DynamicQuantizeLSTM"
        ],
        "it sends the tokens of all samples to experts together": ["MoE", "QMoE"],
        "it holds a program compiled for one device and one shape": ["EPContext", "Snpe"],
        "it is an operator of training": ["BiasDropout", "BitmaskBiasDropout", "BitmaskDropout"],
    },
    "com.microsoft.nchwc": {
        "its layout belongs to the machine that optimized the model; save it with at most the level 'extended'": [
            "AveragePool",
            "Conv",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "MaxPool",
            "ReorderInput",
            "ReorderOutput",
            "Upsample",
        ],
    },
}

REFUSED: Mapping[tuple[str, str], str] = dict(
    chain.from_iterable(
        (((domain, name), reason) for name in names)
        for domain, reasons in _REASONS.items()
        for reason, names in reasons.items()
    )
)
"""The reason for every such operator."""
