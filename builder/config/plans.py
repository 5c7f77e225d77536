"""Which file of a version a server loads: the plan for its GPU, or the ONNX file beside it.

Source: the constructor of BackendModelInstance in
https://github.com/triton-inference-server/backend/blob/main/src/backend_model_instance.cc. An instance on a GPU loads
the file that `cc_model_filenames` has for `MAJOR.MINOR`, its compute capability as two numbers, or else
`default_model_filename`. The name has to be equal, and other keys are not looked at. An instance on a CPU never looks.
"""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from builder.config.pbtxt import messages
from builder.record import COMPUTE_CAPABILITY, PLAN_FILE, Manifest, plan_file

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
"""The older name of each backend, which a config may have instead of it or beside it."""


def name_plans(config: "ModelConfig", manifest: Manifest) -> None:
    """Name the plan for each kind of GPU, where a version has several, and remove what names those of another version.

    Entries that somebody else has written stay.
    """
    forget_plans(config)
    if manifest.backend == "tensorrt" and manifest.other_plans:
        config.cc_model_filenames.update({plan.compute_capability: plan.file for plan in manifest.plans})


def forget_plans(config: "ModelConfig") -> None:
    """Remove what names the plans of a version that was published here."""
    names = config.cc_model_filenames
    for kind in [kind for kind, file in names.items() if file in (PLAN_FILE, plan_file(kind))]:
        del names[kind]


def leave_plans(config: "ModelConfig") -> None:
    """Remove what instances say about the profiles of a plan, before a config serves an ONNX file."""
    if config.backend == "tensorrt" or config.platform == PLATFORMS["tensorrt"]:
        for group in config.instance_group:
            del group.profile[:]


def for_plan(config: "ModelConfig", manifest: Manifest) -> "ModelConfig":
    """Return the config with which a server loads the plan of a version whose config.pbtxt serves the ONNX file.

    Clients see the same: inputs, outputs, batches and queues are those of config.pbtxt. All instances run on GPUs, with
    all profiles of the plan unless they name some.

    Args:
        config: The config that serves the ONNX file.
        manifest: The version, which has a plan beside the ONNX file.
    """
    own = messages().ModelConfig()
    own.CopyFrom(config)
    own.backend, own.platform = "tensorrt", PLATFORMS["tensorrt"] if config.platform else ""
    own.default_model_filename = manifest.plans[0].file
    own.cc_model_filenames.clear()
    if manifest.other_plans:
        own.cc_model_filenames.update({plan.compute_capability: plan.file for plan in manifest.plans})
    own.optimization.ClearField("graph")
    own.optimization.ClearField("execution_accelerators")
    if not own.instance_group:
        own.instance_group.add(count=1)
    for group in own.instance_group:
        group.kind = messages().ModelInstanceGroup.KIND_GPU
        if not group.profile:
            group.profile[:] = [str(number) for number in range(len(manifest.plans[0].profiles))]
    return own


def unproven_files(config: "ModelConfig", manifest: Manifest) -> Iterator[str]:
    """Yield which files a config names for a kind of GPU that were not proven with the version, one clause each."""
    plans = {plan.file for plan in manifest.plans} if manifest.backend == "tensorrt" else set[str]()
    return other_files(config, {manifest.model.file, *plans})


def other_files(config: "ModelConfig", proven: Collection[str]) -> Iterator[str]:
    """Yield which files a config names for a kind of GPU beside those that are proven, one clause each."""
    for kind, file in sorted(config.cc_model_filenames.items()):
        if COMPUTE_CAPABILITY.fullmatch(kind) and file not in proven:
            yield f"cc_model_filenames names {file!r} for {kind}, which is not among the files that were proven"


def unread(config: "ModelConfig") -> Iterator[str]:
    """Yield the entries of cc_model_filenames that no server looks at, one sentence each."""
    for kind in sorted(config.cc_model_filenames):
        if not COMPUTE_CAPABILITY.fullmatch(kind):
            yield f"cc_model_filenames has an entry for {kind!r}, which no GPU looks for: they look for 8.0 or 9.0"
