"""How servers are split into waves."""

import pytest

from builder.deployment import parse_waves
from builder.deployment.waves import DEFAULT, split


@pytest.mark.parametrize(
    ("text", "servers", "sizes"),
    [
        ("1,25%,100%", 10, [1, 2, 7]),
        ("1,25%,100%", 1, [1]),
        ("1, 50 %", 5, [1, 2, 2]),
        ("3", 10, [3, 7]),
        ("25%", 10, [3, 7]),
        ("100%", 4, [4]),
        ("1,2,300", 4, [1, 1, 2]),
        ("1%", 3, [1, 2]),
        ("2,10%,100%", 10, [2, 8]),
    ],
)
def test_each_step_includes_the_servers_before_it_and_the_last_wave_takes_all_that_are_left(
    text: str, servers: int, sizes: list[int]
) -> None:
    waves = split(range(servers), parse_waves(text))

    assert [len(wave) for wave in waves] == sizes
    assert [server for wave in waves for server in wave] == list(range(servers))


def test_one_server_comes_first_by_default() -> None:
    assert parse_waves("1,100%") == DEFAULT
    assert [len(wave) for wave in split("abcd", DEFAULT)] == [1, 3]


@pytest.mark.parametrize(
    "text", ["", "0", "0%", "101%", "1,,2", "half", "-1", "1.5", "2,1", "50%,25%", "1,1", "9" * 30]
)
def test_steps_that_are_no_numbers_or_do_not_grow_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither a number|more than all|includes those before it"):
        parse_waves(text)
