"""Find out before a proof, which can take minutes, whether the compiler builds anything here with the given options.

A library or the driver may be missing, the GPU too old, or an option unknown. TensorRT tells that only when it builds.
"""

import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
from onnx import TensorProto, helper, save

from builder.batching import BatchedModel, keep_static
from builder.errors import HostError, ModelError
from builder.model import load
from builder.tensorrt.building import BuildOptions, build


@dataclass(frozen=True, slots=True)
class _File:
    batched: BatchedModel
    external_files: tuple[Path, ...] = ()

    @property
    def model_bytes(self) -> bytes:
        return ir.to_proto(self.batched.ir).SerializeToString()


def check_builds(options: BuildOptions) -> None:
    """Build a plan of a network with one node, and throw it away.

    Raises:
        HostError: The compiler cannot build plans here, or not with these options.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = _File(keep_static(load(_write(Path(folder, "trial.onnx")))))
        try:
            with suppress(ModelError):  # it is about this network
                build(file, [{}], replace(options, precision="fp32", timing_cache=None), lambda _: None)
        except HostError as error:
            raise HostError("this machine", error.what, error.fix) from error


def _write(path: Path) -> Path:
    taken, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "trial", [taken], [made])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
