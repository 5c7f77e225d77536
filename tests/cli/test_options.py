"""Every option fills the field of its name, and every field has one option."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder.bounded import Limits
from builder.cli import cli
from builder.cli.conflicts import check_options
from builder.cli.faults import BadValue, WrongUsage
from builder.cli.filling import field_names, fill, inner_classes
from builder.config import ConfigOptions, InstanceGroup, Resource, Shapes
from builder.exporting import ExportOptions, InputSpec
from builder.proof import AccuracyOptions
from builder.publishing import PublishOptions
from builder.tensorrt import BuildOptions

CALL = {"model", "repository", "name", "inputs", "exporter", "opset", "task", "is_download",
        "revision", "sha256", "is_verbose", "as_json"}  # fmt: skip
"""What `publish` passes on by itself, beside the fields of PublishOptions."""


def parsed(command: str, *arguments: str) -> dict[str, Any]:
    """Return the parameters of a command line, as the command gets them."""
    return cli.commands[command].make_context(command, list(arguments)).params


def declared(command: str) -> list[str]:
    return [param.name for param in cli.commands[command].params if param.name]


def fields_to_fill(kind: type[Any]) -> set[str]:
    """Return the names that the command line fills: a field's, unless it holds another option class."""
    inner = inner_classes(kind)
    own = set(field_names(kind)) - set(inner)
    return own.union(*map(fields_to_fill, inner.values()))


def mismatches(options: Iterable[str], kind: type[Any], others: set[str]) -> list[str]:
    """Return the fields that do not have exactly one option, and the options that have no field."""
    counts = Counter(options)
    names = fields_to_fill(kind)
    return [
        *(f"no option: {name}" for name in sorted(names - counts.keys())),
        *(f"no field: {name}" for name in sorted(counts.keys() - names - others)),
        *(f"{count} options: {name}" for name, count in counts.items() if count > 1),
    ]


def test_every_field_of_publish_has_one_option_and_every_option_a_field() -> None:
    assert mismatches(declared("publish"), PublishOptions, CALL) == []


def test_every_field_of_export_has_one_option_and_every_option_a_field() -> None:
    assert mismatches(declared("export"), ExportOptions, {"model", "file", "sha256", "as_json"}) == []


def test_every_option_of_configure_is_a_field_of_the_config_and_only_what_the_proof_decides_has_none() -> None:
    others = {"name", "repository", "dry_run", "lock_timeout_s", "as_json"}
    decided = {"accelerator", "profiles", "fallback"}
    assert mismatches(declared("configure"), ConfigOptions, others) == [
        f"no option: {name}" for name in sorted(decided)
    ]


@dataclass(frozen=True)
class Inner:
    depth: int = 1
    name: str = "inner"


@dataclass(frozen=True)
class Outer:
    name: str = "outer"
    inner: Inner = field(default_factory=Inner)


def test_a_missing_and_an_extra_option_are_found() -> None:
    assert mismatches(["name", "depth"], Outer, set()) == []
    assert mismatches(["name"], Outer, set()) == ["no option: depth"]
    assert mismatches(["name", "depth", "width"], Outer, set()) == ["no field: width"]
    assert mismatches(["name", "depth", "name"], Outer, set()) == ["2 options: name"]
    assert mismatches(["name", "depth", "model"], Outer, {"model"}) == []


def test_fill_takes_the_values_of_its_fields_and_leaves_the_others() -> None:
    given = {"name": "a", "depth": 2, "model": "m.onnx"}
    assert fill(Outer, given) == Outer("a", Inner(2, "inner"))
    assert given == {"model": "m.onnx"}
    assert fill(Outer, {"name": None, "depth": None}) == Outer()


def test_a_command_line_without_options_is_the_default_options() -> None:
    assert fill(PublishOptions, parsed("publish", "m.onnx")) == PublishOptions()


EXPECTED = PublishOptions(
    is_per_sample=True,
    input_names=("a", "b"),
    output_names=("c",),
    renames={"x=0": "y", "z": "w"},
    batch_axes={"a": 1, "b": None},
    constants={"s": 0.5, "t": Path("t.npy")},
    outputs=("c",),
    dynamic={"a": {2: "height", 3: "width"}},
    sizes={"time": 8, "past": 7, "mask:1": 8},
    samples=Path("s.npz"),
    effort="full",
    precision="bf16",
    calibration=Path("c.npz"),
    runtime="tensorrt",
    max_error=0.02,
    min_speedup=1.5,
    accuracy=AccuracyOptions(metric="f1@0.3", label_output="c", max_accuracy_drop=0.005),
    triton="26.10",
    format="tensorrt",
    fallback="onnx",
    keep_plans=True,
    profiles=(("a", Shapes((1, 2), (3, 2), (4, 2))), ("a", Shapes((4, 2), (5, 2), (6, 2)))),
    build=BuildOptions(
        timing_cache=Path("cache"), workspace_mb=64, version_compatible=True, hardware_compatible=True,
        builder_optimization_level=4, tiling_optimization_level="fast", build_route="-a=1",
    ),
    config=ConfigOptions(
        max_batch_size=64,
        max_queue_delay_us=500,
        preferred_batch_sizes=(8, 16),
        preserve_ordering=True,
        priority_levels=3,
        default_priority=2,
        max_queue_size=100,
        queue_timeout_us=7000,
        queue_timeout_action="delay",
        queue_timeout_override=True,
        instances=2,
        kind="gpu",
        instance_groups=(
            InstanceGroup("gpu", 2, (0, 1)),
            InstanceGroup("cpu", 1, name="a", host_policy="h", passive=True, profiles=(0, 2)),
        ),
        rate_limiter_resources={"memory": Resource(4), "disk": Resource(1, is_global=True)},
        rate_limiter_priority=2,
        intra_op_thread_count=3,
        response_cache=True,
        labels={"scores": Path("l.txt"), "other": None},
        metric_labels={"team": "vision", "old": ""},
        parameters={"execution_mode": "1"},
        warmup=False,
        accelerator="tensorrt",
        cuda_graphs=True,
        unset_fields=("dynamic_batching",),
        set_fields=(("optimization.graph.level", "1"), ('parameters["a=b"].string_value', "c=d")),
    ),
    serve=False,
    serve_also=(2, 1),
    dry_run=True,
    lock_timeout_s=30.0,
    limits=Limits(prove_timeout=90.0, prove_memory=2_500_000_000),
)  # fmt: skip
GIVEN = (
    "m.onnx --per-sample --input-names a,b --output-names c --rename x=0=y --rename z=w --batch-axis a=1 "
    "--batch-axis b=none --constant s=0.5 --constant t=t.npy --output c --dynamic a:2=height,3=width "
    "--size time=8,past=7 --size mask:1=8 --samples s.npz --prove full "
    "--precision bf16 --calibration c.npz --for tensorrt "
    "--max-error 0.02 --min-speedup 1.5 --metric f1@0.3 --label-output c --max-accuracy-drop 0.5% "
    "--triton 26.10-py3 --format tensorrt --profile a=1x2:3x2:4x2 "
    "--fallback onnx --keep-plans --builder-optimization-level 4 --tiling-optimization-level fast --build-route -a=1 "
    "--profile a=4x2:5x2:6x2 --timing-cache cache --workspace-mb 64 --version-compatible --hardware-compatible "
    "--max-batch-size 64 --max-queue-delay-us 500 --preferred-batch-size 8,16 --instances 2 --kind gpu "
    "--intra-op-thread-count 3 --no-warmup --accelerator tensorrt --cuda-graphs "
    "--preserve-ordering --priority-levels 3 --default-priority 2 --max-queue-size 100 --queue-timeout-us 7000 "
    "--queue-timeout-action delay --queue-timeout-override --response-cache --labels scores=l.txt --labels other= "
    "--instance-group 2xgpu:0,1 --instance-group cpu~name=a~host_policy=h~passive~profile=0,2 "
    "--rate-limiter-resource memory=4 --rate-limiter-resource disk=1,global --rate-limiter-priority 2 "
    "--metric-label team=vision --metric-label old= --parameter execution_mode=1 --unset dynamic_batching "
    '--set optimization.graph.level=1 --set parameters["a=b"].string_value=c=d '
    "--no-serve --serve-also 2 --serve-also 1 --dry-run "
    "--lock-timeout 30s --prove-timeout 90s --prove-memory 2.5GB"
)


def unchanged(options: Any, defaults: Any) -> set[str]:
    """Return the fields that have their default value, those of option classes inside included."""
    inner = inner_classes(type(options))
    pairs = {name: (getattr(options, name), getattr(defaults, name)) for name in field_names(type(options))}
    own = {name for name, (value, default) in pairs.items() if name not in inner and value == default}
    return own.union(*(unchanged(*pairs[name]) for name in inner))


def test_the_command_line_below_gives_every_option() -> None:
    assert unchanged(EXPECTED, PublishOptions()) == {
        "is_static",
        "profiles",
        "precision",
        "fallback",
    }  # the last: inner ones


def test_every_option_of_publish_fills_its_field() -> None:
    given = (argument.replace("~", " ") for argument in GIVEN.split())
    assert fill(PublishOptions, parsed("publish", *given)) == EXPECTED


def test_every_option_of_export_fills_its_field() -> None:
    given = parsed(
        "export", "m:f", "-o", "m.onnx", "--input", "x=float32[1,4]", "--batch-axis", "x=1", "--dynamic", "x:0=time",
        "--static", "--exporter", "torchscript", "--opset", "18", "--samples", "s.npz", "--size", "time=8",
        "--constant", "depth=[1, 2]", "--output", "logits,states", "--verbose",
        "--task", "fill-mask", "--download", "--revision", "main",
    )  # fmt: skip
    assert fill(ExportOptions, given) == ExportOptions(
        inputs=(InputSpec.parse("x=float32[1,4]"),),
        batch_axes={"x": 1},
        dynamic={"x": {0: "time"}},
        is_static=True,
        exporter="TorchScript",
        opset=18,
        sizes={"time": 8},
        samples=Path("s.npz"),
        constants={"depth": [1, 2]},
        outputs=("logits", "states"),
        is_verbose=True,
        task="fill-mask",
        is_download=True,
        revision="main",
    )
    assert given.keys() == {"model", "file", "sha256", "as_json"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h", 3600), ("2.5", 2.5), ("0", 0), ("1.5 m", 90)]
)
def test_a_duration_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    given = parsed("deploy", "m", "--server", "grpc://127.0.0.1:8001", "--watch", text)
    assert given["watch_s"] == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500MB", 500_000_000),
        ("4GB", 4 * 10**9),
        ("512kb", 512_000),
        ("2.5 G", 2_500_000_000),
        ("10k", 10_000),
        ("7", 7),
        ("9" * 400, 2**63 - 1),
    ],
)
def test_a_size_has_a_unit_or_is_in_bytes(text: str, size: int) -> None:
    assert parsed("inspect", "m.onnx", "--prove-memory", text)["prove_memory"] == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "4 gigabytes", "nan", "1e9"])
def test_other_text_is_no_size(text: str) -> None:
    with pytest.raises(BadValue, match="is not a size"):
        parsed("inspect", "m.onnx", "--prove-memory", text)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--labels", "scores", "not of the form OUTPUT=FILE"),
        ("--labels", "=l.txt", "not of the form OUTPUT=FILE"),
        ("--metric-label", "team", "not of the form NAME=VALUE"),
        ("--instance-group", "2xtpu", "is not a group of instances"),
        ("--instance-group", "", "is not a group of instances"),
        ("--instance-group", "0xcpu", "has no instances"),
        ("--instance-group", "cpu:0", "names GPUs"),
        ("--instance-group", "gpu:0,0", "has a number twice"),
        ("--instance-group", "gpu:0,", "is not a list of numbers"),
        ("--instance-group", "gpu count=2", "is no setting of a group"),
        ("--rate-limiter-resource", "memory", "not of the form NAME=COUNT"),
        ("--rate-limiter-resource", "memory=9999999999", "too large"),
        ("--set", "optimization.graph.level", "not of the form PATH=VALUE"),
        ("--set", "optimization.graph.level=", "has no value"),
        ("--set", "optimisation.graph.level=1", "has no field 'optimisation'"),
        ("--set", "version_policy.latest.num_versions=2", "which versions are served"),
        ("--unset", "max_batch_size", "has to be proven"),
        ("--priority-levels", "-1", "too small"),
        ("--queue-timeout-us", str(2**63 - 1), "too large"),
        ("--min-speedup", "-1", "not a number from 0 to 100"),
        ("--min-speedup", "nan", "not a number from 0 to 100"),
        ("--min-speedup", "fast", "not a number"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused(option: str, value: str, message: str) -> None:
    with pytest.raises(BadValue, match=message) as found:
        parsed("publish", "m.onnx", f"{option}={value}")
    assert found.value.fix


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--instances 2 --instance-group cpu", "--instances and --instance-group cannot be used together"),
        ("--kind cpu --instance-group cpu", "--kind and --instance-group cannot be used together"),
        ("--priority-levels 2 --default-priority 3", "not one of the 2 levels"),
        ("--priority-levels 0 --default-priority 1", "not one of the 0 levels"),
        ("--intra-op-thread-count 1 --parameter intra_op_thread_count=2", "set the same"),
        ("--min-speedup 1.1", "--min-speedup has no effect with --precision fp32"),
        ("--min-speedup 1.1 --precision fp16", "--min-speedup has no effect with --precision fp16"),
        ("--precision int8", "--precision int8 needs real inputs"),
        ("--calibration c.npz", "--calibration is only for --precision int8"),
        ("--precision fp16 --for cpu", "--for is only for --precision int8"),
        ("--precision int8 --samples s.npz --for cpu --format tensorrt", "TensorRT does not accept what --for cpu"),
        ("--precision int8 --samples s.npz --for tensorrt --min-speedup 1.1", "--min-speedup is about this CPU"),
        ("--precision int8-dynamic --format tensorrt", "TensorRT cannot quantize values while a model runs"),
        ("--precision int8-dynamic --accelerator tensorrt", "TensorRT cannot quantize values while a model runs"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(arguments: str, message: str) -> None:
    with pytest.raises(WrongUsage, match=message):
        check_options(fill(PublishOptions, parsed("publish", "m.onnx", *arguments.split())))
