import pytest

from builder.file_size import readable


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1449, "1.4 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (158_402, "158 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (97_520_000, "97.5 MB"),
        (3_000_000_000, "3.0 GB"),
        (8_796_093_022_208, "8,796 GB"),
    ],
)
def test_a_size_is_shown_in_the_unit_that_fits(size: int, text: str) -> None:
    assert readable(size) == text
