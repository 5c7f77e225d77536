"""Tell a name that a person chose from one that an exporter made up."""

import re
from functools import cache

import onnx

_EXPORTER_WORDS = frozenset(
    {
        *("val", "tensor", "node", "var", "variable", "getitem", "onnx"),
        *("partitionedcall", "statefulpartitionedcall"),
        *("batchnorm", "linear", "addmm", "mm", "bmm", "conv1d", "conv2d", "conv3d", "convolution"),
        *("layernorm", "groupnorm", "view", "permute", "select", "cat", "stack", "embedding"),
    }
)
"""PyTorch's and TensorFlow's words for a value that nobody named, where ONNX has no operator of that name."""


@cache
def _operator_words() -> frozenset[str]:
    return _EXPORTER_WORDS | {schema.name.lower() for schema in onnx.defs.get_all_schemas()}


def stable_name(original: str, count: int) -> str | None:
    """Return the part of a tensor's name that a person chose, or None if an exporter made the name up.

    - Of a path, only the last part counts: `serving_default/image:0` gives `image`.
    - TensorFlow's `:0` and TorchScript's `.1` are counters: `images.1` gives `images`.
    - A number at the end is a counter if it is larger than `count`, the number of tensors on this side:
      `logits_274` gives `logits`, but `box_2` of four outputs stays.
    - What remains was made up if it has no letters (`42`), if it is `input` or `output` and had a counter, or if it is
      the name of an operator followed by a number (`batchnorm_274`, `Identity:0`, `onnx::Gemm_0`).
    """
    last = re.split(r"/|::", original)[-1]
    plain = re.sub(r"(:\d+|\.\d+)+$", "", last)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_-")
    number = re.search(r"_(\d+)$", plain)
    stem = plain[: number.start()] if number else plain
    word = re.sub(r"_?output$", "", stem.lower()) or stem.lower()
    has_counter = number is not None or plain != last
    is_operator = has_counter and word.replace("_", "") in _operator_words()
    if not re.search("[A-Za-z]", stem) or is_operator:
        return None
    if number and int(number.group(1)) > count:
        plain = stem
    return None if plain != last and plain in ("input", "output") else plain
