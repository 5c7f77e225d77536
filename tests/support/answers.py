"""What a load test sends, sent once: for tests of the answers alone, which need no Locust."""

import random
from itertools import chain

from loadtest.checking import Wrong, make_pool
from loadtest.server import prepare
from loadtest.wire import make_client
from support.load_run import PATIENCE_S, Server
from support.load_settings import read


def check_answers(server: Server, protocol: str, *options: str) -> list[Wrong | bool | None]:
    """Prepare a load test and send each of its requests once.

    Returns:
        For each answer whether it is right: True, the way in which it is wrong, or None if nothing says so.
    """
    addresses = ("--protocol", protocol, "--grpc-address", server.grpc_address)
    settings = read(*addresses, *options, host=f"http://{server.http_address}")
    client = make_client(protocol, settings.address, PATIENCE_S)
    connection = client.connect()
    found: list[Wrong | bool | None] = []
    pools = [make_pool(samples, 1, client.encode, random.Random(0)) for samples in prepare(settings).samples]
    for request in chain.from_iterable(pools):
        answer = connection.infer(request.encoded)
        expected = request.expect(answer.layout.version, lambda *_: None)
        right = expected is None or expected.is_right(answer)
        found.append(None if expected is None else right or expected.find_fault(answer).kind)
    connection.close()
    return found
