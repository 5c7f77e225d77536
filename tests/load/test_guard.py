"""Which requests Locust's page answers: those of other web pages are refused."""

import pytest

from loadtest.report.guard import find_names, find_reason

LOCAL = find_names("127.0.0.1", "")
EVERYWHERE = find_names("", "")


def refused(method: str, host: str, headers: dict[str, str], names: frozenset[str] | None = LOCAL) -> bool:
    return find_reason(method, {"Host": host, **headers}, names) is not None


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("127.0.0.1:8089", {}),  # curl
        ("127.0.0.1:8089", {"Origin": "http://127.0.0.1:8089", "Sec-Fetch-Site": "same-origin"}),
        ("localhost:8089", {"Origin": "http://localhost:8089"}),
        ("LOCALHOST:8089", {"Origin": "http://localhost:8089"}),
        ("[::1]:8089", {"Origin": "http://[::1]:8089"}),
        ("localhost", {"Origin": "http://localhost:80"}),
        ("localhost:8443", {"Origin": "https://localhost:8443"}),  # --tls-cert, or a reverse proxy with TLS
        ("localhost:443", {"Origin": "https://localhost"}),
        ("127.0.0.1:8089", {"Origin": "https://locust.example", "Sec-Fetch-Site": "same-origin"}),  # proxy sets Host
        ("10.0.0.5:9000", {"Origin": "http://10.0.0.5:9000"}),  # a forwarded port
        ("127.0.0.1:8089", {"Referer": "http://127.0.0.1:8089/?tab=triton"}),
    ],
)
def test_the_page_itself_and_programs_are_answered(host: str, headers: dict[str, str]) -> None:
    assert not refused("POST", host, headers)
    assert not refused("GET", host, headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},  # another program of this machine
        {"Origin": "http://localhost:8089"},
        {"Origin": "http://127.0.0.1:8089.evil.example"},
        {"Origin": "http://127.0.0.1:8089@evil.example"},
        {"Origin": "http://evil.example", "Referer": "http://127.0.0.1:8089/"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://[bad"},
    ],
)
def test_what_another_page_sends_or_reads_is_refused(headers: dict[str, str]) -> None:
    for method in ("POST", "GET", "OPTIONS"):
        assert refused(method, "127.0.0.1:8089", headers)
        assert refused(method, "127.0.0.1:8089", headers, EVERYWHERE)


def test_without_an_origin_the_referer_says_where_a_post_comes_from() -> None:
    assert refused("POST", "127.0.0.1:8089", {"Referer": "http://evil.example/127.0.0.1:8089"})
    assert not refused("GET", "127.0.0.1:8089", {"Referer": "http://chat.example/"})  # somebody follows a link


@pytest.mark.parametrize("host", ["evil.example:8089", "127.0.0.1.evil.example", "localhost.evil.example", "", "[bad"])
def test_a_page_of_this_machine_has_no_other_name(host: str) -> None:
    for method in ("POST", "GET"):
        assert refused(method, host, {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"})
        assert refused(method, host, {})


def test_a_name_can_be_allowed_and_a_page_of_other_machines_has_any_name() -> None:
    proxied = find_names("127.0.0.1", "locust.example, Other.example")
    for names in (proxied, find_names("", "locust.example")):
        assert not refused("POST", "locust.example", {"Origin": "https://locust.example"}, names)
        assert refused("POST", "evil.example", {"Origin": "https://evil.example"}, names)
    assert not refused("POST", "other.example:81", {"Origin": "http://other.example:81"}, proxied)
    for web_host in ("", "0.0.0.0", "10.0.0.5", "triton.example"):
        assert not refused("POST", "triton.example", {"Origin": "http://triton.example"}, find_names(web_host, ""))
    for web_host in ("127.0.0.1", "127.0.0.2", "localhost", "::1"):
        assert refused("POST", "triton.example", {"Origin": "http://triton.example"}, find_names(web_host, ""))
