"""Let NVIDIA's compiler build a file as it is: what a user without this project would see first.

    python plans_plain.py MODEL.onnx

It uses TensorRT for RTX's own Python API and nothing of the project: a strongly typed network without TF32, and the
shapes that the file has. The answer is one line of JSON: the bytes of the plan, or the parser's or the builder's words.
"""

import json
import sys
import time
from typing import Any

import tensorrt_rtx_bindings as trt


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps the errors."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Take a line of the log."""
        if severity <= trt.ILogger.ERROR:
            self.errors.append(message)


def build(model: str) -> dict[str, Any]:
    """Return the size of the plan, or why there is none."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(model):
        error = parser.get_error(0)
        return {"outcome": "refused by it", "why": f"{error.node_operator()} {error.node_name()!r}: {error.desc()}"}
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return {"outcome": "refused by it", "why": next(iter(log.errors), "it gave no reason")}
    return {"outcome": "built", "bytes": plan.nbytes}


def main() -> None:
    start = time.monotonic()
    print(json.dumps(build(sys.argv[1]) | {"seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main()
