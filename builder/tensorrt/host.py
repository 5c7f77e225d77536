"""Find the TensorRT and the GPU of this machine."""

import ctypes
import re
from dataclasses import dataclass, replace
from pathlib import Path

from builder.errors import HostError
from builder.tensorrt.library import find_library, is_installed

IN_CONTAINER = "docker compose run --rm builder publish MODEL.onnx --format tensorrt"
ELSEWHERE = "on a machine like this one, `inspect MODEL.onnx --format tensorrt` tells whether the model can be built"


@dataclass(frozen=True, slots=True)
class Host:
    """What a plan is built with.

    Attributes:
        tensorrt: TensorRT's version.
        cuda: The version of CUDA that the driver supports.
        driver: The driver's release.
        gpu: The name of the GPU.
        compute_capability: What the GPU can do, as NVIDIA numbers it: `9.0`. Empty if the driver does not say.
    """

    tensorrt: str
    cuda: str
    driver: str
    gpu: str
    compute_capability: str = ""


def find_host() -> Host:
    """Find the TensorRT and the GPU of this machine.

    Raises:
        HostError: The GPU, TensorRT or Polygraphy is missing. TensorRT for RTX is not enough: Triton loads no plans of
            it.
    """
    driver = _driver()
    library = find_library()
    found = {
        "an NVIDIA GPU": driver is not None,
        "tensorrt": is_installed("tensorrt"),
        "polygraphy": is_installed("polygraphy"),
    }
    if driver is None or library is None or library.is_rtx or not all(found.values()):
        missing = ", ".join(name for name, is_there in found.items() if not is_there)
        what = f"a TensorRT plan requires an NVIDIA GPU, tensorrt and polygraphy; missing: {missing}"
        fix = f"use the container that will serve the plan: {IN_CONTAINER}; {ELSEWHERE}"
        raise HostError("this machine", what, fix)
    return replace(driver, tensorrt=library.version)


def _driver() -> Host | None:
    """Ask the NVIDIA driver for its version and the first GPU; None if there is no GPU.

    Source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, version, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return None
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        text = ""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    major, minor = divmod(version.value, 1000)
    release = found[0] if found else "unknown"
    return Host("", f"{major}.{minor // 10}", release, name.value.decode(), _compute_capability(cuda, device))


def _compute_capability(cuda: ctypes.CDLL, device: ctypes.c_int) -> str:
    numbers = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        number = ctypes.c_int()
        if cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
            return ""
        numbers.append(str(number.value))
    return ".".join(numbers)
