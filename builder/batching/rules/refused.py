"""Operators that the batch cannot go through, and why."""

from collections.abc import Mapping
from itertools import chain

RANDOM = frozenset(
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)
"""Operators of ai.onnx that draw random numbers."""

WITHOUT_RANDOM = "export it with the random numbers as an input, so that each request brings its own"
"""What to do with a model that draws random numbers."""

_REASONS: Mapping[str, Mapping[str, list[str]]] = {
    "": {
        "it draws random numbers, so its answers cannot be verified": sorted(RANDOM),
        "the size of its output depends on the values of the samples": ["NonZero", "StringSplit", "Unique"],
        "its size is computed from the samples": [
            "BlackmanWindow",
            "ConstantOfShape",
            "HammingWindow",
            "HannWindow",
            "MelWeightMatrix",
            "Range",
        ],
        "it decodes one image per call, and the size of the image depends on its bytes": ["ImageDecoder"],
        "it returns one list of boxes for the whole batch, and its length depends on the values of the samples": [
            "NonMaxSuppression"
        ],
    },
    "ai.onnx.ml": {
        "it reads or returns maps, which Triton cannot serve (in skl2onnx, set options={'zipmap': False})": [
            "CastMap",
            "DictVectorizer",
            "ZipMap",
        ],
    },
    "com.microsoft": {
        "the size of its output depends on the values of the samples": ["Tokenizer", "Unique"],
        "it runs one search for the whole batch, which ends when every sample is done": [
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
        "it computes a scale over the whole batch in every step, so one sample changes the answers of the others": [
            "DynamicQuantizeLSTM"
        ],
        "it routes the tokens of all samples to its experts together": ["MoE", "QMoE"],
        "it holds a program compiled for one device and one shape": ["EPContext", "Snpe"],
        "it is for training only": ["BiasDropout", "BitmaskBiasDropout", "BitmaskDropout"],
    },
    "com.microsoft.nchwc": {
        "its layout is for the machine that optimized the model; save it with optimization level 'extended' or lower": [
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

SIZED_BY_VALUES = frozenset(
    {
        *(("", name) for name in ("Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique")),
        *(("com.microsoft", name) for name in ("Tokenizer", "Unique")),
    }
)
"""Operators whose output size depends on the values of their inputs."""

REFUSED: Mapping[tuple[str, str], str] = dict(
    chain.from_iterable(
        (((domain, name), reason) for name in names)
        for domain, reasons in _REASONS.items()
        for reason, names in reasons.items()
    )
)
"""The reason for each of them."""
