import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.artifacts import scale

from builder.batching import BatchedTensor
from builder.config import Config, ConfigOptions, ExistingConfig, apply_options, make_config, pbtxt
from builder.config.rules import problems
from builder.errors import ModelError, RepositoryError
from builder.record import Manifest, ServedTensor, reference
from builder.tensors import TRITON_TYPES

ARTIFACT = scale()
SAMPLE = reference.first_row(ARTIFACT.reference)


def make(
    existing: str | None = None, *, version: int = 1, manifest: Manifest = ARTIFACT.manifest, **options: Any
) -> Config:
    return make_config(
        manifest,
        name="scale",
        version=version,
        sample=SAMPLE,
        options=ConfigOptions(**options),
        existing=None if existing is None else ExistingConfig(existing, ARTIFACT.manifest, Path("config.pbtxt")),
    )


def read(text: str) -> Any:
    return pbtxt.parse(text, where="config.pbtxt")


def with_batch(max_batch_size: int) -> Manifest:
    manifest = ARTIFACT.manifest
    proof = replace(manifest.proof, batch_sizes=(1, max_batch_size) if max_batch_size else ())
    return replace(manifest, max_batch_size=max_batch_size, proof=proof)


# A new config


def test_a_new_config_is_complete() -> None:
    config = read(make().text)

    assert (config.name, config.backend, config.max_batch_size) == ("scale", "onnxruntime", 8)
    assert list(config.version_policy.specific.versions) == [1]
    types = pbtxt.messages().DataType
    assert [(t.name, types.Name(t.data_type), list(t.dims)) for t in (*config.input, *config.output)] == [
        *[("x", "TYPE_FP32", [3]), ("n", "TYPE_INT64", [1]), ("s", "TYPE_STRING", [2])],
        *[("y", "TYPE_FP32", [3]), ("m", "TYPE_INT64", [1]), ("t", "TYPE_STRING", [2])],
    ]
    assert [t.name for t in (*config.input, *config.output) if t.HasField("reshape")] == ["n", "m"]
    assert config.HasField("dynamic_batching")
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, 0)]
    assert list(problems(config)) == []


def test_a_config_is_the_same_text_each_time() -> None:
    assert make().text == make().text


def test_a_config_records_where_the_version_came_from() -> None:
    parameters = read(make().text).parameters

    assert {key: value.string_value for key, value in parameters.items()} == {
        "builder.version": "0.1.0",
        "builder.source_file": "scale.onnx",
        "builder.source_sha256": "0" * 64,
        "builder.model_sha256": ARTIFACT.manifest.model.sha256,
    }


def test_without_batching_dims_are_the_whole_shape_and_nothing_is_batched() -> None:
    inputs = (ServedTensor("x", "x", "TYPE_FP32", (1, 3)),)
    manifest = replace(with_batch(0), inputs=inputs, outputs=inputs)

    config = read(make_config(manifest, name="scale", version=1, sample={"x": np.ones((1, 3), np.float32)}).text)

    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [1, 3]
    assert not config.HasField("dynamic_batching")
    assert [entry.batch_size for entry in config.model_warmup] == [1]


def test_a_scalar_cannot_be_served_without_batching() -> None:
    with pytest.raises(ModelError, match=r"'n'.*scalar"):
        make(manifest=with_batch(0))


def test_options_are_written() -> None:
    config = read(
        make(
            max_queue_delay_us=500,
            preferred_batch_sizes=(4, 8),
            instances=2,
            kind="cpu",
            intra_op_thread_count=3,
            warmup=False,
        ).text
    )

    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.instance_group[0].count == 2
    assert config.instance_group[0].kind == pbtxt.messages().ModelInstanceGroup.KIND_CPU
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert not config.model_warmup


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        ({"instances": 2}, ["each of the 2 instances starts a thread for every core"]),
        ({"instances": 2, "intra_op_thread_count": 1}, []),
        ({"instances": 2, "kind": "gpu"}, []),
        ({}, []),
    ],
)
def test_several_instances_with_a_thread_for_every_core_are_noted(options: dict[str, Any], notes: list[str]) -> None:
    config = make(**options)

    assert len(config.notes) == len(notes)
    for note, expected in zip(config.notes, notes, strict=True):
        assert expected in note


def test_queue_delay_without_batching_is_refused() -> None:
    inputs = (ServedTensor("x", "x", "TYPE_FP32", (1, 3)),)
    with pytest.raises(RepositoryError, match="max_batch_size is 0, so --max-queue-delay-us would have no effect"):
        make(manifest=replace(with_batch(0), inputs=inputs, outputs=inputs), max_queue_delay_us=1)


def test_a_preferred_batch_above_the_largest_is_refused() -> None:
    with pytest.raises(RepositoryError, match="preferred_batch_size 16 is not between 1 and max_batch_size 8"):
        make(preferred_batch_sizes=(4, 16))


# Warmup


def test_warmup_runs_one_row_and_the_largest_batch_of_the_reference() -> None:
    config = make()
    message = read(config.text)

    assert [(entry.name, entry.batch_size) for entry in message.model_warmup] == [
        ("reference_batch_1", 1),
        ("reference_batch_8", 8),
    ]
    files = {name: config.warmup[data.input_data_file] for name, data in message.model_warmup[1].inputs.items()}
    np.testing.assert_array_equal(np.frombuffer(files["x"], "<f4"), [0, 1, 2])
    assert files["n"] == (10).to_bytes(8, "little")
    assert files["s"] == b"\x05\0\0\0row 0" + b"\x08\0\0\0" + "größer".encode()
    assert {name: list(data.dims) for name, data in message.model_warmup[1].inputs.items()} == {
        "x": [3],
        "n": [1],
        "s": [2],
    }


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([True, False]), b"\1\0"),
        (np.array([1], ">i2"), b"\1\0"),
        (np.array([[1, 2], [3, 4]], np.uint8, order="F"), b"\1\2\3\4"),
        (np.array(1.0, np.float16), b"\0\x3c"),
        (np.array([""]), b"\0\0\0\0"),
        (np.array([b"ab"]), b"\2\0\0\0ab"),
        (np.empty((0, 3), np.float32), b""),
    ],
)
def test_raw_bytes_are_what_a_request_carries(array: np.ndarray[Any, Any], expected: bytes) -> None:
    assert reference.raw_bytes(array) == expected


def test_warmup_follows_the_largest_batch_and_keeps_what_was_edited() -> None:
    text = make().text.replace("batch_size: 8\n  inputs", "batch_size: 8\n  count: 5\n  inputs")
    text += '\nmodel_warmup { name: "mine" batch_size: 2'
    for key, row in (("x", "TYPE_FP32 dims: 3"), ("n", "TYPE_INT64 dims: 1"), ("s", "TYPE_STRING dims: 2")):
        text += f' inputs {{ key: "{key}" value {{ zero_data: true data_type: {row} }} }}'
    text += " }\n"

    edited = make(text, version=2, manifest=with_batch(16)).text

    assert [(entry.name, entry.batch_size, entry.count) for entry in read(edited).model_warmup] == [
        ("reference_batch_1", 1, 0),
        ("reference_batch_16", 16, 5),
        ("mine", 2, 0),
    ]
    assert make(edited, version=2, manifest=with_batch(16)).text == edited


def test_warmup_that_was_removed_by_hand_does_not_come_back_unless_asked_for() -> None:
    text = make().text
    without = text[: text.index("model_warmup")]

    assert not read(make(without, version=2).text).model_warmup
    assert not make(without, version=2).warmup
    assert len(read(make(without, version=2, warmup=True).text).model_warmup) == 2
    assert not read(make(text, version=2, warmup=False).text).model_warmup


# An existing config


def test_only_what_belongs_to_the_version_changes() -> None:
    other = replace(ARTIFACT.manifest, model=replace(ARTIFACT.manifest.model, sha256="e" * 64))
    before = make().text.splitlines()

    after = make("\n".join(before), version=2, manifest=other).text.splitlines()

    gone, come = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    assert gone == [f'    string_value: "{ARTIFACT.manifest.model.sha256}"', "    versions: [1]"]
    assert come == [f'    string_value: "{"e" * 64}"', "    versions: [2]"]


HAND_WRITTEN = """# Served to the web team. Ask them before changing this.
name: "scale"
platform: "onnxruntime_onnx"
max_batch_size: 8   # their largest page
input [
  { name: "s", data_type: TYPE_STRING, dims: [ 2 ] },
  { name: "x", data_type: TYPE_FP32, dims: 3 }, # pixels
  { name: "n" data_type: TYPE_INT64 dims: [1] reshape: { shape: [] } }
]
output < name: "y" data_type: TYPE_FP32 dims: [3] label_filename: "labels.txt" >;
version_policy: { specific { versions: 1 } }
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 100 preferred_batch_size: [ 4, 8 ] }
parameters { key: "intra_op_thread_count" value: { string_value: "2" } } # measured
parameters { key: "note" value: { string_value: "a # is no comment" } }
a_field_of_tomorrow { depth: 2 }
"""


def test_a_config_written_by_hand_keeps_its_comments_layout_and_unknown_fields() -> None:
    config = make(HAND_WRITTEN, version=2)

    kept = [line for line in HAND_WRITTEN.splitlines() if not line.startswith("version_policy")]
    lines = config.text.splitlines()
    assert [line for line in lines if line in kept] == kept
    message = read(config.text)
    assert list(message.version_policy.specific.versions) == [2]
    assert message.parameters["builder.source_file"].string_value == "scale.onnx"
    (note,) = config.notes
    assert "a_field_of_tomorrow" in note


def test_options_win_over_what_was_edited_and_leave_the_rest() -> None:
    text = make(HAND_WRITTEN, version=2, max_queue_delay_us=7, instances=4).text

    message = read(text)
    assert message.dynamic_batching.max_queue_delay_microseconds == 7
    assert list(message.dynamic_batching.preferred_batch_size) == [4, 8]
    group = message.instance_group[0]
    assert (group.count, group.kind) == (4, pbtxt.messages().ModelInstanceGroup.KIND_CPU)
    assert "# their largest page" in text


def test_dynamic_batching_that_was_removed_by_hand_comes_back_only_with_one_of_its_options() -> None:
    text = make().text.replace("dynamic_batching {\n}\n", "")

    assert not read(make(text, version=2).text).HasField("dynamic_batching")
    assert read(make(text, version=2, max_queue_delay_us=0).text).HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dims: 3 }", "dims: 4 }", r"input 'x' has dims \[4\], but the version's are \[3\]"),
        ("dims: 3 }", "dims: [3, 1] }", r"input 'x' has dims \[3, 1\]"),
        ("TYPE_STRING", "TYPE_INT8", "input 's' is TYPE_INT8, but the version's is TYPE_STRING"),
        ('name: "y"', 'name: "z"', "it lists output 'z', but the version has only 'y', 'm', 't'"),
        ('name: "x"', 'name: "s"', "it does not list input 'x' of the version"),
        ("count: 2 kind: KIND_CPU", "kind: KIND_CPU gpus: 0", "KIND_CPU lists GPUs"),
        ("reshape: { shape: [] }", "", r"input 'n' has dims \[1\], but the version's are \[\]"),
        (
            "reshape: { shape: [] }",
            "reshape: { shape: [1] }",
            r"input 'n' has dims \[1\], but the version's are \[\]",
        ),
        ("dims: [ 2 ] }", "dims: [1] reshape { shape: 2 } }", r"input 's' cannot be reshaped from \[1\] to \[2\]"),
        ("preferred_batch_size: [ 4, 8 ]", "preferred_batch_size: 9", "preferred_batch_size 9"),
        ('"onnxruntime_onnx"', '"tensorflow_graphdef"', "its backend is 'tensorflow_graphdef'"),
        ('name: "scale"', 'name: "scale" default_model_filename: "m.onnx"', "default_model_filename is 'm.onnx'"),
        ("max_batch_size: 8 ", "max_batch_size: 8 }", "not a valid model configuration"),
        ("dynamic_batching", "ensemble_scheduling { } #", "ensemble"),
    ],
)
def test_an_edit_that_contradicts_the_new_version_is_refused(old: str, new: str, message: str) -> None:
    assert old in HAND_WRITTEN

    with pytest.raises(RepositoryError, match=message):
        make(HAND_WRITTEN.replace(old, new, 1), version=2)


def test_a_lower_batch_that_a_preferred_size_exceeds_is_refused() -> None:
    with pytest.raises(RepositoryError, match="preferred_batch_size 8 is not between 1 and max_batch_size 4"):
        make(HAND_WRITTEN, version=2, manifest=with_batch(4))


def test_options_for_one_instance_group_are_refused_if_there_are_two() -> None:
    text = HAND_WRITTEN.replace("count: 2 kind: KIND_CPU", "count: 2 kind: KIND_CPU }, { count: 1 kind: KIND_GPU")

    assert len(read(make(text, version=2).text).instance_group) == 2
    with pytest.raises(RepositoryError, match="2 instance groups"):
        make(text, version=2, instances=3)


def test_queue_delay_is_refused_with_sequence_batching() -> None:
    text = re.sub(r"dynamic_batching .*", "sequence_batching { }", HAND_WRITTEN)

    assert read(make(text, version=2).text).HasField("sequence_batching")
    with pytest.raises(RepositoryError, match="it uses sequence batching, so --max-queue-delay-us would"):
        make(text, version=2, max_queue_delay_us=1)


def test_an_unknown_field_survives_beside_what_changes_and_is_not_lost_with_what_is_replaced() -> None:
    text = HAND_WRITTEN.replace("versions: 1", "versions: 1 sticky: true")
    assert "versions: [2] sticky: true" in make(text, version=2).text.replace("\n", " ")

    replaced = re.sub(r"version_policy.*", "version_policy < specific < versions: 1 sticky: true > >", HAND_WRITTEN)
    with pytest.raises(RepositoryError, match=r"version_policy has to change, but .*sticky"):
        make(replaced, version=2)


def test_an_input_may_be_narrowed_by_hand_and_an_output_may_not() -> None:
    manifest = replace(
        ARTIFACT.manifest,
        inputs=(replace(ARTIFACT.manifest.inputs[0], dims=(-1,)), *ARTIFACT.manifest.inputs[1:]),
        outputs=(replace(ARTIFACT.manifest.outputs[0], dims=(-1,)), *ARTIFACT.manifest.outputs[1:]),
    )
    narrow_input = HAND_WRITTEN.replace("TYPE_FP32 dims: [3]", "TYPE_FP32 dims: [-1]")

    assert list(read(make(narrow_input, version=2, manifest=manifest).text).input[1].dims) == [3]
    with pytest.raises(RepositoryError, match=r"output 'y' has dims \[3\], but the version's are \[-1\]"):
        make(HAND_WRITTEN, version=2, manifest=manifest)


@pytest.mark.parametrize(
    ("by_hand", "proven", "asked", "expected"),
    [
        (8, 16, None, 16),
        (8, 4, None, 4),
        (2, 16, None, 2),
        (2, 16, 16, 16),
        (8, 16, 4, 4),
        (32, 64, None, 32),
        (1, 16, None, 1),
    ],
)
def test_the_largest_batch_is_what_is_asked_for_or_was_set_by_hand_or_is_proven(
    by_hand: int, proven: int, asked: int | None, expected: int
) -> None:
    text = make(warmup=False).text.replace("max_batch_size: 8", f"max_batch_size: {by_hand}")

    config = make(text, version=2, manifest=with_batch(proven), max_batch_size=asked)

    assert read(config.text).max_batch_size == expected


@pytest.mark.parametrize(
    ("by_hand", "proven", "asked", "message"),
    [
        (32, 16, None, "is 32, but this version was proven only up to 16\nfix: set max_batch_size to 16 or less in"),
        (8, 16, 32, "is 32, but this version was proven only up to 16\nfix: publish with --max-batch-size 32"),
        (0, 16, None, "is 0, but this version has a batch\nfix: set max_batch_size to 16"),
    ],
)
def test_a_largest_batch_that_was_not_proven_is_refused(
    by_hand: int, proven: int, asked: int | None, message: str
) -> None:
    text = make(warmup=False).text.replace("max_batch_size: 8", f"max_batch_size: {by_hand}")

    with pytest.raises(RepositoryError, match=message):
        make(text, version=2, manifest=with_batch(proven), max_batch_size=asked)


def test_warmup_grows_with_a_model_that_was_first_served_one_row_at_a_time() -> None:
    text = make(manifest=with_batch(1)).text
    existing = ExistingConfig(text, with_batch(1), Path("config.pbtxt"))

    config = make_config(with_batch(16), name="scale", version=2, sample=SAMPLE, existing=existing)

    assert [entry.batch_size for entry in read(config.text).model_warmup] == [1, 16]


def test_a_config_without_a_backend_gets_one() -> None:
    text = HAND_WRITTEN.replace('platform: "onnxruntime_onnx"\n', "")

    assert read(make(text, version=2).text).backend == "onnxruntime"


# Triton's rules


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.ClearField("input"), "it has no input"),
        (lambda c: c.input.add().CopyFrom(c.input[0]), "'x' is listed 2 times"),
        (lambda c: setattr(c, "max_batch_size", -1), "max_batch_size is -1"),
        (lambda c: c.output[0].ClearField("data_type"), "'y': it has no data_type"),
        (lambda c: c.output[0].ClearField("dims"), "'y': it has no dims"),
        (lambda c: c.output[0].dims.append(0), "a dim is neither -1 nor a number from 1 up"),
        (lambda c: c.output[1].reshape.shape.append(-1), r"reshape \[-1\] has another number of values"),
        (lambda c: setattr(c.input[0], "format", 1), "NHWC or NCHW needs 3 dims"),
        (lambda c: setattr(c.dynamic_batching, "priority_levels", 2), "default_priority_level"),
        (lambda c: c.dynamic_batching.preferred_batch_size.append(0), "preferred_batch_size 0"),
        (lambda c: c.instance_group[0].profile.append("0"), "only for TensorRT"),
        (lambda c: setattr(c.model_warmup[0], "batch_size", 9), "batch_size 9 is above max_batch_size 8"),
        (lambda c: c.model_warmup[0].inputs.pop("x"), "no data for input 'x'"),
        (lambda c: c.model_warmup[0].inputs["x"].ClearField("input_data_file"), "'x' has no data"),
        (lambda c: c.model_warmup[0].inputs["x"].dims.append(-1), "'x' has a dim of -1"),
        (lambda c: c.model_warmup[0].inputs["x"].dims.append(1), r"'x' has dims \[3, 1\] instead of \[3\]"),
        (lambda c: setattr(c.model_warmup[0].inputs["x"], "data_type", 1), "'x' is TYPE_BOOL instead of TYPE_FP32"),
        (lambda c: setattr(c.model_warmup[0].inputs["x"], "data_type", 99), "'x' is 99 instead of TYPE_FP32"),
        (lambda c: setattr(c.model_warmup[0].inputs["z"], "zero_data", True), "there is no input 'z'"),
    ],
)
def test_what_triton_refuses_is_named(change: Any, problem: str) -> None:
    config = read(make().text)
    assert list(problems(config)) == []

    change(config)

    assert any(re.search(problem, found) for found in problems(config)), list(problems(config))


def test_preserve_ordering_needs_one_priority_and_no_delay() -> None:
    config = read(make().text)
    config.dynamic_batching.preserve_ordering = True
    assert list(problems(config)) == []

    config.dynamic_batching.priority_levels = 2
    config.dynamic_batching.default_priority_level = 1
    config.dynamic_batching.default_queue_policy.default_timeout_microseconds = 1
    config.dynamic_batching.default_queue_policy.timeout_action = pbtxt.messages().ModelQueuePolicy.DELAY

    assert len(list(problems(config))) == 2


# Tensors


def batched(dtype: ir.DataType, dims: tuple[int | str, ...]) -> BatchedTensor:
    return BatchedTensor("x", "input.1", dtype, dims, (1, *dims), 0)


def test_a_tensor_is_described_with_varying_dims_as_minus_one() -> None:
    assert ServedTensor.of(batched(ir.DataType.FLOAT, (3, "length"))) == ServedTensor(
        "x", "input.1", "TYPE_FP32", (3, -1)
    )


def test_each_onnx_type_has_tritons_name_or_is_refused() -> None:
    names = pbtxt.messages().DataType.keys()
    for dtype in ir.DataType:
        if dtype.name in TRITON_TYPES:
            assert ServedTensor.of(batched(dtype, (3,))).data_type in names
        else:
            with pytest.raises(ModelError, match=f"Triton has no data type for {dtype.name}"):
                ServedTensor.of(batched(dtype, (3,)))


def test_a_tensor_without_values_is_refused() -> None:
    with pytest.raises(ModelError, match=r"\[3, 0\] has a dimension of 0"):
        ServedTensor.of(batched(ir.DataType.FLOAT, (3, 0)))


# Editing text in place


COMMENT = "# {kept} [it] is: 'a' comment\n"


@st.composite
def configs(draw: st.DrawFn) -> Any:
    """A few fields of each shape: scalar, message, oneof, repeated message, map of scalars, map of messages."""
    config = pbtxt.messages().ModelConfig()
    config.name = draw(st.sampled_from(["", "a", "b # 'c' {", 'quoted "']))
    config.max_batch_size = draw(st.integers(0, 2))
    if draw(st.booleans()):
        config.dynamic_batching.max_queue_delay_microseconds = draw(st.integers(0, 2))
    for name in draw(st.lists(st.sampled_from("xyz"), unique=True)):
        config.input.add(name=name, dims=draw(st.lists(st.integers(-1, 3), max_size=2)))
    for key in draw(st.sets(st.sampled_from("kl"))):
        config.parameters[key].string_value = draw(st.sampled_from(["", "v", "{"]))
        config.metric_tags[key] = draw(st.sampled_from(["", "}"]))
    return config


@st.composite
def texts(draw: st.DrawFn, config: Any) -> str:
    """Render a config as people write it."""
    text = pbtxt.render(config)
    style = draw(st.sampled_from(["lines", "one line", "colons", "angles", "list"]))
    if style == "one line":
        text = re.sub(r"\n\s*", draw(st.sampled_from([" ", ", ", "; ", ","])), text.strip())
        text = re.sub(r"\{[,;]+", "{", text)
    if style == "colons":
        text = re.sub(r"^(\w+) \{", r"\1: {", text, flags=re.MULTILINE)
    if style == "angles" and "{" not in config.name + str(config.parameters) + str(config.metric_tags):
        text = re.sub(r"^(\w+) \{(.*?)^\}", r"\1 <\2>", text, flags=re.MULTILINE | re.DOTALL)
    if style == "list" and config.input:
        others = pbtxt.messages().ModelConfig()
        others.CopyFrom(config)
        others.ClearField("input")
        elements = (str(tensor).replace("\n", " ") for tensor in config.input)
        text = f"{pbtxt.render(others)}input [ {{ {' }, { '.join(elements)} }} ]\n"
    return COMMENT + text + (draw(st.sampled_from(["", "\n", "\n\n"])) + COMMENT if draw(st.booleans()) else "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch_size: 1 dynamic_batching { }\n", 'max_batch_size: 1 \nplatform: "p"\n'),
        ("dynamic_batching{}max_batch_size:1", 'max_batch_size:1\nplatform: "p"\n'),
        ('max_batch_size:2,backend:"b"', 'max_batch_size: 1\nplatform: "p"\n'),
        ("# a\ndynamic_batching { }\n# b\nmax_batch_size: 1 # c\n", '# a\n# b\nmax_batch_size: 1 # c\nplatform: "p"\n'),
    ],
)
def test_cutting_an_entry_out_of_a_line_keeps_its_neighbours_separate(text: str, expected: str) -> None:
    config = pbtxt.messages().ModelConfig(max_batch_size=1, platform="p")

    assert pbtxt.edit(text, config, where="config.pbtxt") == expected


NESTED = """\
instance_group { # where
  count: 1  # one is enough
  # a server with a GPU takes it
  kind: KIND_AUTO
}
dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 100 }  # waits
optimization {
    graph { level: 1 }  # safe
}
"""


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ("instance_group[0].count=2", "count: 1  # one", "count: 2  # one"),
        ("instance_group[0].gpus=[0]", "  kind: KIND_AUTO\n}", "  kind: KIND_AUTO\n  gpus: [0]\n}"),
        ("instance_group[0].kind=KIND_CPU", "kind: KIND_AUTO", "kind: KIND_CPU"),
        ("dynamic_batching.max_queue_delay_microseconds=5", "microseconds: 100 }", "microseconds: 5 }"),
        (
            "dynamic_batching.max_queue_delay_microseconds=0",
            "[ 2, 4 ] max_queue_delay_microseconds: 100 }",
            "[ 2, 4 ] }",
        ),
        ("dynamic_batching.preferred_batch_size=[4, 2]", "[ 2, 4 ] max", "[4, 2] max"),
        ("dynamic_batching.preserve_ordering=true", "100 }", "100\n  preserve_ordering: true\n}"),
        (
            "optimization.cuda.graphs=true",
            "    graph { level: 1 }  # safe\n}",
            "    graph { level: 1 }  # safe\n    cuda {\n      graphs: true\n    }\n}",
        ),
        ("optimization.graph.level=2", "level: 1 }  # safe", "level: 2 }  # safe"),
    ],
)
def test_inside_an_entry_too_only_what_differs_is_written_again(change: str, before: str, after: str) -> None:
    config = read(NESTED)
    apply_options(config, ConfigOptions(set_fields=(tuple(change.split("=", 1)),)), where="config.pbtxt")  # type: ignore[arg-type]

    edited = pbtxt.edit(NESTED, config, where="config.pbtxt")

    assert read(edited) == config
    assert edited == NESTED.replace(before, after)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), before=configs(), after=configs())
def test_an_edited_text_says_the_new_config_and_keeps_comments(data: Any, before: Any, after: Any) -> None:
    kept = [tensor for tensor in before.input if tensor in after.input]
    ordered = [*kept, *(tensor for tensor in after.input if tensor not in kept)]
    after.ClearField("input")
    after.input.extend(ordered)
    text = data.draw(texts(before))
    assert read(text) == before

    edited = pbtxt.edit(text, after, where="config.pbtxt")

    assert sorted(map(str, read(edited).input)) == sorted(map(str, after.input))
    without_inputs = read(edited)
    without_inputs.ClearField("input")
    after.ClearField("input")
    assert without_inputs == after
    assert edited.count(COMMENT.strip()) == text.count(COMMENT.strip())


def test_a_parsed_config_may_be_changed() -> None:
    text = "max_batch_size: 1"
    pbtxt.parse(text, where="config.pbtxt").max_batch_size = 2
    assert pbtxt.parse(text, where="config.pbtxt").max_batch_size == 1


def test_a_config_that_could_not_be_read_again_is_not_written() -> None:
    text = make().text
    many = text + "".join(f'parameters {{ key: "{number}" value {{ string_value: "" }} }}\n' for number in range(9_000))
    with pytest.raises(RepositoryError, match=r"it would have 500\.\d kB, and only 500\.0 kB are read"):
        make(many + "#" * (500_000 - len(many)), version=1_000_000)


def test_a_config_with_many_faults_is_refused_in_few_words() -> None:
    warmup = "".join(f'model_warmup {{ name: "{number}" batch_size: 1 }}\n' for number in range(1000))
    with pytest.raises(RepositoryError, match=r"; and 9\d\d more\n") as caught:
        make(make().text + warmup)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "text",
    [
        f"dynamic_batching {{ preferred_batch_size: [4]{' ' * 200_000}}}\n",
        f"dynamic_batching{' ' * 200_000}# {{\n{{ preferred_batch_size: [4] }}\n",
    ],
    ids=["inside", "before"],
)
def test_long_spaces_do_not_take_long(text: str) -> None:
    config = read(text)
    config.dynamic_batching.preferred_batch_size[:] = [8]
    began = time.process_time()
    assert read(pbtxt.edit(text, config, where="config.pbtxt")) == config
    assert time.process_time() - began < 5


def test_a_brace_in_a_comment_after_an_entry_does_not_break_the_edit() -> None:
    text = "dynamic_batching { preferred_batch_size: [4] } # }\n;"
    config = read(text)
    config.dynamic_batching.preserve_ordering = True
    assert read(pbtxt.edit(text, config, where="config.pbtxt")) == config
