"""The kinds of reasons for which TensorRT refuses a model, a machine or a plan, and what to do about each.

The patterns are from messages of TensorRT for RTX 1.7, which the tests provoke, from the sources of TensorRT 10's ONNX
parser (https://github.com/onnx/onnx-tensorrt), and from reports about TensorRT 8 to 10 (the issues of NVIDIA/TensorRT).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ONNX = "publish with --format onnx"
CONTAINER = "use the container that will serve the plan: docker compose run --rm builder publish ... --format tensorrt"
DECIDES_SHAPES = "its values decide shapes, and a profile cannot give them"
REBUILD = "publish the model again, on a machine with this TensorRT and this GPU"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, as far as it decides what an error says.

    Attributes:
        precision: The precision of the model.
        workspace_mb: How much scratch memory there may be; None for all there is.
        compiler: The name of what builds the plan: TensorRT, or TensorRT for RTX.
    """

    precision: str = "fp32"
    workspace_mb: int | None = None
    compiler: str = "TensorRT"


@dataclass(frozen=True, slots=True)
class Complaint:
    """One reason that TensorRT gave.

    Attributes:
        reason: What it says, in one readable line.
        node: The name of the ONNX node that it is about; empty if it names none.
        operator: The node's operator, with its domain unless that is ONNX's own; empty if it is not known.
        tensor: The input that it is about instead of a node.
        is_added: Whether the node has no such name in the user's file.
    """

    reason: str
    node: str = ""
    operator: str = ""
    tensor: str = ""
    is_added: bool = False

    @property
    def at(self) -> str:
        """Where it is, as messages name it; empty if that is not known."""
        if self.node:
            return f"{self.operator or 'node'} {self.node}{' (a name that builder gave)' if self.is_added else ''}"
        return self.operator or (f"input {self.tensor!r}" if self.tensor else "")


Fix = Callable[[Complaint, Asked], str]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of reason.

    Attributes:
        pattern: How TensorRT words it.
        fix: What to do about it. Groups of the pattern are filled in: `{input}`.
        what: The reason in other words, where TensorRT's are hard to understand, with groups of the pattern filled in.
        is_host: Whether the machine is the cause, and not the model.
        is_about_precision: Whether the same model may be built with some of its nodes in fp32.
        is_about_workspace: Whether it is this kind only where `--workspace-mb` was given. Without it, all the memory
            there is was too little, and then the words say something else.
    """

    pattern: re.Pattern[str]
    fix: str | Fix
    what: str = ""
    is_host: bool = False
    is_about_precision: bool = False
    is_about_workspace: bool = False


def without_precision(complaint: Complaint, asked: Asked) -> str:
    """Return the fix for what may be a matter of the precision."""
    return ONNX if asked.precision == "fp32" else f"leave out --precision {asked.precision}, or {ONNX}"


def _quantized(complaint: Complaint, asked: Asked) -> str:
    if asked.precision == "int8-dynamic":
        return f"use --precision int8 --calibration FILE.npz, which TensorRT has operators for, or {ONNX}"
    return f"start from the model before it was quantized, with --precision int8 --for tensorrt, or {ONNX}"


def _missing_operator(complaint: Complaint, asked: Asked) -> str:
    if complaint.operator.startswith(("MatMulInteger", "ConvInteger", "QLinear", "DynamicQuantizeLinear")):
        return _quantized(complaint, asked)
    if complaint.operator.startswith("com.microsoft."):
        return f"export it without ONNX Runtime's optimizations, which write that operator, or {ONNX}"
    return f"export it without that operator, or {ONNX}"


def _zero_points(complaint: Complaint, asked: Asked) -> str:
    if asked.precision == "int8":
        return f"quantize it with --for tensorrt, or {ONNX}"
    fix = "start from the model before it was quantized, with --precision int8 --for tensorrt, or quantize it "
    return f"{fix}symmetrically; or {ONNX}"


def _runtime_library(complaint: Complaint, asked: Asked) -> str:
    if asked.compiler != "TensorRT":
        return f"leave out --version-compatible, which {asked.compiler} has no libraries for"
    part = "dispatch" if "dispatch" in complaint.reason else "lean"
    return (
        f"install NVIDIA's package tensorrt-{part} in the version of this TensorRT, or leave out --version-compatible"
    )


def _constant(complaint: Complaint, asked: Asked) -> str:
    return f"turn it into a constant with --constant {complaint.tensor}=VALUE, or {ONNX}"


def _workspace(_: Complaint, asked: Asked) -> str:
    return f"allow more than --workspace-mb {asked.workspace_mb}, or leave it out"


def _memory(complaint: Complaint, asked: Asked) -> str:
    if asked.workspace_mb is not None:
        return _workspace(complaint, asked)
    return "free memory of the GPU, or lower --max-batch-size or the largest shapes of --profile"


def _kind(pattern: str, fix: str | Fix, what: str = "", **about: bool) -> Kind:
    return Kind(re.compile(pattern, re.IGNORECASE | re.DOTALL), fix, what, **about)


_MACHINE = (
    _kind(
        r"unable to load library:? \S*(?:lean|dispatch)|could not determine path for lean runtime",
        _runtime_library,
        is_host=True,
    ),
    _kind(
        r"unable to load library",
        f"install TensorRT again, so that all of its libraries have one version, or {CONTAINER}",
        is_host=True,
    ),
    _kind(
        r"cuda driver version is insufficient|cannot load cuda driver|failed to (?:load|query) cuda driver",
        f"install or update the driver, or {CONTAINER}",
        "this machine has no driver for an NVIDIA GPU, or one that is too old for this TensorRT",
        is_host=True,
    ),
    _kind(
        r"out ?of ?memory|insuff?icient memory|device memory is insufficient|workspace memory greater than"
        r"|cudaErrorMemoryAllocation|cudaError 2\b",
        _memory,
        is_host=True,
    ),
    _kind(
        r"no tactics to implement the operation within workspace limit",
        _workspace,
        "it has no kernel that works with so little scratch memory",
        is_host=True,
        is_about_workspace=True,
    ),
    _kind(
        r"does not support this compute capability|target gpu .*? is not supported|compute capability is invalid",
        f"use a TensorRT that supports this GPU, or {ONNX}",
        is_host=True,
    ),
)

_PLANS = (
    _kind(
        r"current version: (?P<here>\d+), serialized engine version: (?P<plan>\d+)",
        REBUILD,
        "another version of TensorRT built the plan: its format has the version {plan}, and this TensorRT's {here}",
        is_host=True,
    ),
    _kind(
        r"expecting library version (?P<here>[\d.]+\d) got (?P<plan>[\d.]+\d)",
        REBUILD,
        "TensorRT {plan} built the plan, and this is TensorRT {here}",
        is_host=True,
    ),
    _kind(
        r"expecting compute (?:capability )?(?P<here>\d+\.\d+),? (?:but )?"
        r"got compute (?:capability )?(?P<plan>\d+\.\d+)",
        f"{REBUILD}; with --hardware-compatible it also runs on later ones",
        "the plan was built for a GPU of compute capability {plan}, and this one has {here}",
        is_host=True,
    ),
    _kind(
        r"engine cannot run on this gpu|different gpu architecture",
        f"{REBUILD}; with --hardware-compatible it also runs on later ones",
        is_host=True,
    ),
    _kind(
        r"incompatible serialization version|magictag|old deserialization call on a newer plan",
        REBUILD,
        "this TensorRT cannot read it: another version built it, or TensorRT for RTX did, or it is no plan",
        is_host=True,
    ),
    _kind(
        r"serialization assertion|plan\.header|corrupt|blob size mismatch|entry count is inconsistent"
        r"|empty memory buffer|\.offset >= cursor|cursor < blobsize",
        "restore the file, or publish the model again",
        "the plan is damaged: {reason}",
        is_host=True,
    ),
)

_SHAPES = (
    _kind(DECIDES_SHAPES, _constant),
    _kind(
        r"dynamic-shaped input tensor (?P<input>.+) has (?P<dims>\d+) dimensions but profile \d+ has (?P<given>\d+)",
        "give {dims} sizes each in --profile {input}=MIN:OPT:MAX",
        "input {input!r} has {dims} dimensions with the batch, and its profile has {given}",
    ),
    _kind(
        r"dimension mismatch for tensor (?P<input>.+?) and profile.* axis (?P<axis>\d+),.* tensor has (?P<size>\d+)",
        "give it the size {size} there in --profile {input}=MIN:OPT:MAX",
        "axis {axis} of input {input!r} is {size} in the model, and not in its profile",
    ),
    _kind(
        r"min ?<= ?opt ?<= ?max",
        "give sizes that rise from MIN to OPT to MAX in --profile INPUT=MIN:OPT:MAX",
    ),
    _kind(
        r"not self-consistent|violate shape constraints|must be conformable|has no solution",
        f"give shapes in --profile that the model accepts together, or {ONNX}",
        "it fails at the shapes of the profile: {reason}",
    ),
)

_OPERATORS = (
    _kind(
        r"non-zero zero point|shiftIsAllZeros|only supports symmetric quantization|supports only zero shifts"
        r"|must (?:be|contains?) all zeros",
        _zero_points,
        "its zero point is not 0, and TensorRT only quantizes symmetrically",
    ),
    _kind(
        r"plugin creator version \d+ was not found|not found in (?:the )?plugin registry|failed to load \w+ plugin",
        _missing_operator,
        "the plugin that TensorRT has for it is not installed here",
    ),
    _kind(
        r"^false$|plugin not found|no importer registered|could not find plugin",
        _missing_operator,
        "TensorRT has no such operator",
    ),
    _kind(
        r"not support uint8 types|with uint8 zero_point",
        _quantized,
        "TensorRT has no uint8 numbers inside of a network, only int8",
    ),
    _kind(
        r"at least opset 7|pre-opset 7",
        f"export it with opset 13 or higher, or {ONNX}",
    ),
    _kind(
        r"convert onnx dimensions|exceeds dims::max_dims",
        f"reshape it to fewer dimensions in the model, or {ONNX}",
        "it has more than the 8 dimensions that TensorRT supports",
    ),
    _kind(
        r"convert onnx dat[ae] type|unsupported (?:onnx )?data type|invalid data type",
        f"use float32, int32, int64 or bool there, or {ONNX}",
        "TensorRT does not support its data type",
    ),
    _kind(
        r"(?:have|of|be) (?:the )?same (?:input )?(?:data ?)?types?|inconsistent types|types? mismatch",
        without_precision,
        is_about_precision=True,
    ),
    _kind(
        r"(?P<operator>\w+) operation was not supported by a dedicated kernel",
        f"export it with opset 22 or lower, where attention is made of MatMul and Softmax, or {ONNX}",
        "TensorRT has no kernel for an {operator} of these shapes and types",
    ),
    _kind(
        r"no runners that implement it|could not find any implementation|no implementation available"
        r"|no tactics to implement",
        without_precision,
        "TensorRT has no kernel for it",
        is_about_precision=True,
    ),
)

_FILES = (
    _kind(
        r"maximum protobuf size|2 ?GB limit",
        f"keep large weights in an external file, as torch.onnx.export does with external_data=True, or {ONNX}",
    ),
    _kind(
        r"size of weights exceeds|exceeds the maximum (?:supported )?element count|tensor volume exceeds",
        f"split that tensor in the model, or {ONNX}",
        "it is larger than TensorRT supports: {reason}",
    ),
)

KINDS: Sequence[Kind] = (*_MACHINE, *_PLANS, *_SHAPES, *_OPERATORS, *_FILES)
"""All kinds; the first one that fits counts."""
