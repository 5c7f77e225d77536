"""Sequences that are sent to a stateful model."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from support.load_run import PATIENCE_S, run
from support.load_server import serving
from support.load_settings import read
from support.stateful import read_log, write_running_sum, write_streams
from tritonclient.grpc import service_pb2

from builder.server import Server
from loadtest.checking import Sequences, Signature, Streams, draw, draw_ids
from loadtest.errors import SettingsError
from loadtest.server import prepare
from loadtest.wire import Address, GrpcClient, HttpClient, TensorSpec, make_client

HTTP = HttpClient(Address("127.0.0.1", 1), 1.0)
GRPC = GrpcClient(Address("127.0.0.1", 1), 1.0)
QUICK = ("--stage-time", "1", "--warm-up", "0.2", "--min-requests", "40")
STREAMS = [[1, 2, 3, 4], [5, 7, -6], [8], [9, 10]]


# ---- without a server


def sequences(client: HttpClient | GrpcClient, *, length: int | None = None, variation: float = 0.0) -> Sequences:
    signature = Signature((TensorSpec("x", "INT32", (1,)),), ())
    samples = draw("m", "", max_batch_size=1, signature=signature)
    streams = Streams((tuple((samples, row) for row in range(4)), ((samples, 9),)), length, variation)
    return Sequences(streams, client.encode, client.write_number, random.Random(0), draw_ids(0))


def flags(encoded: bytes) -> tuple[int, bool, bool]:
    sent = service_pb2.ModelInferRequest.FromString(encoded[5:]).parameters
    return sent["sequence_id"].int64_param, sent["sequence_start"].bool_param, sent["sequence_end"].bool_param


def test_the_first_and_the_last_step_say_so_and_all_have_the_same_id() -> None:
    source = sequences(GRPC)
    seen = []
    for sequence in (source.begin() for _ in range(2)):
        steps = []
        while not sequence.is_complete:
            steps.append(flags(sequence.next_step()[1]))
        assert len({id for id, _, _ in steps}) == 1
        seen.append([step[1:] for step in steps])
    assert sorted(seen, key=len) == [[(True, True)], [(True, False), (False, False), (False, False), (False, True)]]


def test_a_sequence_that_ends_early_says_so() -> None:
    source = sequences(GRPC, length=3)
    sequence = source.begin()
    assert flags(sequence.next_step()[1])[1:] == (True, False)
    assert flags(sequence.last_step()[1])[1:] == (False, True)


def test_http_gives_every_id_the_same_width() -> None:
    source = sequences(HTTP)
    steps = [source.encode_step(id, 0, 0, is_last=False)[1] for id in (7, 1 << 30, (1 << 63) - 1)]
    assert len(set(map(len, steps))) == 1
    assert b'"sequence_id":                  7,"' in steps[0]


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 1 << 30, (1 << 62) + 5, (1 << 63) - 1])
def test_grpc_writes_numbers_that_are_read_as_they_are(number: int) -> None:
    field = b"\x10" + GRPC.write_number(number)  # field 2, a varint
    assert (len(field), service_pb2.InferParameter.FromString(field).int64_param) == (10, number)


def test_a_length_that_was_given_varies_and_what_comes_after_the_stream_has_no_right_answer() -> None:
    source = sequences(HTTP, length=10, variation=0.2)
    lengths = set()
    for sequence in (source.begin() for _ in range(200)):
        steps = 0
        while not sequence.is_complete:
            sequence.next_step()
            steps += 1
        lengths.add(steps)
    assert lengths == {8, 9, 10, 11, 12}


def test_processes_have_ids_of_their_own_which_fit_into_31_bits() -> None:
    ids = [set(islice(draw_ids(process), 1000)) for process in range(64)]
    assert len(set.union(*ids)) == 64_000
    assert all(0 < id < 1 << 31 for one in ids for id in one)
    assert next(draw_ids(0)) != next(draw_ids(0))


# ---- with a real Triton


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stateful models in one repository, and where each logs its sequences."""
    repository: Path = tmp_path_factory.mktemp("stateful") / "repository"
    repository.mkdir()
    made = {"sum": write_running_sum(repository, "sum", corrid="TYPE_INT32")}
    made["bent"] = write_running_sum(repository, "bent", off=1)
    made["refusing"] = write_running_sum(repository, "refusing", refused=7)
    made["repository"] = repository
    return made


@pytest.fixture(scope="module")
def server(logs: dict[str, Path]) -> Iterator[Server]:
    with serving(logs["repository"]) as running:
        yield running


def load(server: Server, logs: dict[str, Path], folder: Path, model: str, *options: str) -> tuple[Any, dict[str, int]]:
    """Run a load test of a model; return it, and what the model saw more of in it."""
    before = read_log(logs[model]) if logs[model].exists() else {"begun": 0, "ended": 0}
    data = write_streams(folder / "streams.json", STREAMS)
    finished = run(server, folder / "report", "--input-data", str(data), *options, *QUICK, model=model)
    after = read_log(logs[model])
    return finished, {**after, **{key: after[key] - before[key] for key in before}}


def ended(finished: Any) -> dict[str, int]:
    stages = [stage["sequences"] for stage in finished.result["stages"]]
    return {how: sum(stage[how] for stage in stages) for how in stages[0]}


@pytest.mark.slow
def test_every_step_is_checked_and_no_sequence_is_left_open(
    server: Server, logs: dict[str, Path], tmp_path: Path
) -> None:
    finished, seen = load(server, logs, tmp_path, "sum", "--scenario", "spike", "--concurrency", "1,4")
    assert finished.code == 0, finished.stdout + finished.stderr
    counts, totals = ended(finished), finished.result["totals"]
    assert totals["unchecked"] == 0
    assert totals["requests"] >= 120
    assert counts["completed"] > 10
    assert counts["failed"] == 0
    assert seen["open"] == 0
    assert sum(counts.values()) == seen["begun"] == seen["ended"]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "right"), [("sum", {True}), ("bent", {False})])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_each_step_is_compared_with_its_own_answer(
    server: Server, tmp_path: Path, protocol: str, model: str, right: set[bool]
) -> None:
    data = write_streams(tmp_path / "streams.json", STREAMS)
    addresses = ("--protocol", protocol, "--grpc-address", server.grpc_address)
    settings = read("--model", model, "--input-data", str(data), *addresses, host=server.http_address)
    streams = prepare(settings).streams
    assert streams is not None
    client = make_client(protocol, settings.address, PATIENCE_S)
    source = Sequences(streams, client.encode, client.write_number, random.Random(0), draw_ids(0))
    connection, found = client.connect(), []
    for sequence in (source.begin() for _ in STREAMS):
        while not sequence.is_complete:
            request, encoded = sequence.next_step()
            answer = connection.infer(encoded)
            expected = request.expect(answer.layout.version, lambda *_: None)
            assert expected is not None
            found.append(expected.is_right(answer))
    connection.close()
    assert (len(found), set(found)) == (sum(map(len, STREAMS)), right)


@pytest.mark.slow
def test_a_step_without_an_answer_breaks_its_sequence_which_is_ended(
    server: Server, logs: dict[str, Path], tmp_path: Path
) -> None:
    finished, seen = load(server, logs, tmp_path, "refusing", "--concurrency", "2")
    counts, totals = ended(finished), finished.result["totals"]
    assert finished.code == 1
    assert counts["failed"] > 0
    # The number that the model refuses may also be in the request that ends a sequence early.
    assert 0 <= sum(totals["failures"].values()) - counts["failed"] <= counts["ended_early"]
    assert totals["wrong"] == {}
    assert seen["open"] == 0


@pytest.mark.slow
def test_an_open_loop_sends_the_steps_in_order(server: Server, logs: dict[str, Path], tmp_path: Path) -> None:
    options = ("--scenario", "rate", "--rate", "60", "--max-in-flight", "4", "--protocol", "grpc")
    finished, seen = load(server, logs, tmp_path, "sum", *options)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert finished.result["totals"]["unchecked"] == 0
    assert seen["open"] == 0
    assert sum(ended(finished).values()) == seen["ended"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rows", "2"), "a step of a sequence has one row"),
        (("--model", "sum,bent"), "a stateful model cannot be mixed with other models"),
        (("--scenario", "rate", "--rate", "10,100"), "would wait 25.6 s for its next step, but the server ends one"),
        (("--repository", "/"), "leave out --repository, and give sequences and their answers"),
    ],
)
def test_what_cannot_be_sent_in_sequences_is_refused(server: Server, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        prepare(read("--model", "sum", *options, host=server.http_address))
    assert said in str(caught.value)


@pytest.mark.slow
def test_generated_sequences_have_twenty_steps(server: Server) -> None:
    streams = prepare(read("--model", "sum", host=server.http_address)).streams
    assert streams is not None
    assert (streams.length, [len(stream) for stream in streams.steps]) == (20, [32])
