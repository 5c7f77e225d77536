"""The settings that are searched are read from a config, and written into it, without touching anything else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.artifacts import scale

from builder.config import ConfigOptions, ExistingConfig, make_config, pbtxt
from builder.errors import RepositoryError
from builder.record import first_row
from builder.tuning import Configuration
from builder.tuning.bench.configuring import configured, options_of, read_configuration

BASE = """
max_batch_size: 8
instance_group { kind: KIND_CPU count: 2 }
dynamic_batching { preferred_batch_size: [4, 2] max_queue_delay_microseconds: 100 preserve_ordering: true }
parameters { key: "intra_op_thread_count" value { string_value: "3" } }
"""
SETTINGS = Configuration(instances=2, threads=3, max_batch_size=8, preferred=(2, 4), delay_us=100)


EDIT = 'parameters { key: "intra_op_thread_count" value { string_value: "3" } }\n# the end\n'


def parse(text: str) -> Any:
    return pbtxt.parse(text, where="config.pbtxt")


def read(text: str) -> Configuration:
    return read_configuration(parse(text), where="config.pbtxt")


def test_all_settings_are_read() -> None:
    assert read(BASE) == SETTINGS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch_size: 4 dynamic_batching {} instance_group { count: 1 }", Configuration(1, None, 4)),
        ("max_batch_size: 4 instance_group { count: 1 }", Configuration(1, None, 4, preferred=(1,))),
        ("max_batch_size: 0 instance_group { count: 1 }", Configuration(1, None, 0)),
        ("max_batch_size: 4 dynamic_batching {}", Configuration(2, None, 4)),
        ("max_batch_size: 4 dynamic_batching {} instance_group { kind: KIND_GPU }", Configuration(1, None, 4)),
        (
            'max_batch_size: 4 dynamic_batching {} instance_group { count: 3 kind: KIND_GPU profile: ["1", "0"] } '
            "optimization { cuda { graphs: true } }",
            Configuration(3, None, 4, profiles=(1, 0), cuda_graphs=True),
        ),
    ],
)
def test_what_a_config_leaves_out_is_read_as_triton_takes_it(text: str, expected: Configuration) -> None:
    assert read(text) == expected


@pytest.mark.parametrize("value", ["0", "-1", "", "many"])
def test_threads_that_are_no_number_are_left_to_the_server(value: str) -> None:
    entry = f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{value}" }} }}'
    text = f"instance_group {{ count: 1 }} {entry}"
    assert read(text).threads is None


def test_several_instance_groups_are_refused() -> None:
    with pytest.raises(RepositoryError, match="2 instance groups") as caught:
        read("instance_group { count: 1 } instance_group { count: 2 }")
    assert "leave one instance_group" in caught.value.fix


def test_a_config_keeps_its_settings_with_no_options_at_all() -> None:
    assert options_of(SETTINGS, read(BASE)) == ConfigOptions()


WANTED = {
    "instances": replace(SETTINGS, instances=1),
    "threads": replace(SETTINGS, threads=1),
    "no threads": replace(SETTINGS, threads=None),
    "largest batch": replace(SETTINGS, max_batch_size=4, preferred=()),
    "no preferred sizes": replace(SETTINGS, preferred=()),
    "delay": replace(SETTINGS, delay_us=0),
    "all": Configuration(1, 2, 4, preferred=(2,), delay_us=500),
}


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_options_write_the_settings_and_keep_the_rest(wanted: Configuration) -> None:
    artifact = scale()
    sample = first_row(artifact.reference)
    first = make_config(artifact.manifest, name="m", version=1, sample=sample, options=ConfigOptions())
    own = first.text.replace("dynamic_batching {", "dynamic_batching {\n  preserve_ordering: true") + EDIT
    options = options_of(wanted, read(own))
    existing = ExistingConfig(own, artifact.manifest, Path("config.pbtxt"))
    made = make_config(
        artifact.manifest, name="m", version=1, sample=sample, options=options, existing=existing, present=[1]
    )
    assert read(made.text) == wanted
    assert "preserve_ordering: true" in made.text
    assert "# the end" in made.text
    assert options_of(wanted, read(made.text)) == ConfigOptions()


def test_threads_that_are_no_longer_wanted_are_removed() -> None:
    options = options_of(replace(SETTINGS, threads=None), read(BASE))
    assert options == ConfigOptions(parameters={"intra_op_thread_count": ""})


def test_profiles_are_written_by_their_numbers_alone() -> None:
    group = 'instance_group { kind: KIND_GPU gpus: [1] profile: ["0", "1"] count: 1 host_policy: "near" }'
    config = parse(f'backend: "tensorrt" max_batch_size: 4 {group} dynamic_batching {{}}')
    wanted = replace(read_configuration(config, where=""), instances=2, profiles=(1,), cuda_graphs=True)
    made = configured(config, wanted, where="")
    assert read_configuration(made, where="") == wanted
    assert (made.instance_group[0].gpus, made.instance_group[0].host_policy) == ([1], "near")
    assert made.optimization.cuda.graphs
