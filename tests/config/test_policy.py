"""Which versions a config serves, and how that changes when another version is served."""

import pytest

from builder.config import pbtxt, policy

LATEST_2 = "version_policy { latest { num_versions: 2 } }"
ALL = "version_policy { all { } }"


def specific(*versions: int) -> str:
    return f"version_policy {{ specific {{ versions: {list(versions)} }} }}"


@pytest.mark.parametrize(
    ("text", "served"),
    [
        ("", (3,)),
        ("version_policy { latest { num_versions: 1 } }", (3,)),
        (LATEST_2, (2, 3)),
        ("version_policy { latest { num_versions: 9 } }", (1, 2, 3)),
        ("version_policy { latest { } }", ()),
        (ALL, (1, 2, 3)),
        ("version_policy { }", (1, 2, 3)),
        (specific(1), (1,)),
        (specific(3, 1, 3), (1, 3)),
        (specific(9), (9,)),
        (specific(), ()),
    ],
)
def test_the_served_versions_are_those_of_tritons_rules(text: str, served: tuple[int, ...]) -> None:
    assert policy.named_versions(pbtxt.parse(text, where=""), (2, 1, 3)) == served


@pytest.mark.parametrize(
    ("text", "to", "beside", "after"),
    [
        ("", 4, None, ""),
        ("", 2, None, specific(2)),
        (LATEST_2, 4, None, LATEST_2),
        (LATEST_2, 2, None, specific(2)),
        (ALL, 4, None, ALL),
        (ALL, 2, None, specific(1, 2)),
        (specific(3), 4, None, specific(4)),
        (specific(1, 3), 4, None, specific(1, 4)),
        (specific(1, 3), 3, None, specific(1, 3)),
        (specific(1, 3), 1, None, specific(1)),
        (specific(1, 3), 4, (), specific(4)),
        (specific(1, 3), 4, (3,), specific(3, 4)),
        ("", 4, (3,), specific(3, 4)),
        (LATEST_2, 4, (3,), LATEST_2),
    ],
)
def test_a_switch_keeps_the_policy_where_it_serves_the_version(
    text: str, to: int, beside: tuple[int, ...] | None, after: str
) -> None:
    config = pbtxt.parse(text, where="")
    policy.switch_to(config, to, (1, 2, 3), beside=beside)
    assert config == pbtxt.parse(after, where="")
