"""A quantized model is published only if it is faster than fp32 on this CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from builder.errors import VerificationError
from builder.publishing import PublishOptions, faster, publish
from builder.record import Manifest, Speed, SpeedOfBatch

RNG = np.random.default_rng(0)


def speed(ratio: float, *, spread: float = 0.0) -> Speed:
    return Speed(2, (SpeedOfBatch(1, 1.0, 1 / ratio, ratio, ratio - spread, ratio + spread),), 1.02)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return two products, the second of which is small."""
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 400] x) => (float[1, 4] y) '
        "{ h = MatMul (x, a) p = Relu (h) y = MatMul (p, b) }"
    )
    for name, shape in (("a", (400, 400)), ("b", (400, 4))):
        array = RNG.standard_normal(shape).astype(np.float32) / 20
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save_model(proto, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def published(model: Path, **asked: Any) -> Manifest:
    options = PublishOptions(precision="int8-dynamic", **asked)
    return publish(model, model.parent / "repository", options=options).manifest


@pytest.mark.parametrize(
    ("ratios", "spread", "which"),
    [
        ((1.5,), 0.0, 0),
        ((1.5, 1.52), 0.0, 0),
        ((1.5, 1.6), 0.0, 1),
        ((1.5, 1.6), 0.1, 0),
        ((1.01, 1.03), 0.1, 1),
        ((0.7, 0.9, 1.4), 0.1, 2),
        ((0.7, 0.5), 0.0, 0),
    ],
)
def test_the_fastest_form_is_taken_but_noise_does_not_decide(
    ratios: tuple[float, ...], spread: float, which: int
) -> None:
    assert faster.fastest([speed(ratio, spread=spread) for ratio in ratios]) == which


@pytest.mark.parametrize(("ratios", "nodes"), [((1.5, 1.5), 2), ((1.1, 1.5), 1)])
def test_what_does_not_pay_stays_in_fp32(
    ratios: tuple[float, ...], nodes: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second form has the small product in fp32."""
    monkeypatch.setattr(faster, "measure_speed", lambda *_, **__: [speed(ratio) for ratio in ratios])
    manifest = published(model)
    assert manifest.quantization is not None
    assert manifest.quantization.nodes == nodes
    assert manifest.quantization.kept == ({} if nodes == 2 else {"slower in int8": {"MatMul": 1}})
    assert manifest.speed == speed(ratios[2 - nodes])


def test_a_model_that_gains_too_little_is_refused_with_the_figure_and_what_else_there_is(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faster, "measure_speed", lambda *_, **__: [speed(0.9), speed(0.8)])
    with pytest.raises(VerificationError) as caught:
        published(model)
    assert caught.value.what == (
        "int8-dynamic gains too little: it has 0.90 times the throughput of fp32 at a batch of 1 (mostly 0.90 to 0.90)"
        ", with 2 threads of this CPU; at least 1.02 times is asked for, at every batch size"
    )
    assert caught.value.fix == (
        "leave out --precision, try --precision int8 --calibration FILE.npz, or publish it all the same with "
        "--min-speedup 0"
    )
    assert not (model.parent / "repository" / "net").exists()


def test_it_is_measured_and_the_manifest_says_how_fast_it_was(model: Path) -> None:
    manifest = published(model, min_speedup=0)
    assert manifest.speed is not None
    assert [batch.batch_size for batch in manifest.speed.batches] == [1, 32]
    assert manifest.speed.least == 0
    read = Manifest.from_json((model.parent / "repository/net/1/manifest.json").read_text(), where=model)
    assert (read.speed, read.quantization) == (manifest.speed, manifest.quantization)
    assert "min_speedup" not in read.options


def test_a_speed_that_no_model_has_is_refused(model: Path) -> None:
    with pytest.raises(VerificationError, match="at least 100 times is asked for"):
        published(model, min_speedup=100)


def test_publishing_again_changes_nothing_although_the_measure_is_another(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ratio in (1.5, 1.6):
        monkeypatch.setattr(faster, "measure_speed", lambda *_, ratio=ratio, **__: [speed(ratio), speed(ratio)])
        published(model)
    assert not (model.parent / "repository/net/2").exists()
