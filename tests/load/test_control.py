"""Control requests: the answers that are none, and what is said of them."""

import pytest
from support.load_settings import read
from support.scripted_server import Behaviour, say, scripted

from loadtest.errors import ServerError
from loadtest.server import prepare

KEY = "very-secret-key"


def refusal(behave: Behaviour) -> ServerError:
    with scripted(behave) as server, pytest.raises(ServerError) as caught:
        prepare(read("--header", f"Authorization: Bearer {KEY}", host=f"http://{server.address}"))
    return caught.value


def answer(status: str, body: str = "", *fields: str) -> Behaviour:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return say("\r\n".join([*head, "", body]).encode())


def test_a_redirect_is_not_followed_but_named() -> None:
    fault = refusal(answer("308 Permanent Redirect", "", "Location: https://triton.example/v2"))
    assert "the server redirects to https://triton.example/v2" in fault.what
    assert "--host" in fault.fix


def test_a_server_that_repeats_a_secret_is_quoted_without_it() -> None:
    for status in ("401 Unauthorized", "403 Forbidden", "500 Internal Server Error"):
        fault = refusal(answer(status, f'{{"error": "no such token: {KEY}"}}'))
        assert "no such token: ***" in fault.what
        assert KEY not in str(fault)
    assert "--header-file" in refusal(answer("401 Unauthorized", "who are you?")).fix


def test_an_answer_that_is_not_what_was_asked_for_is_named() -> None:
    assert "the answer is not JSON" in refusal(answer("200 OK", "<html>")).what
    assert "the answer is not JSON" in refusal(answer("200 OK", "[" * 100_000)).what
    assert "the answer is not a JSON object" in refusal(answer("200 OK", "[]")).what
    assert "the server does not answer" in refusal(say()).what
    assert "no HTTP response" in refusal(say(b"SSH-2.0-x\r\n")).what
