"""Compare the config that a server has loaded with one from a repository."""

import pytest

from builder.config import pbtxt
from builder.deployment.loaded import differences, is_made_from, serving

WRITTEN = """
name: "m" backend: "onnxruntime" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [3] }
output { name: "y" data_type: TYPE_FP32 dims: [3] label_filename: "l.txt" }
instance_group { count: 2 kind: KIND_AUTO }
dynamic_batching { max_queue_delay_microseconds: 100 }
parameters { key: "a" value { string_value: "1" } }
version_policy { specific { versions: [2] } }
"""
FILLED_IN = """
optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: true } }
default_model_filename: "model.onnx"
"""


def as_loaded(text: str = WRITTEN) -> str:
    text = text.replace("microseconds: 100", "microseconds: 100 preferred_batch_size: 8")
    return text.replace("count: 2 kind: KIND_AUTO", 'name: "m_0" count: 2 kind: KIND_CPU') + FILLED_IN


def is_from(loaded: str, written: str = WRITTEN) -> bool:
    return is_made_from(pbtxt.parse(loaded, where="loaded"), pbtxt.parse(written, where="written"))


def test_what_a_server_fills_in_does_not_count() -> None:
    assert is_from(as_loaded())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_batch_size: 8", "max_batch_size: 16"),
        ("microseconds: 100", "microseconds: 500000"),
        ("dynamic_batching { max_queue_delay_microseconds: 100 }", ""),
        ("count: 2", "count: 3"),
        ("dims: [3] }\n", "dims: [4] }\n"),
        ('string_value: "1"', 'string_value: "2"'),
        ("versions: [2]", "versions: [1, 2]"),
        ('dims: [3] label_filename: "l.txt"', "dims: [3]"),
    ],
)
def test_a_setting_that_was_changed_added_or_removed_is_noticed(old: str, new: str) -> None:
    assert old in WRITTEN
    other = WRITTEN.replace(old, new)
    assert not is_from(as_loaded(), other)
    assert not is_from(as_loaded(other))


def test_versions_are_named_where_a_policy_may_mean_others_by_now() -> None:
    config = pbtxt.parse("version_policy { latest { num_versions: 1 } }", where="config")
    assert list(serving(config, [1]).version_policy.specific.versions) == [1]
    assert config.version_policy.HasField("latest")


def test_settings_that_a_server_must_not_change_are_compared() -> None:
    written = pbtxt.parse(WRITTEN, where="written")
    other = pbtxt.parse(WRITTEN.replace("[2]", "[1]").replace("size: 8", "size: 4"), where="other")
    assert list(differences(pbtxt.parse(as_loaded(), where="loaded"), written, [1, 2])) == []
    assert list(differences(other, written, [1, 2])) == [
        ("max_batch_size", 4, 8),
        ("the list of served versions", [1], [2]),
    ]
    partial = pbtxt.parse("version_policy { all { } }", where="partial")
    loaded = pbtxt.parse(as_loaded().replace("specific { versions: [2] }", "all { }"), where="loaded")
    assert list(differences(loaded, partial, [1, 2])) == [], "the server has completed it"
