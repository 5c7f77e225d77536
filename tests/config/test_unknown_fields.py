"""Fields and values of a config that do not exist: misspelled ones, and those of a newer Triton."""

import re
from pathlib import Path

import pytest
from support.artifacts import scale

from builder.config import ConfigOptions, ExistingConfig, check_config, check_options, make_config, pbtxt, point_at
from builder.config.unknown import unknown_fields
from builder.errors import RepositoryError
from builder.record import first_row

ARTIFACT = scale()
SAMPLE = first_row(ARTIFACT.reference)
TEXT = make_config(ARTIFACT.manifest, name="scale", version=1, sample=SAMPLE).text


def found(text: str) -> list[tuple[str, int, str | None]]:
    return [(field.path, field.line, field.meant) for field in unknown_fields(text)]


@pytest.mark.parametrize(
    ("text", "path", "meant"),
    [
        ("dynamic_batchng { }", "dynamic_batchng", "dynamic_batching"),
        ("maxBatchSize: 3", "maxBatchSize", "max_batch_size"),
        ("max-batch-size: 3", "max-batch-size", "max_batch_size"),
        ("batch_size: 3", "batch_size", "max_batch_size"),
        ("instance_groups: [ { count: 1 } ]", "instance_groups", "instance_group"),
        ('nmae: "x"', "nmae", "name"),
        ("dynamic_batching { max_queue_delay: 5 }", "dynamic_batching.max_queue_delay", "max_queue_delay_microseconds"),
        ("dynamic_batching < prefered_batch_size: [4, 8], >", "dynamic_batching.prefered_batch_size",
         "preferred_batch_size"),
        ('input [ { name: "a" "b" dims: -1 }, { dim: 1 } ]', "input.dim", "dims"),
        ('parameters: { key: "k" value: { string_val: "{" } }', "parameters.value.string_val", "string_value"),
        ("version_policy: { lastest { num_versions: 1 } }", "version_policy.lastest", "latest"),
        ("max_queue_size_bytes: 3", "max_queue_size_bytes", None),
        ("dynamic_batching { preferred_batch_size_of: 3 }", "dynamic_batching.preferred_batch_size_of", None),
        ("sticky { input { nmae: 3 } }", "sticky", None),
        ("model: 3", "model", None),
    ],
)  # fmt: skip
def test_an_unknown_field_is_found_with_the_one_that_was_meant(text: str, path: str, meant: str | None) -> None:
    pbtxt.parse(text, where="config.pbtxt")
    assert found(f"# dynamic_batchng {{\n{text}\nmax_batch_size: 1") == [(path, 2, meant)]


def test_known_fields_are_not_found() -> None:
    assert found(TEXT) == []


def test_fields_after_an_unknown_one_are_read() -> None:
    assert [
        path for path, _, _ in found('new { a: "}" b [1, 2] c < d: 1 > } old: -1.5 newer: "a" \'b\' newest: nan')
    ] == [
        "new",
        "old",
        "newer",
        "newest",
    ]


MISSPELLED = "line 2: there is no field 'dynamic_batchng'; did you mean 'dynamic_batching'?\nfix: correct this file"


def test_a_misspelled_field_is_an_error_wherever_the_config_is_used() -> None:
    text = "# mine\n" + TEXT.replace("\n", " ").replace("dynamic_batching", "dynamic_batchng")
    existing = ExistingConfig(text, ARTIFACT.manifest, Path("config.pbtxt"))

    with pytest.raises(RepositoryError, match=re.escape(MISSPELLED)):
        make_config(ARTIFACT.manifest, name="scale", version=2, sample=SAMPLE, existing=existing)
    with pytest.raises(RepositoryError, match=re.escape(MISSPELLED)):
        check_config(text, ARTIFACT.manifest, name="scale", where="config.pbtxt")
    with pytest.raises(RepositoryError, match=re.escape(MISSPELLED)):
        check_options(ConfigOptions(), text, backend="onnxruntime", has_batch=True, where="config.pbtxt")
    with pytest.raises(RepositoryError, match=re.escape(MISSPELLED)):
        point_at(text, 2, [1, 2], where="config.pbtxt")


def test_fields_of_a_newer_triton_are_notes() -> None:
    existing = ExistingConfig(f"{TEXT}sticky: 1\nslippery {{ }}\n", ARTIFACT.manifest, Path("config.pbtxt"))

    config = make_config(ARTIFACT.manifest, name="scale", version=2, sample=SAMPLE, existing=existing)

    assert [note.partition(";")[0].partition(": ")[2] for note in config.notes] == [
        "there is no field 'sticky'",
        "there is no field 'slippery'",
    ]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('input { name: "x" data_type: FP32 }', " Did you mean TYPE_FP32?"),
        ('input { name: "x" data_type: type_int46 }', " Did you mean TYPE_INT64?"),
        ("instance_group { kind: GPU }", " Did you mean KIND_GPU?"),
        ("instance_group { kind: MINE }", ""),
    ],
)
def test_a_value_that_does_not_exist_is_an_error_with_the_one_that_was_meant(text: str, meant: str) -> None:
    with pytest.raises(RepositoryError, match="has no value named") as caught:
        pbtxt.parse(text, where="config.pbtxt")
    assert caught.value.what.partition("named")[2].partition(".")[2] == meant


def test_an_unknown_field_that_confuses_the_parser_is_named() -> None:
    with pytest.raises(RepositoryError, match=r'no field named "instance_groups". Did you mean instance_group\?'):
        pbtxt.parse("instance_groups [ { count: 1 } ]", where="config.pbtxt")


def test_every_field_with_one_letter_left_out_is_recognized() -> None:
    names = [field.name for field in pbtxt.messages().ModelConfig.DESCRIPTOR.fields]
    missed = [name for name in names if len(name) > 5 and found(f"{name[:3]}{name[4:]} {{ }}")[0][2] != name]
    assert missed == []
