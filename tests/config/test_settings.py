"""The options of config.pbtxt: what each writes, what it refuses, and any field by its path."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.artifacts import scale

from builder.config import (
    Config,
    ConfigOptions,
    ExistingConfig,
    InstanceGroup,
    PathError,
    Resource,
    check_usage,
    make_config,
    pbtxt,
)
from builder.errors import BuilderError, ModelError, RepositoryError
from builder.record import ServedTensor, reference

ARTIFACT = scale()
SAMPLE = reference.first_row(ARTIFACT.reference)
HERE = Path("config.pbtxt")


def make(existing: str | None = None, /, **options: Any) -> Config:
    return make_config(
        ARTIFACT.manifest,
        name="scale",
        version=1,
        sample=SAMPLE,
        options=ConfigOptions(**options),
        existing=None if existing is None else ExistingConfig(existing, ARTIFACT.manifest, HERE),
    )


def made(existing: str | None = None, /, **options: Any) -> Any:
    return pbtxt.parse(make(existing, **options).text, where=HERE)


def static(**options: Any) -> Any:
    tensors = (ServedTensor("x", "x", "TYPE_FP32", (1, 3)),)
    proof = replace(ARTIFACT.manifest.proof, batch_sizes=())
    manifest = replace(ARTIFACT.manifest, max_batch_size=0, proof=proof, inputs=tensors, outputs=tensors)
    config = make_config(
        manifest,
        name="scale",
        version=1,
        sample={"x": np.ones((1, 3), np.float32)},
        options=ConfigOptions(**options),
    )
    return pbtxt.parse(config.text, where=HERE)


# The queue


def test_the_options_of_the_queue_are_written() -> None:
    batching = made(
        priority_levels=3,
        default_priority=2,
        max_queue_size=100,
        queue_timeout_us=5000,
        queue_timeout_action="delay",
        queue_timeout_override=True,
    ).dynamic_batching

    assert (batching.priority_levels, batching.default_priority_level) == (3, 2)
    policy = batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds, policy.timeout_action) == (100, 5000, 1)
    assert policy.allow_timeout_override
    assert made(preserve_ordering=True).dynamic_batching.preserve_ordering


def test_a_model_without_a_batch_has_a_queue_too() -> None:
    config = static(max_queue_size=2, priority_levels=2, default_priority=1)

    assert config.max_batch_size == 0
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 2


def test_zero_removes_priorities_and_limits_of_the_queue() -> None:
    text = make(
        priority_levels=2,
        default_priority=1,
        max_queue_size=5,
        set_fields=(("dynamic_batching.priority_queue_policy[1].max_queue_size", "3"),),
    ).text

    batching = made(text, priority_levels=0, max_queue_size=0).dynamic_batching

    assert (batching.priority_levels, batching.default_priority_level) == (0, 0)
    assert not batching.priority_queue_policy
    assert not batching.HasField("default_queue_policy")


def test_what_is_not_given_stays() -> None:
    text = make(priority_levels=2, default_priority=1, max_queue_size=5).text

    batching = made(text, queue_timeout_us=7, default_priority=2).dynamic_batching

    assert (batching.priority_levels, batching.default_priority_level) == (2, 2)
    assert batching.default_queue_policy.max_queue_size == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority_levels": 2}, "no default for requests that give none\nfix: add --default-priority N, from 1"),
        ({"default_priority": 1}, "no priority levels, so --default-priority would have no effect"),
        ({"priority_levels": 2, "default_priority": 3}, "default_priority_level is not between 1 and priority_levels"),
        ({"queue_timeout_us": 2**63 - 1}, "overflows in Triton"),
        ({"queue_timeout_action": "delay"}, "no request has a timeout, so --queue-timeout-action would have no"),
        ({"queue_timeout_override": True}, "no request has a timeout, so --queue-timeout-override would have no"),
        (
            {"preserve_ordering": True, "priority_levels": 2, "default_priority": 1},
            "preserve_ordering allows only one priority level",
        ),
        (
            {"preserve_ordering": True, "queue_timeout_us": 1, "queue_timeout_action": "delay"},
            "whose timeout_action is DELAY",
        ),
    ],
)
def test_a_queue_that_triton_refuses_or_an_option_without_effect_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RepositoryError, match=message):
        make(**options)


def test_a_policy_that_every_level_replaces_is_refused() -> None:
    text = make().text.replace(
        "dynamic_batching {\n}\n",
        "dynamic_batching { priority_levels: 1 default_priority_level: 1 "
        "priority_queue_policy { key: 1 value { max_queue_size: 1 } } }\n",
    )

    with pytest.raises(RepositoryError, match="each priority level has a policy of its own, so --max-queue-size"):
        make(text, max_queue_size=4)


def test_the_queue_of_sequences_is_not_touched() -> None:
    text = make().text.replace("dynamic_batching {\n}\n", "sequence_batching { }\n")

    with pytest.raises(RepositoryError, match="sequence batching, so --max-queue-size and --queue-timeout-us would"):
        make(text, max_queue_size=1, queue_timeout_us=1)


# Instances


def test_groups_of_instances_replace_those_that_are_there() -> None:
    groups = (InstanceGroup("gpu", 2, (0, 1)), InstanceGroup("cpu", 4, name="spare", passive=True))
    config = made(make(instances=3).text, instance_groups=groups)

    kinds = pbtxt.messages().ModelInstanceGroup
    assert [(group.kind, group.count, list(group.gpus)) for group in config.instance_group] == [
        (kinds.KIND_GPU, 2, [0, 1]),
        (kinds.KIND_CPU, 4, []),
    ]
    assert (config.instance_group[1].name, config.instance_group[1].passive) == ("spare", True)


def test_resources_are_those_of_every_group_and_are_kept_until_they_are_removed() -> None:
    groups = (InstanceGroup("cpu", 1), InstanceGroup("cpu", 2))
    resources = {"memory": Resource(4), "disk": Resource(1, is_global=True)}
    text = make(instance_groups=groups, rate_limiter_resources=resources, rate_limiter_priority=2).text

    config = made(text, rate_limiter_resources={"memory": Resource(0)})

    for group in config.instance_group:
        limiter = group.rate_limiter
        assert [(each.name, each.count, getattr(each, "global")) for each in limiter.resources] == [("disk", 1, True)]
        assert limiter.priority == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instance_groups": (InstanceGroup(),), "instances": 1}, "--instances and --instance-group cannot be used"),
        ({"instance_groups": (InstanceGroup(),), "kind": "cpu"}, "--kind and --instance-group cannot be used together"),
        ({"instance_groups": (InstanceGroup("cpu", gpus=(0,)),)}, "KIND_CPU lists GPUs"),
        ({"instance_groups": (InstanceGroup("gpu", profiles=(0,)),)}, "only for TensorRT"),
        ({"instance_groups": (InstanceGroup("cpu"),), "accelerator": "tensorrt"}, "an --instance-group is cpu"),
        ({"rate_limiter_resources": {"a": Resource(0)}}, "no instance group has a resource 'a'"),
        ({"instance_groups": (InstanceGroup(passive=True),), "rate_limiter_priority": 1}, "are passive"),
    ],
)
def test_instances_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        make(**options)


# Maps and switches


def test_parameters_and_labels_of_metrics_are_written_and_removed() -> None:
    text = make(parameters={"execution_mode": "1"}, metric_labels={"team": "vision"}, response_cache=True).text
    config = pbtxt.parse(text, where=HERE)
    assert config.parameters["execution_mode"].string_value == "1"
    assert dict(config.metric_tags) == {"team": "vision"}
    assert config.response_cache.enable

    config = made(text, parameters={"execution_mode": ""}, metric_labels={"team": ""}, response_cache=False)

    assert "execution_mode" not in config.parameters
    assert "builder.version" in config.parameters
    assert not config.metric_tags
    assert not config.HasField("response_cache")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": {"builder.version": "9"}}, "so publish sets them"),
        ({"parameters": {"a": ""}}, "there is no 'a' that --parameter a= could remove"),
        ({"parameters": {"intra_op_thread_count": "1"}, "intra_op_thread_count": 1}, "set the same"),
        ({"metric_labels": {"a": ""}}, "there is no 'a' that --metric-label a= could remove"),
        ({"metric_labels": {"a-b": "c"}}, "'a-b' is no name of a metric's label"),
        ({"metric_labels": {"_a": "c"}}, "'_a' is no name of a metric's label"),
    ],
)
def test_entries_that_cannot_be_set_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"response_cache": True}, "started with --cache-config"),
        ({"rate_limiter_priority": 1}, "started with --rate-limit"),
        ({"parameters": {"execution_mod": "1"}}, "did you mean execution_mode?"),
    ],
)
def test_what_an_option_needs_from_the_server_is_noted(options: dict[str, Any], note: str) -> None:
    assert [note in each for each in make(**options).notes] == [True]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("intra_op_thread_count", "two", "'two', which is no whole number"),
        ("inter_op_thread_count", "9999999999", "which is no whole number"),
        ("execution_mode", "2", "is 2, which is none of 0, 1"),
        ("enable_mem_arena", "maybe", "neither 1"),
    ],
)
def test_a_parameter_that_keeps_the_backend_from_loading_is_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        make(parameters={key: value})


def test_an_accelerator_keeps_the_parameters_that_it_has() -> None:
    path = 'optimization.execution_accelerators.gpu_execution_accelerator[0].parameters["precision_mode"]'
    text = make(accelerator="tensorrt", set_fields=((path, "FP16"),)).text

    (accelerator,) = made(text, accelerator="tensorrt").optimization.execution_accelerators.gpu_execution_accelerator
    assert dict(accelerator.parameters) == {"precision_mode": "FP16"}


def test_bf16_does_not_run_on_a_cpu() -> None:
    manifest = replace(ARTIFACT.manifest, options={"precision": "bf16"})
    with pytest.raises(RepositoryError, match="only on GPUs"):
        make_config(manifest, name="scale", version=1, sample=SAMPLE, options=ConfigOptions(kind="cpu"))


# Any field


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("dynamic_batching.max_queue_delay_microseconds", "100", "{ max_queue_delay_microseconds: 100"),
        ("dynamic_batching", "{ preferred_batch_size: [4, 8] }", "dynamic_batching { preferred_batch_size: [4, 8]"),
        ("dynamic_batching.preferred_batch_size", "[4, 8]", "preferred_batch_size: [4, 8]"),
        ("dynamic_batching.preferred_batch_size[+]", "4", "preferred_batch_size: [4]"),
        ("instance_group[0].count", "2", "count: 2"),
        ("instance_group[-1].kind", "KIND_CPU", "kind: KIND_CPU"),
        ("instance_group[0].kind", "kind_cpu", "kind: KIND_CPU"),
        ("instance_group[+]", "{ count: 3 kind: KIND_CPU }", "count: 3 kind: KIND_CPU"),
        ("instance_group[+].name", "second", 'name: "second"'),
        ("instance_group", "[{ count: 5 }, { count: 6 }]", "count: 5"),
        ("instance_group[0].secondary_devices[+].device_id", "7", "device_id: 7"),
        ('parameters["k"].string_value', "v", 'key: "k" value { string_value: "v"'),
        ("parameters[session.a].string_value", '"a b"', 'key: "session.a" value { string_value: "a b"'),
        ('parameters["a=b"].string_value', "c=d", 'key: "a=b" value { string_value: "c=d"'),
        ('parameters["k"]', '{ string_value: "w" }', 'key: "k" value { string_value: "w"'),
        ('metric_tags["team"]', "vision", 'key: "team" value: "vision"'),
        ("optimization.cuda.busy_wait_events", "true", "busy_wait_events: true"),
        ("optimization.priority", "PRIORITY_MAX", "priority: PRIORITY_MAX"),
        ("optimization.graph.level", "-1", "level: -1"),
        ("model_metrics", '{ metric_control { metric_identifier { family: "f" } histogram_options { buckets: [1] } } }',
         'family: "f"'),
        ("model_warmup[+]", '{ name: "m" batch_size: 0 }', 'name: "m"'),
    ],
)  # fmt: skip
def test_any_field_can_be_set_by_its_path(path: str, value: str, expected: str) -> None:
    check_usage(path, value)
    text = " ".join(make(set_fields=((path, value),), warmup=False).text.split())

    assert expected in text


def test_fields_are_set_in_order_after_what_is_removed() -> None:
    config = made(
        unset_fields=("instance_group[0]", "dynamic_batching"),
        set_fields=(("instance_group[+]", "{ kind: KIND_CPU }"), ("instance_group[0].count", "4")),
    )

    assert [(group.count, group.kind) for group in config.instance_group] == [(4, 2)]
    assert not config.HasField("dynamic_batching")


def test_an_output_can_be_left_out_and_an_input_reshaped() -> None:
    config = made(
        unset_fields=("output[1]",), set_fields=(("input[0].dims", "[3, 1]"), ("input[0].reshape.shape", "[3]"))
    )

    assert list(config.input[0].dims) == [3, 1]
    assert [output.name for output in config.output] == ["y", "t"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("dynamic_batchng", "{}", "ModelConfig has no field 'dynamic_batchng'\nuse dynamic_batching"),
        ("dynamic_batching.priority", "1", "no field 'priority'\nuse priority_levels"),
        ("dynamic_batching", "{ priority_level: 1 }", "no field named \"priority_level\".*\nuse priority_levels"),
        ("dynamic_batching", "4", "takes text in braces, not '4'"),
        ("dynamic_batching", "{} max_batch_size: 99", "sets other fields"),
        ("dynamic_batching", "{ max_queue_delay_microseconds: -1 }", "is not a value of dynamic_batching"),
        ("dynamic_batching.preferred_batch_size", "4", "takes a list in brackets"),
        ("dynamic_batching.priority_levels", "two", "is a number, and 'two' is none\nuse a whole number from 0 to"),
        ("dynamic_batching.priority_levels", "-1", "cannot be -1\nuse a whole number from 0 to 18446744073709551615"),
        ("dynamic_batching.priority_levels", "18446744073709551616", "cannot be 18446744073709551616"),
        ("dynamic_batching.priority_levels.a", "1", "has no fields of its own"),
        ("dynamic_batching[0]", "{}", "neither a list nor a map"),
        ("dynamic_batching[0].priority_levels", "1", "neither a list nor a map"),
        ("dynamic_batching.preserve_ordering", "yes", "either true or false"),
        ("dynamic_batching.priority_queue_policy[one].max_queue_size", "1", "'one' is not a key"),
        ("instance_group.count", "1", "is a list\nname one of its entries, as in"),
        ("instance_group[a].count", "1", "'a' is not a position"),
        ("instance_group[0].kind", "KIND_TPU", "has no value 'KIND_TPU'\nuse KIND_"),
        ("instance_group[0].count", "3000000000", "cannot be 3000000000"),
        ("parameters.k", "v", "is a map\nname one of its entries"),
        ("metric_tags[a].b", "v", "has no fields of its own"),
        ("metric_tags[a]", "\udc80", "use text in UTF-8"),
        ("sequence_batching.direct.minimum_slot_utilization", "nan", "is a number, and 'nan' is none"),
        ("a b", "1", "is not the path of a field"),
        ("", "1", "is not the path of a field"),
        ("dynamic_batching.", "1", "is not the path of a field"),
        ("name", "other", "directory.*\nuse --name"),
        ("backend", "python", "proven"),
        ("version_policy.latest.num_versions", "2", "which versions are served"),
        ("max_batch_size", "64", "has to be proven\nuse --max-batch-size"),
        ("input[0].name", "z", "clients rely on these names"),
        ("output[0].data_type", "TYPE_FP64", "the type is that of the model"),
        ("input[+]", '{ name: "z" }', "the inputs and outputs are those that were proven"),
        ("output", "[]", "the inputs and outputs are those that were proven"),
        ("output[0].label_filename", "labels.txt", "use --labels OUTPUT=FILE"),
        ('parameters["builder.version"].string_value', "9", "so publish sets them"),
        ("parameters", "[]", "are set by publish"),
        ("model_transaction_policy.decoupled", "true", "one answer to each request"),
        ("ensemble_scheduling", "{}", "not an ensemble"),
    ],
)  # fmt: skip
def test_a_path_or_a_value_that_does_not_fit_is_refused_before_any_work(path: str, value: str, message: str) -> None:
    with pytest.raises(PathError) as found:
        check_usage(path, value)
    assert re.search(message, f"{found.value}\n{found.value.fix}")
    with pytest.raises(RepositoryError, match="--set "):
        make(set_fields=((path, value),))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"set_fields": (("sequence_batching.direct", "{}"),)},
            "only one of sequence_batching and dynamic_batching can be set, and dynamic_batching is\n"
            "fix: add --unset dynamic_batching",
        ),
        ({"set_fields": (("instance_group[3].count", "1"),)}, "is not there: the list has 1 entry\nfix: use instance"),
        ({"set_fields": (("instance_group[-2].count", "1"),)}, "is not there: the list has 1 entry"),
        ({"unset_fields": ("response_cache",)}, "--unset response_cache: response_cache is not set"),
        ({"unset_fields": ("response_cache.enable",)}, "response_cache is not set"),
        ({"unset_fields": ("instance_group[1]",)}, "is not there"),
        ({"unset_fields": ("instance_group[+]",)}, "is a new entry"),
        ({"unset_fields": ("parameters[a]",)}, "is not there"),
        ({"unset_fields": ("input[0]",)}, "it does not list input 'x'"),
        ({"unset_fields": ("output",)}, "cannot be set like this"),
        ({"unset_fields": ("name",)}, "use --name"),
        ({"unset_fields": ("nothing",)}, "has no field 'nothing'"),
        ({"set_fields": (("input[0].dims", "[4]"),)}, r"input 'x' has dims \[4\]"),
        ({"set_fields": (("instance_group[0].count", "3"),), "instances": 2}, "contradicts another option"),
        ({"set_fields": (("model_warmup[+]", '{ name: "reference_batch_3" }'),)}, "are written by publish"),
    ],
)
def test_a_field_that_does_not_fit_this_config_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        make(**fields)


def test_our_own_warmup_is_not_changed_by_a_path() -> None:
    with pytest.raises(RepositoryError, match="are written by publish\nfix: use --warmup or --no-warmup"):
        make(make().text, set_fields=(("model_warmup[0].count", "9"),))


# Labels


@pytest.mark.parametrize(
    "content", [b"a\nb\nc\n", b"a\r\nb\r\nc\r\n", b"\xef\xbb\xbfa\nb\nc", b"a\nb\nc\n\n \n", b"a\rb\rc"]
)
def test_labels_are_written_as_triton_reads_them(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "labels"
    file.write_bytes(content)

    config = make(labels={"y": file})

    ((name, written),) = config.labels.items()
    assert written == b"a\nb\nc\n"
    assert pbtxt.parse(config.text, where=HERE).output[0].label_filename == name


def test_labels_stay_until_they_are_removed(tmp_path: Path) -> None:
    file = tmp_path / "labels"
    file.write_text("a\nb\nc\n")
    text = make(labels={"y": file}).text

    assert made(text).output[0].label_filename
    assert not make(text).labels
    assert not made(text, labels={"y": None}).output[0].label_filename


@pytest.mark.parametrize(
    ("output", "content", "error", "message"),
    [
        ("z", "a\n", RepositoryError, "--labels names 'z', but there is no such output\nfix: use one of its"),
        ("t", "a\nb\n", RepositoryError, "of type STRING, which Triton cannot sort"),
        ("y", "a\nb\n", ModelError, r"it has 2 labels, but each row of output 'y' has 3 values \(dims \[3\]\)"),
        ("y", "a\n\nc\n", ModelError, "line 2 is empty"),
        ("y", "a\nb\x00\nc\n", ModelError, "line 2 has a control character"),
        ("y", "", ModelError, "it has 0 labels"),
        ("y", b"a\n\xff\nc\n", ModelError, "it is not UTF-8"),
        ("y", None, ModelError, "these labels cannot be read"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    output: str, content: str | bytes | None, error: type[BuilderError], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "labels"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(error, match=message):
        make(labels={output: file})


def test_labels_to_remove_have_to_be_there() -> None:
    with pytest.raises(RepositoryError, match="no labels that --labels y= could remove"):
        make(labels={"y": None})


def test_labels_that_two_classes_share_and_a_number_of_classes_that_varies_are_noted(tmp_path: Path) -> None:
    file = tmp_path / "labels"
    file.write_text("crane\ncrane\nheron\n")
    assert [note for note in make(labels={"y": file}).notes if "the same label: crane" in note]

    varying = (replace(ARTIFACT.manifest.outputs[0], dims=(-1,)), *ARTIFACT.manifest.outputs[1:])
    config = make_config(
        replace(ARTIFACT.manifest, outputs=varying),
        name="scale",
        version=1,
        sample=SAMPLE,
        options=ConfigOptions(labels={"y": file}),
    )
    assert [note for note in config.notes if "whether it has 3 classes was not checked" in note]


def test_a_label_file_that_is_missing_beside_the_config_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    text = make().text.replace('name: "y"', 'name: "y" label_filename: "mine.txt"')
    path.write_text(text)
    existing = ExistingConfig(text, ARTIFACT.manifest, path)

    with pytest.raises(RepositoryError, match=r"names the label file 'mine.txt', which is not in the model's folder"):
        make_config(ARTIFACT.manifest, name="scale", version=2, sample=SAMPLE, existing=existing)

    (tmp_path.parent / "outside.txt").write_text("a\nb\nc\n")
    (tmp_path / "mine.txt").symlink_to(tmp_path.parent / "outside.txt")
    with pytest.raises(RepositoryError, match="which is not in the model's folder"):
        make_config(ARTIFACT.manifest, name="scale", version=2, sample=SAMPLE, existing=existing)

    (tmp_path / "mine.txt").unlink()
    (tmp_path / "mine.txt").write_text("a\nb\nc\n")
    mine = (
        '{ name: "mine" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 input_data_file: "f" } }'
    )
    mine += ' inputs { key: "n" value { data_type: TYPE_INT64 dims: 1 zero_data: true } }'
    mine += ' inputs { key: "s" value { data_type: TYPE_STRING dims: 2 zero_data: true } } }'
    with pytest.raises(RepositoryError, match="'mine' names the file 'f', which is not in the model's folder warmup"):
        make(set_fields=(("model_warmup[+]", mine),))
    make_config(ARTIFACT.manifest, name="scale", version=2, sample=SAMPLE, existing=existing)
