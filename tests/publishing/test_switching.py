"""A version's config is made from what it replaces, however many others publish at the same time."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.artifacts import scale

from builder.config import Config, ConfigOptions, make_config, pbtxt
from builder.errors import RepositoryError
from builder.publishing import install, installing, planning, roll_back
from builder.repository import Repository

PUBLISHERS = 16


@pytest.fixture(autouse=True)
def slow_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let making a config take so long that another publisher would get in between, if one could."""

    def make_slowly(*args: Any, **kwargs: Any) -> Config:
        config = make_config(*args, **kwargs)
        time.sleep(0.1)
        return config

    for module in (installing, planning):
        monkeypatch.setattr(module, "make_config", make_slowly)


@pytest.mark.slow
def test_sixteen_publishers_at_once_each_get_a_version_and_no_option_of_theirs_is_lost(tmp_path: Path) -> None:
    """Each sets another option or none; a config made from what another publisher then replaced would lose some."""
    options = [
        ConfigOptions(max_queue_delay_us=250),
        ConfigOptions(preferred_batch_sizes=(4,)),
        ConfigOptions(instances=3),
        ConfigOptions(kind="cpu"),
        ConfigOptions(intra_op_thread_count=2),
        *[None] * (PUBLISHERS - 5),
    ]

    def publish(index: int) -> int:
        return install(Repository(tmp_path / "models"), "scale", scale(2.0 + index), options[index]).version

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        versions = list(pool.map(publish, range(PUBLISHERS)))

    model = Repository(tmp_path / "models").model("scale")
    assert sorted(versions) == list(range(1, PUBLISHERS + 1))
    assert model.versions() == tuple(range(1, PUBLISHERS + 1))
    config = pbtxt.parse(model.read_config(), where="")
    last = scale(2.0 + versions.index(PUBLISHERS))
    assert model.served_version() == PUBLISHERS
    assert config.parameters["builder.model_sha256"].string_value == last.manifest.model.sha256
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert config.dynamic_batching.preferred_batch_size == [4]
    assert [group.count for group in config.instance_group] == [3]
    assert "kind: KIND_CPU" in model.read_config()
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert set(re.findall(r"[0-9a-f]{64}\.raw", model.read_config())) <= {
        file.name for file in (model.path / "warmup").iterdir()
    }


@pytest.mark.slow
def test_publishers_and_rollbacks_at_once_leave_a_config_that_describes_the_served_version(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    for factor in (2.0, 3.0):
        install(repository, "scale", scale(factor))

    def change(index: int) -> None:
        if index % 2:
            install(Repository(repository.root), "scale", scale(4.0 + index))
        else:
            roll_back(Repository(repository.root), "scale", 1 + index % 4 // 2)

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        list(pool.map(change, range(PUBLISHERS)))

    model = repository.model("scale")
    served = model.served_version()
    config = pbtxt.parse(model.read_config(), where="")
    assert len(model.versions()) == 2 + PUBLISHERS // 2
    assert config.parameters["builder.model_sha256"].string_value == model.read_manifest(served).model.sha256


def test_a_config_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")

    with pytest.raises(RepositoryError, match="preferred_batch_size 9 is not between"):
        install(repository, "scale", scale(), ConfigOptions(preferred_batch_sizes=(9,)))

    assert list(repository.root.iterdir()) == []
    assert install(repository, "scale", scale()).version == 1
