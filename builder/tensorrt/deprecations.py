"""What TensorRT calls deprecated, and Polygraphy still uses in every build.

Nothing of it changes what is built. As errors, such as in our tests, these warnings would end the build: those of
TensorRT 10 come from its very first lines. They are named one by one, so that others are seen.

Source: python/src/infer/pyCore.cpp and pyGraph.cpp of NVIDIA/TensorRT v10.0 to v11.1, and Polygraphy 0.53.6
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

KNOWN = (
    # `config.int8_calibrator` in polygraphy/backend/trt/util.py, str_from_config: TensorRT 10.1 to 10.16
    "Use Deprecated in TensorRT 10.1. Superseded by explicit quantization. instead.",
    # `layer.precision_is_set` in polygraphy/backend/trt/config.py: TensorRT 10.12 to 10.16
    "Use Deprecated in TensorRT 10.12. Superseded by strong typing. instead.",
    # `with timing_cache.serialize()` in polygraphy/backend/trt/loader.py: TensorRT 10 and 11, and TensorRT for RTX
    "Context managers for TensorRT types are deprecated. Memory will be freed automatically when the reference count "
    "reaches 0.",
    # any use of a timing cache: TensorRT for RTX
    "Use Deprecated in TensorRT-RTX 1.2. Timing cache operations are no-ops in TensorRT-RTX. instead.",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide these warnings while Polygraphy builds a plan."""
    with warnings.catch_warnings():
        for text in KNOWN:
            warnings.filterwarnings("ignore", re.escape(text), DeprecationWarning)
        yield
