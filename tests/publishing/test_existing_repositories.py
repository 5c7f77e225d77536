"""Repositories as Triton's documentation and its own tests lay them out: listed, adopted, published into, rolled back.

One real Triton serves them all, and says after each step which versions answer, and what.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser
from support import foreign
from support.artifacts import tree
from support.load_server import serving
from support.serving import client, infer, load

from builder import api
from builder.repository import Repository
from builder.server import Server

pytestmark = pytest.mark.slow

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)

NEW = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1, 3] x) => (float[1, 3] y) {
    factor = Constant <value = float {5.0}> ()
    y = Mul (x, factor)
}
"""

POLICIES = {
    "default": "",
    "latest": "version_policy { latest { num_versions: 2 } }",
    "every": "version_policy { all { } }",
    "one": "version_policy { specific { versions: [1] } }",
    "two": "version_policy { specific { versions: [1, 2] } }",
}
"""The policies of Triton, by the name of a model with the versions 1 (twice x), 2 (three times x)."""

LIFE: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    # name: served at first, and after version 3 (five times x) was published
    "default": ((2,), (3,)),
    "latest": ((1, 2), (2, 3)),
    "every": ((1, 2), (1, 2, 3)),
    "one": ((1,), (3,)),
    "two": ((1, 2), (1, 3)),
    "without": ((2,), (3,)),
    "named": ((1,), (2,)),
}

WHOLE_CONFIG = foreign.SCALE_CONFIG.replace("max_batch_size: 8", "").replace("dims: 3", "dims: [1, 3]")

FACTORS = {1: 2, 2: 3, 3: 5}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for name, policy in POLICIES.items():
        foreign.write_onnx(root, name, foreign.SCALE_CONFIG + policy, foreign.scale(2), foreign.scale(3))
    foreign.write_onnx(root, "without", None, foreign.scale(2), foreign.scale(3))
    configs = foreign.write_onnx(root, "named", foreign.SCALE_CONFIG, foreign.scale(2)) / "configs"
    configs.mkdir()
    (configs / "canary.pbtxt").write_text(foreign.SCALE_CONFIG.replace("8", "2"))
    foreign.write_ensemble(root, "both", "default", "script")
    foreign.write_python(root, "script")
    return root


@pytest.fixture
def triton_on(root: Path) -> Iterator[Server]:
    """A server of a copy of the repository, whose models without a config have what `adopt` wrote."""
    with serving(root, model_control_mode="explicit") as server:
        yield server


def ready(server: Server, name: str) -> tuple[int, ...]:
    """The versions that answer."""
    with client(server) as connection:
        return tuple(version for version in range(1, 5) if connection.is_model_ready(name, str(version)))


def factor(server: Server, name: str, version: str = "") -> float:
    """What `x` is multiplied with."""
    return float(infer(server, name, {"x": ROWS}, version=version)["y"][1, 1] / ROWS[1, 1])


def check_served(
    server: Server, root: Path, name: str, versions: tuple[int, ...], factors: Mapping[int, int] = FACTORS
) -> None:
    """Load the model, and check that these versions answer, and no other."""
    load(server, name)
    assert Repository(root).model(name).served_versions() == versions
    assert ready(server, name) == versions
    assert {version: factor(server, name, str(version)) for version in versions} == {
        version: factors[version] for version in versions
    }
    assert factor(server, name) == factors[versions[-1]]


def check_listed(root: Path) -> None:
    before = tree(root)
    listed = {model.name: model for model in api.list_models(root)}
    served = {name: tuple(v.version for v in model.versions if v.served) for name, model in listed.items()}
    assert served == {**{name: first for name, (first, _) in LIFE.items()}, "both": (1,), "script": (1,)}
    assert {model.problem for model in listed.values()} == {None}
    assert tree(root) == before


def check_adopted(root: Path) -> None:
    before = tree(root)
    done = api.adopt((), root)
    found = {model.name: tuple(model.versions) for model in done.adopted}
    assert found == {name: first for name, (first, _) in LIFE.items()}
    assert (sorted(done.skipped), dict(done.refused)) == (["both", "script"], {})
    assert {path: content for path, content in tree(root).items() if path in before} == before


def publish_into_each(root: Path, server: Server, new: Path) -> None:
    for name, (_, published) in LIFE.items():
        api.publish(new, root, name=name)
        check_served(server, root, name, published, {1: 2, 2: 5} if name == "named" else FACTORS)


def check_first_dimension_becomes_the_batch(server: Server, root: Path, new: Path) -> None:
    """A client that sends one sample gets its answer before and after, and then batches are answered too."""
    foreign.write_onnx(root, "whole", WHOLE_CONFIG, parser.parse_model(NEW.replace("5.0", "2.0")))
    for version, rows in ((1, ROWS[1:2]), (2, ROWS[1:2]), (2, ROWS)):
        if version == 2:
            api.publish(new, root, name="whole")
        load(server, "whole")
        answer = infer(server, "whole", {"x": rows})["y"]
        assert (answer == rows * (2 if version == 1 else 5)).all()


def roll_back_each(root: Path, server: Server) -> None:
    for name, (first, _) in LIFE.items():
        assert api.rollback(name, root, to=first[-1]).after == first[-1]
        versions = Repository(root).model(name).served_versions()
        assert versions[-1] == first[-1]
        check_served(server, root, name, versions)


def of_others(root: Path) -> dict[str, bytes]:
    """The files that no command changes."""
    return {path: content for path, content in tree(root).items() if path.startswith(("both", "script", "named/con"))}


def test_every_kind_of_repository_is_listed_adopted_published_into_and_rolled_back(
    root: Path, triton_on: Server, tmp_path: Path
) -> None:
    before = {path: content for path, content in of_others(root).items() if path != "named/config.pbtxt"}
    check_listed(root)
    check_adopted(root)

    for name in ("script", *LIFE, "both"):
        load(triton_on, name)
    for name, (first, _) in LIFE.items():
        check_served(triton_on, root, name, first)
    assert factor(triton_on, "both") == 3

    onnx.save(parser.parse_model(NEW), tmp_path / "new.onnx")
    publish_into_each(root, triton_on, tmp_path / "new.onnx")
    assert factor(triton_on, "both") == 5

    check_first_dimension_becomes_the_batch(triton_on, root, tmp_path / "new.onnx")

    roll_back_each(root, triton_on)
    assert factor(triton_on, "both") == 3
    assert {path: content for path, content in of_others(root).items() if path in before} == before
