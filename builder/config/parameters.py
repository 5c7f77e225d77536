"""The parameters that the ONNX Runtime backend reads, and the values that it takes.

Source: https://github.com/triton-inference-server/onnxruntime_backend/blob/main/src/onnxruntime.cc; ParseIntValue and
ParseBoolValue in https://github.com/triton-inference-server/backend/blob/main/src/backend_common.cc
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_NUMBERS = {
    "intra_op_thread_count": None,
    "inter_op_thread_count": None,
    "execution_mode": (0, 1),
    "arena_extend_strategy": (0, 1),
    "cudnn_conv_algo_search": (0, 1, 2),
}
"""The parameters that are whole numbers, and which ones they may be; None allows all that fit in 32 bits."""

_SWITCHES = ("enable_mem_arena", "enable_mem_pattern")

KNOWN = (
    *_NUMBERS,
    *_SWITCHES,
    "do_copy_in_default_stream",
    "gpu_mem_limit",
    "session.use_device_allocator_for_initializers",
    "TRITON_BATCH_STRATEGY_PATH",  # read by Triton itself: core, src/backend_model.cc
)
"""All of them. A parameter that is none of these is ignored."""


def parameter_problems(config: "ModelConfig") -> Iterator[str]:
    """Yield which parameters keep the ONNX Runtime backend from loading the model."""
    if config.backend != "onnxruntime":
        return
    for key, allowed in _NUMBERS.items():
        if key in config.parameters:
            value = config.parameters[key].string_value
            number = int(value) if re.fullmatch(r"\s*[-+]?\d{1,10}\s*", value, re.ASCII) else None
            if number is None or not -(2**31) <= number < 2**31:
                yield f"parameter {key} is {value!r}, which is no whole number"
            elif allowed is not None and number not in allowed:
                yield f"parameter {key} is {number}, which is none of {', '.join(map(str, allowed))}"
    for key in _SWITCHES:
        if key in config.parameters:
            value = config.parameters[key].string_value
            if value.lower() not in ("0", "1", "false", "true", "off", "on"):
                yield f"parameter {key} is {value!r}, which is neither 1 (true, on) nor 0 (false, off)"
