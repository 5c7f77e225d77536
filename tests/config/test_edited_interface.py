"""Configs whose inputs and outputs people edited: what publish, rollback and verify make of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.artifacts import scale
from support.serving import parse

import builder
from builder.config import Config, ConfigOptions, ExistingConfig, check_config, make_config, pbtxt
from builder.errors import RepositoryError
from builder.record import Manifest, first_row

ARTIFACT = scale()
SAMPLE = first_row(ARTIFACT.reference)
TEXT = make_config(ARTIFACT.manifest, name="scale", version=1, sample=SAMPLE).text
HEAD, WARMUP, ENTRIES = TEXT.partition("model_warmup")
SHAPED = HEAD.replace("dims: [3]", "dims: [3, 1] reshape { shape: [3] }") + WARMUP + ENTRIES
ONLY_INPUTS = """
max_batch_size: 8
input [ { name: "s" }, { name: "n" }, { name: "x" dims: [3, 1] reshape { shape: 3 } } ]
"""


def varying() -> Manifest:
    """The version, if it took x of any length."""
    inputs, outputs = ARTIFACT.manifest.inputs, ARTIFACT.manifest.outputs
    return replace(
        ARTIFACT.manifest,
        inputs=(replace(inputs[0], dims=(-1,)), *inputs[1:]),
        outputs=(replace(outputs[0], dims=(-1,)), *outputs[1:]),
    )


def make(text: str, *, manifest: Manifest = ARTIFACT.manifest, **options: Any) -> Config:
    existing = ExistingConfig(text, ARTIFACT.manifest, Path("config.pbtxt"))
    asked = ConfigOptions(**options)
    return make_config(manifest, name="scale", version=2, sample=SAMPLE, existing=existing, options=asked)


def rows_of(text: str, name: str) -> list[list[int]]:
    config = pbtxt.parse(text, where="config.pbtxt")
    return [list(entry.inputs[name].dims) for entry in config.model_warmup]


def test_warmup_has_the_dims_that_clients_send() -> None:
    config = make(SHAPED)

    assert rows_of(config.text, "x") == [[3, 1], [3, 1]]
    assert rows_of(config.text, "n") == [[1], [1]]
    assert config.notes == ()
    check_config(config.text, ARTIFACT.manifest, name="scale", where="config.pbtxt")
    with pytest.raises(
        RepositoryError, match=r"'reference_batch_1': input 'x' has dims \[3\] instead of \[3, 1\].*\nfix: publish"
    ):
        check_config(SHAPED, ARTIFACT.manifest, name="scale", where="config.pbtxt")


def test_a_sample_that_no_client_could_send_warms_nothing_up() -> None:
    text = TEXT.replace('name: "x"\n  data_type: TYPE_FP32\n  dims: [3]', 'name: "x" data_type: TYPE_FP32 dims: [5]')
    text = text.replace('name: "y"\n  data_type: TYPE_FP32\n  dims: [3]', 'name: "y" data_type: TYPE_FP32 dims: [-1]')

    config = make(text, manifest=varying())

    assert rows_of(config.text, "x") == []
    assert config.warmup == {}
    assert config.notes == (
        "the model is not warmed up when it is loaded: config.pbtxt gives 'x' the dims [5], "
        "but the stored rows have [3]",
    )
    with pytest.raises(RepositoryError, match=r"no stored sample can warm the model up.*\nfix: publish with samples"):
        make(text, manifest=varying(), warmup=True)
    assert make(text, manifest=varying(), warmup=False).notes == ()


@pytest.mark.parametrize(
    ("text", "largest"),
    [
        ("", 8),
        ("max_batch_size: 4", 4),
        ('platform: "onnxruntime_onnx" max_batch_size: 1', 1),
        (ONLY_INPUTS, 8),
        ('max_batch_size: 8 output { name: "t" data_type: TYPE_STRING }', 8),
    ],
)
def test_what_a_config_leaves_to_triton_is_completed(text: str, largest: int) -> None:
    made = make(f"# mine\n{text}\n")

    assert made.text.startswith("# mine\n")
    config = pbtxt.parse(made.text, where="config.pbtxt")
    assert {tensor.name for tensor in config.input} == {"x", "n", "s"}
    assert {tensor.name for tensor in config.output} == ({"t"} if "output" in text else {"y", "m", "t"})
    assert config.max_batch_size == largest
    assert config.HasField("dynamic_batching") is (largest > 1)
    check_config(made.text, ARTIFACT.manifest, name="scale", where="config.pbtxt")
    assert make(made.text).text == made.text


def test_a_config_that_lists_some_inputs_is_not_completed() -> None:
    with pytest.raises(RepositoryError, match="it does not list input 'n' of the version; it does not list input 's'"):
        make('max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: 3 }')


def test_a_batcher_that_was_removed_from_a_whole_config_does_not_come_back() -> None:
    text = TEXT.replace("dynamic_batching {\n}\n", "")
    assert not pbtxt.parse(make(text).text, where="config.pbtxt").HasField("dynamic_batching")


def test_sequences_are_batched_by_themselves() -> None:
    text = make("max_batch_size: 8 sequence_batching { }").text
    assert not pbtxt.parse(text, where="config.pbtxt").HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("max_batch_size: 8", "max_batch_size: 16", "max_batch_size is 16, but this version was proven only up to 8"),
        ("max_batch_size: 8", "max_batch_size: 0", "max_batch_size is 0, but the version has a batch"),
        ("TYPE_FP32", "TYPE_FP16", "input 'x' is TYPE_FP16"),
    ],
)
def test_a_config_that_was_not_proven_is_no_config_of_the_version(old: str, new: str, what: str) -> None:
    with pytest.raises(RepositoryError, match=what):
        check_config(TEXT.replace(old, new), ARTIFACT.manifest, name="scale", where="config.pbtxt")


@pytest.fixture
def flexible(tmp_path: Path) -> Path:
    """A repository with a model that takes rows of any length."""
    graph = "(float[N, L] x) => (float[N, L] y, float[N, L] z) { y = Add (x, x) z = Neg (x) }"
    onnx.save(parse(graph), tmp_path / "model.onnx")
    builder.publish(tmp_path / "model.onnx", tmp_path / "models", name="flexible")
    return tmp_path / "models"


def test_verify_says_what_no_client_can_ask_for(flexible: Path) -> None:
    path = flexible / "flexible" / "config.pbtxt"
    assert builder.verify("flexible", flexible).notes == ()
    config = pbtxt.parse(path.read_text(), where=path)
    config.input[0].dims[:] = [1000]
    del config.output[1]
    del config.model_warmup[:]
    path.write_text(pbtxt.render(config))

    for version in (None, 1):
        first, second = builder.verify("flexible", flexible, version=version).notes
        assert first.startswith("the stored samples were compared, but no client can send them: config.pbtxt gives 'x'")
        assert second == f"{path} does not list output z, so no client can get it"


def test_verify_does_not_pass_a_version_that_its_config_contradicts(flexible: Path) -> None:
    path = flexible / "flexible" / "config.pbtxt"
    path.write_text(path.read_text().replace("dims: [-1]", "dims: [-1, 2]", 1))

    for version in (None, 1):
        with pytest.raises(RepositoryError, match=r"input 'x' has dims \[-1, 2\], but the version's are \[-1\]"):
            builder.verify("flexible", flexible, version=version)
