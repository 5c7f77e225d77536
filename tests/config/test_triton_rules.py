"""What this package says about a config is what a real Triton does with it."""

import itertools
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.load_server import serving
from support.serving import DOUBLE, DOUBLE_CONFIG, eventually, load, parse, write_model
from tritonclient.utils import InferenceServerException

from builder.config import pbtxt
from builder.config.rules import problems
from builder.server import Server

pytestmark = pytest.mark.slow

NAMES = (f"rules{number}" for number in itertools.count())

GROUP = "instance_group { kind: KIND_CPU count: 1 %s }"
POLICY = "dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: %d value { } } }"
RESOURCE = 'rate_limiter { resources { name: "R" count: 1 } %s }'


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module alone, because a bad config can end it."""
    with serving(tmp_path_factory.mktemp("rules"), model_control_mode="explicit") as server:
        yield server


@pytest.fixture
def name() -> str:
    return next(NAMES)


def write(repository: Path, name: str, more: str) -> list[str]:
    """Write a model that doubles, with something more in its config, and return what is said about that."""
    text = more if "input {" in more else DOUBLE_CONFIG + more
    write_model(repository, name, text, parse(DOUBLE))
    path = repository / name / "config.pbtxt"
    return list(problems(pbtxt.parse(path.read_text(), where=path)))


@pytest.mark.parametrize(
    "more",
    [
        "dynamic_batching { priority_levels: 2 }",
        "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
        "dynamic_batching { preferred_batch_size: 9 }",
        "dynamic_batching { preferred_batch_size: 0 }",
        POLICY % 0,
        POLICY % 3,
        "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
        "dynamic_batching { preserve_ordering: true "
        "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 } }",
        "dynamic_batching { preserve_ordering: true priority_levels: 1 default_priority_level: 1 "
        "priority_queue_policy { key: 1 value { timeout_action: DELAY default_timeout_microseconds: 5 } } }",
        "sequence_batching { direct { minimum_slot_utilization: 1.5 } }",
        "sequence_batching { oldest { preferred_batch_size: 9 } }",
        "sequence_batching { } response_cache { enable: true }",
        "model_transaction_policy { decoupled: true } response_cache { enable: true }",
        GROUP % 'profile: "0"',
        GROUP % "gpus: 0",
        "instance_group { kind: KIND_MODEL gpus: 0 }",
        DOUBLE_CONFIG.replace("input {", "input { is_shape_tensor: true"),
        DOUBLE_CONFIG.replace("output {", "output { is_non_linear_format_io: true"),
        "model_metrics { metric_control { histogram_options { buckets: [1] } } }",
        'model_metrics { metric_control { metric_identifier { family: "f" } histogram_options { } } }',
        DOUBLE_CONFIG.replace("output {", 'output { label_filename: "../x.txt"'),
        'parameters { key: "execution_mode" value { string_value: "2" } }',
        'parameters { key: "enable_mem_arena" value { string_value: "maybe" } }',
        'parameters { key: "inter_op_thread_count" value { string_value: "two" } }',
    ],
)
def test_triton_refuses_what_is_reported(triton: Server, name: str, more: str) -> None:
    assert write(triton.repository, name, more)
    with pytest.raises(InferenceServerException):
        load(triton, name)
    assert is_live(triton)


@pytest.mark.parametrize(
    "more",
    [
        'metric_tags { key: "a" value: "\\"\\n" } metric_tags { key: "1_B" value: "" } response_cache { enable: true } '
        + POLICY % 2
        + GROUP % (RESOURCE % "priority: 2")
        + GROUP % 'name: "a" host_policy: "none" passive: true'
        + GROUP % 'name: "a" secondary_devices { device_id: 1 }',
        'parameters { key: "enable_mem_arena" value { string_value: "Off" } } '
        'parameters { key: "execution_mode" value { string_value: " +1" } } '
        "dynamic_batching { default_priority_level: 2 preserve_ordering: true priority_queue_policy "
        "{ key: 7 value { max_queue_size: 4294967295 default_timeout_microseconds: 1 } } } instance_group { count: 0 }",
        DOUBLE_CONFIG.replace("output {", 'output { label_filename: "labels/y.txt"')
        + 'model_warmup { name: "none" batch_size: 0 inputs { key: "X" value { } } }',
    ],
)
def test_triton_loads_what_is_not_reported(triton: Server, name: str, more: str) -> None:
    assert write(triton.repository, name, more) == []
    (triton.repository / name / "labels").mkdir()
    (triton.repository / name / "labels/y.txt").write_text("a\nb\n")
    load(triton, name)


@pytest.mark.parametrize("label", ["a-b", "_a"])
def test_a_metric_label_that_is_reported_ends_the_whole_server(tmp_path: Path, label: str) -> None:
    with serving(tmp_path, model_control_mode="explicit") as server:
        assert write(tmp_path, "m", f'metric_tags {{ key: "{label}" value: "x" }}')
        with pytest.raises(InferenceServerException):
            load(server, "m")
        assert eventually(lambda: not is_live(server))


def is_live(server: Server) -> bool:
    try:
        with urllib.request.urlopen(f"http://{server.http_address}/v2/health/live", timeout=60):
            return True
    except OSError:
        return False


def test_a_resource_of_a_device_and_of_all_is_refused_where_rates_are_limited(tmp_path: Path) -> None:
    with serving(tmp_path, model_control_mode="explicit", flags=["--rate-limit=execution_count"]) as server:
        assert write(tmp_path, "good", GROUP % (RESOURCE % 'resources { name: "Q" global: true count: 1 }')) == []
        load(server, "good")
        text = GROUP % 'rate_limiter { resources { name: "S" count: 1 } resources { name: "S" global: true count: 1 } }'
        assert write(tmp_path, "bad", text)
        with pytest.raises(InferenceServerException):
            load(server, "bad")
