"""Sizes are written as a person reads them."""

import pytest

from builder.progress import format_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2_130, "2.1 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (7_640_000, "7.6 MB"),
        (3_000_000_000, "3.0 GB"),
        (4_500_000_000_000, "4.5 TB"),
    ],
)
def test_a_size_is_written_in_the_largest_unit_that_fits(count: int, text: str) -> None:
    assert format_bytes(count) == text
