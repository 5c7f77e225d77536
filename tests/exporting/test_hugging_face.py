"""A folder that transformers has saved is published for its task, as data: no code runs, nothing is downloaded."""

import http.server
import json
import os
import pickle
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from builder import cli
from builder.errors import BuilderError, HostError, ModelError
from builder.exporting import hub
from builder.exporting.hub import open_folder
from builder.exporting.model_inputs import Facts, declared_inputs
from builder.exporting.options import ExportOptions, InputSpec
from builder.exporting.tasks import TASKS, task_named

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
CONFIG = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}


def write(folder: Path, files: Mapping[str, Any]) -> str:
    """Write a folder, JSON where a value is no bytes, and return its name as MODEL."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return f"hf:{folder}"


def opened(source: str, **given: Any) -> hub.Folder:
    return open_folder(source, **{"revision": None, "is_download": False, **given})


# ---- the folder, read without PyTorch

REFUSED: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "no config": ({"model.safetensors": b""}, "there is no config.json"),
    "a config that is no JSON": ({"config.json": b"{"}, "config.json is not JSON"),
    "a config nested too deeply": ({"config.json": b"[" * 100_000}, "config.json is not JSON"),
    "a config that is a list": ({"config.json": b"[]"}, "holds a list"),
    "a config without a type": ({"config.json": {}}, "has no model_type"),
    "a type that is no text": ({"config.json": {"model_type": ["bert"]}}, "has no model_type"),
    "no weights": ({"config.json": CONFIG}, "no model.safetensors"),
    "a pickle": ({"config.json": CONFIG, "pytorch_model.bin": pickle.dumps(1)}, "only safetensors are read"),
    "TensorFlow": ({"config.json": CONFIG, "tf_model.h5": b""}, "weights are in tf_model.h5"),
    "another file of weights": (
        {"config.json": {**CONFIG, "transformers_weights": "adapter_model.bin"}, "model.safetensors": b""},
        "names another file of weights",
    ),
    "a pointer of Git LFS": (
        {"config.json": CONFIG, "model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"},
        "pointer of Git LFS",
    ),
    "a missing shard": (
        {"config.json": CONFIG, "model.safetensors.index.json": {"weight_map": {"a": "model-1.safetensors"}}},
        "model-1.safetensors is missing",
    ),
    "a shard elsewhere": (
        {"config.json": CONFIG, "model.safetensors.index.json": {"weight_map": {"a": "../model.safetensors"}}},
        "not a file of weights in this folder",
    ),
    "a shard that is a pickle": (
        {"config.json": CONFIG, "model.safetensors.index.json": {"weight_map": {"a": "model.bin"}}},
        "not a file of weights in this folder",
    ),
    "an index without names": ({"config.json": CONFIG, "model.safetensors.index.json": {}}, "names None"),
    "an adapter": ({"adapter_config.json": {}, "config.json": CONFIG, "model.safetensors": b""}, "an adapter"),
    "a pipeline of diffusers": ({"model_index.json": {}}, "a pipeline of diffusers"),
    "quantized weights": ({"config.json": {**CONFIG, "quantization_config": {"bits": 4}}}, "are quantized"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_published_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    files, what = REFUSED[case]
    with pytest.raises(ModelError, match=what) as refused:
        opened(write(tmp_path / "net", files))
    assert refused.value.fix


@pytest.mark.parametrize("target", ["/dev/zero", "/etc", "missing"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_to_what_is_no_file_is_refused(name: str, target: str, tmp_path: Path) -> None:
    source = write(tmp_path / "net", {"config.json": CONFIG, "model.safetensors": b""})
    (tmp_path / "net" / name).unlink()
    (tmp_path / "net" / name).symlink_to(target)
    with pytest.raises(ModelError):
        opened(source)


def test_a_named_pipe_does_not_make_it_wait(tmp_path: Path) -> None:
    source = write(tmp_path / "net", {"config.json": CONFIG})
    os.mkfifo(tmp_path / "net" / "model.safetensors")
    with pytest.raises(ModelError, match="a named pipe"):
        opened(source)


@pytest.mark.parametrize("source", ["hf:owner/name", "hf:missing", "hf:", "hf:../a/b", "hf:owner/na me"])
def test_nothing_is_downloaded_without_being_asked(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="there is no") as refused:
        opened(source)
    assert "--download" in refused.value.fix or "save_pretrained" in refused.value.fix


def test_a_folder_that_is_here_is_not_downloaded(tmp_path: Path) -> None:
    source = write(tmp_path / "net", {"config.json": CONFIG, "model.safetensors": b""})
    with pytest.raises(ModelError, match="nothing to download"):
        opened(source, is_download=True)
    assert opened(source).origin == "hf:net"


@pytest.mark.parametrize(
    ("named", "labels"),
    [
        ({"0": "bad", "1": "good"}, ("bad", "good")),
        ({"1": "good", "0": " bad "}, ("bad", "good")),
        ({"0": "LABEL_0", "1": "LABEL_1"}, ()),
        ({"0": "bad", "2": "good"}, ()),
        ({"0": "bad", "1": ""}, ()),
        ({"0": "bad", "1": "go\nod"}, ()),
        ({"0": "bad", "1": 5}, ()),
        (["bad", "good"], ()),
        (None, ()),
    ],
)
def test_labels_are_the_names_of_all_classes_or_none(named: object, labels: tuple[str, ...], tmp_path: Path) -> None:
    source = write(tmp_path / "net", {"config.json": {**CONFIG, "id2label": named}, "model.safetensors": b""})
    assert opened(source).labels == labels


# ---- the inputs, by the config


def facts(main: str, parameters: str, task: str = "feature-extraction", **configs: Any) -> Facts:
    kinds = ("preprocessor", "tokenizer")
    return Facts(
        task=task,
        main=main,
        parameters=parameters.split(),
        required=configs.pop("required", ()),
        configs=[{key: value for key, value in configs.items() if key not in kinds}],
        preprocessor=configs.get("preprocessor", {}),
        tokenizer=configs.get("tokenizer", {}),
    )


TEXT = "input_ids attention_mask token_type_ids"
INPUTS: list[tuple[Facts, dict[str, list[int | str]]]] = [
    (facts("input_ids", TEXT, type_vocab_size=2, max_position_embeddings=512),
     {"input_ids": [1, "length 16"], "attention_mask": [1, "length 16"], "token_type_ids": [1, "length 16"]}),
    (facts("input_ids", TEXT, type_vocab_size=1, max_position_embeddings=12),
     {"input_ids": [1, "length 4"], "attention_mask": [1, "length 4"]}),
    (facts("input_ids", TEXT, type_vocab_size=2, tokenizer={"model_input_names": ["input_ids", "attention_mask"]}),
     {"input_ids": [1, "length 16"], "attention_mask": [1, "length 16"]}),
    (facts("input_ids", "input_ids", task="multiple-choice"), {"input_ids": [1, 2, "length 16"]}),
    (facts("input_ids", "input_ids bbox"), {"input_ids": [1, "length 16"], "bbox": [1, "length 16", 4]}),
    (facts("input_ids", "input_ids decoder_input_ids", task="text2text-generation", is_encoder_decoder=True),
     {"input_ids": [1, "length 16"], "decoder_input_ids": [1, "decoder_length 8"]}),
    (facts("input_ids", "input_ids decoder_input_ids", task="text-classification", is_encoder_decoder=True),
     {"input_ids": [1, "length 16"]}),
    (facts("pixel_values", "pixel_values", image_size=32), {"pixel_values": [1, 3, 32, 32]}),
    (facts("pixel_values", "pixel_values", image_size=[32, 48], num_channels=1), {"pixel_values": [1, 1, 32, 48]}),
    (facts("pixel_values", "pixel_values", preprocessor={"size": {"height": 64, "width": 80}}),
     {"pixel_values": [1, 3, 64, 80]}),
    (facts("pixel_values", "pixel_values", preprocessor={"size": {"shortest_edge": 256}, "crop_size": 224}),
     {"pixel_values": [1, 3, 224, 224]}),
    (facts("pixel_values", "pixel_values", task="video-classification", image_size=16, num_frames=4),
     {"pixel_values": [1, 4, 3, 16, 16]}),
    (facts("pixel_values", "pixel_values input_ids", required=("input_ids", "pixel_values"), image_size=32),
     {"input_ids": [1, "length 16"], "pixel_values": [1, 3, 32, 32]}),
    (facts("input_values", "input_values attention_mask", preprocessor={"sampling_rate": 8000}),
     {"input_values": [1, "time 8000"]}),
    (facts("input_values", "input_values", max_length=64, num_mel_bins=16), {"input_values": [1, 64, 16]}),
    (facts("input_features", "input_features", num_mel_bins=80, max_source_positions=1500),
     {"input_features": [1, 80, 3000]}),
    (facts("input_features", "input_features", feature_projection_input_dim=160),
     {"input_features": [1, "time 100", 160]}),
    (facts("latents", "latents"), {}),
    (facts("input_ids", "input_ids table", required=("table",)), {}),
    (facts("pixel_values", "pixel_values", image_size=-3, num_channels=True), {"pixel_values": [1, 3, 224, 224]}),
]  # fmt: skip
"""The inputs of models by what their configs say; sizes that may change have a name."""


@pytest.mark.parametrize(("known", "inputs"), INPUTS)
def test_inputs_follow_from_the_config(known: Facts, inputs: dict[str, list[int | str]]) -> None:
    found = declared_inputs(known)
    shown = {
        spec.name: [
            f"{found.dynamic[spec.name][axis]} {dim}" if axis in found.dynamic.get(spec.name, {}) else dim
            for axis, dim in enumerate(spec.shape)
        ]
        for spec in found.inputs
    }
    assert shown == inputs
    assert set(found.dynamic) <= set(inputs)


def test_tasks_have_other_names_and_a_wrong_one_is_told() -> None:
    assert task_named("hf:x", "sentiment-analysis") == "text-classification"
    assert task_named("hf:x", " Fill-Mask") == "fill-mask"
    with pytest.raises(ModelError, match="there is no task 'text-clasification'") as refused:
        task_named("hf:x", "text-clasification")
    assert refused.value.fix == "use --task text-classification"


# ---- the command line


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["a.onnx", "--task", "fill-mask"], "--task is only for Hugging Face models"),
        (["nets:make", "--download"], "--download is only for Hugging Face models"),
        (["hf:owner/name", "--revision", "main"], "--revision has no effect without --download"),
    ],
)
def test_options_of_hugging_face_models_are_for_those_alone(
    arguments: list[str], what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["builder", "publish", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert what in capsys.readouterr().err


# ---- the model, loaded by transformers


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a classifier of random weights."""
    import transformers

    folder = tmp_path_factory.mktemp("hugging_face") / "my-bert"
    labels = {0: "bad", 1: "so so", 2: "good"}
    config = transformers.BertConfig(**SMALL, id2label=labels, label2id={name: n for n, name in labels.items()})
    transformers.set_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def find(source: str | Path, **given: Any) -> Any:
    from builder.exporting.hugging_face import find

    return find(f"hf:{source}", ExportOptions(**given))


def changed(folder: Path, tmp_path: Path, **config: Any) -> Path:
    """Return a copy of a folder with another config; None removes an entry."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    kept = {**json.loads((folder / "config.json").read_text()), **config}
    (copy / "config.json").write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))
    return copy


@pytest.mark.torch
def test_every_task_has_classes_that_transformers_has() -> None:
    import transformers

    assert [name for names in TASKS.values() for name in names if not hasattr(transformers, name)] == []


@pytest.mark.torch
def test_the_task_follows_from_the_class_that_was_saved(bert: Path) -> None:
    found = find(bert)
    assert type(found.module).__name__ == "BertForSequenceClassification"
    assert [spec.name for spec in found.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert found.dynamic["input_ids"] == found.dynamic["attention_mask"] == {1: "length"}
    assert found.labels == ("bad", "so so", "good")
    assert found.origin == "hf:my-bert"
    assert not found.module.training
    assert "for text-classification" in found.notes[0]


@pytest.mark.torch
def test_a_task_may_use_a_part_of_the_weights_but_none_that_are_random(bert: Path) -> None:
    assert find(bert, task="feature-extraction").labels == ()
    with pytest.raises(ModelError, match="there are no weights for cls") as refused:
        find(bert, task="fill-mask")
    assert "BertForSequenceClassification" in refused.value.what
    with pytest.raises(ModelError, match="no bert model for image-classification") as other:
        find(bert, task="image-classification")
    assert "text-classification" in other.value.fix


@pytest.mark.torch
def test_a_pooler_without_weights_is_left_out(bert: Path, tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "masked"
    transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)).save_pretrained(folder)
    assert find(folder, task="feature-extraction").module.pooler is None


@pytest.mark.torch
def test_inputs_and_names_of_axes_may_be_given(bert: Path) -> None:
    renamed = find(bert, dynamic={"input_ids": {1: "tokens"}}).dynamic
    assert renamed == {name: {1: "tokens"} for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert find(bert, is_static=True).dynamic == {}
    given = find(bert, inputs=(InputSpec.parse("input_ids=int64[1,8]"),))
    assert [spec.shape for spec in given.inputs] == [(1, 8)]
    assert given.dynamic == {}


WRONG: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "code of its own": ({"model_type": "mine", "auto_map": {"AutoConfig": "evil.C"}}, "which is not run"),
    "a type that is not known": ({"model_type": "mine"}, "has no model of the type 'mine'"),
    "other shapes": ({"hidden_size": 32}, "cannot be loaded"),
    "an activation that does not exist": ({"hidden_act": "nothing"}, "cannot be loaded"),
    "a number that is text": ({"num_hidden_layers": "two"}, "cannot be|cannot be loaded"),
    "a class that is not known": ({"architectures": ["Mine"]}, "the task is not clear from its class, Mine"),
    "no class": ({"architectures": None}, "which the config does not name"),
}


@pytest.mark.torch
@pytest.mark.parametrize("case", WRONG)
def test_a_config_that_does_not_fit_is_refused_and_no_code_of_the_folder_runs(
    case: str, bert: Path, tmp_path: Path
) -> None:
    config, what = WRONG[case]
    folder = changed(bert, tmp_path, **config)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=what):
        find(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.torch
def test_weights_that_are_no_safetensors_are_refused(bert: Path, tmp_path: Path) -> None:
    folder = changed(bert, tmp_path)
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="cannot be loaded"):
        find(folder)


@pytest.mark.torch
def test_code_of_the_folder_is_not_run_where_transformers_has_the_class(bert: Path, tmp_path: Path) -> None:
    folder = changed(bert, tmp_path, auto_map={"AutoModelForSequenceClassification": "evil.C"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "which is not run" in find(folder).notes[1]
    assert not (tmp_path / "ran").exists()


@pytest.mark.torch
@pytest.mark.slow
def test_a_folder_is_published_with_labels_and_gives_the_answers_of_transformers(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    import transformers

    monkeypatch.setattr(sys, "argv", ["builder", "publish", f"hf:{bert}", "--repository", str(tmp_path / "models"),
                                      "--output-names", "scores"])  # fmt: skip
    cli.main()
    told = capsys.readouterr()
    assert told.out == f"{tmp_path}/models/my-bert/1\n"
    assert "labels   logits: bad, so so, good" in told.err
    config = (tmp_path / "models/my-bert/config.pbtxt").read_text()
    assert 'name: "scores"' in config
    (labels,) = (tmp_path / "models/my-bert").glob("labels-*.txt")
    assert labels.name in config
    assert labels.read_text() == "bad\nso so\ngood\n"
    path = tmp_path / "models/my-bert/1/model.onnx"
    stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert stored["exported_from"] == "hf:my-bert"
    ids = np.random.default_rng(0).integers(0, 50, (3, 9))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    (scores,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["scores"], feeds)
    model = transformers.BertForSequenceClassification.from_pretrained(bert)
    with torch.no_grad():
        expected = model(**{name: torch.tensor(array) for name, array in feeds.items()}).logits
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-6)


# ---- a download, from a server on this machine that answers as the Hub does

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_server(bert: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve the folder as `owner/name`, and yield the paths that were asked for."""
    from huggingface_hub import constants

    contents = {path.name: path.read_bytes() for path in bert.iterdir()} | {"evil.py": b"", "pytorch_model.bin": b""}
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            name = self.path.rpartition("/")[2]
            if self.path.startswith("/api/models/owner/name/revision/"):
                listed = [{"rfilename": each} for each in contents]
                content = json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": listed}).encode()
            elif self.path.startswith(f"/api/models/owner/name/tree/{COMMIT}"):
                tree = [
                    {"type": "file", "path": each, "size": len(found), "oid": each} for each, found in contents.items()
                ]
                content = json.dumps(tree).encode()
            elif self.path.startswith(f"/owner/name/resolve/{COMMIT}/") and name in contents:
                content = contents[name]
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{name}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.torch
def test_a_repository_is_downloaded_when_asked_and_its_commit_is_kept(
    hub_server: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    found = find("owner/name", is_download=True, revision="main")
    assert found.origin == f"hf:owner/name@{COMMIT}"
    assert type(found.module).__name__ == "BertForSequenceClassification"
    fetched = {path.rpartition("/")[2] for path in hub_server}
    assert {"config.json", "model.safetensors"} <= fetched
    assert not {"evil.py", "pytorch_model.bin"} & fetched
    with pytest.raises(HostError, match="no repository owner/other"):
        find("owner/other", is_download=True)


@pytest.mark.torch
def test_a_hub_that_is_out_of_reach_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BuilderError, match="the download fails"):
        opened("hf:owner/name", is_download=True)
