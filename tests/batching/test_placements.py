"""Where the batch is after a reshape."""

import pytest

from builder.batching.layout import Placed, Shape, choose, placements


@pytest.mark.parametrize(
    ("shape", "batch", "target", "static_batch", "places"),
    [
        ((4, 3, 6), Placed(1), (12, 6), 3, [Placed(0, outer=4)]),
        ((4, 3, 6), Placed(1), (2, 6, 6), 3, [Placed(1, outer=2)]),
        ((4, 3, 6), Placed(1), (6, 12), 3, []),
        ((2, 1, 4), Placed(1), (2, 4), 1, [Placed(0, outer=2), Placed(1, inner=4)]),
        ((2, 1, 0), Placed(1), (0, 2), 1, []),
    ],
)
def test_a_reshape_leaves_the_batch_where_no_element_moves(
    shape: Shape, batch: Placed, target: Shape, static_batch: int, places: list[Placed]
) -> None:
    assert placements(shape, batch, target, static_batch) == places


@pytest.mark.parametrize(
    ("shape", "batch", "target", "chosen"),
    [
        ((1, 3, 4), Placed(0), (1, 12), Placed(0)),
        ((3, 1, 4), Placed(1), (1, 3, 1, 4), Placed(2)),
        ((1, 4), Placed(0), (1, 1, 4), Placed(0, certain=False)),
        ((1, 4, 6), Placed(0), (4, 6), Placed(0, inner=4, certain=False)),
        ((2, 1, 4), Placed(1), (2, 4), Placed(0, outer=2, certain=False)),
        ((2, 1, 4, 5), Placed(1), (2, 20), Placed(1, inner=20, certain=False)),
    ],
)
def test_where_a_reshape_leaves_a_choice_the_likeliest_axis_is_the_batch(
    shape: Shape, batch: Placed, target: Shape, chosen: Placed
) -> None:
    found = placements(shape, batch, target, 1)
    assert choose(shape, batch, target, found) == chosen
