"""Find out before a proof, which can take minutes, whether the compiler builds anything here with the given options.

A library or the driver may be missing, the GPU too old, or an option unknown. TensorRT tells that only when it builds.
"""

import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
from onnx import TensorProto, helper, save

from builder import files
from builder.batching import BatchedModel, keep_static
from builder.errors import HostError, ModelError
from builder.model import load
from builder.tensorrt.building import BuildOptions, build, has_cache

_MAGIC_BYTES = 4


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
        HostError: The compiler cannot build plans here, or not with these options; or the file that it would keep its
            timings in holds something else.
    """
    timings = None
    with tempfile.TemporaryDirectory() as folder:
        file = _File(keep_static(load(_write(Path(folder, "trial.onnx")))))
        try:
            with suppress(ModelError):  # it is about this network
                built = build(file, [{}], replace(options, precision="fp32", timing_cache=None), lambda _: None)
                timings = built.cache
        except HostError as error:
            raise HostError("this machine", error.what, error.fix) from error
    if options.timing_cache is not None and timings is not None:
        check_timing_cache(options.timing_cache, timings)


def check_timing_cache(path: Path, timings: bytes) -> None:
    """Refuse a file that is no timing cache: the build would overwrite it, whatever it holds.

    Args:
        path: The file that the user names. It may be missing or empty.
        timings: What the compiler writes; its first bytes are those of every timing cache.

    Raises:
        HostError: It does not begin as a timing cache does, or cannot be read.
    """
    if not has_cache(path):
        return
    with files.open_file(path) as stream:
        head = stream.read(_MAGIC_BYTES)
    if head and head != timings[:_MAGIC_BYTES]:
        what = "it is not a timing cache of the installed TensorRT, and the build would overwrite it"
        raise HostError(path, what, "name a file that does not exist yet with --timing-cache")


def _write(path: Path) -> Path:
    taken, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "trial", [taken], [made])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
