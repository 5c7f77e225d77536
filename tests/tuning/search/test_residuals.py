"""What was measured corrects what was predicted: neighbours most, and nothing more than chance allows."""

import numpy as np
import pytest

from builder.tuning import Configuration, Load
from builder.tuning.search.residuals import Scales, features, learn

SCALES = Scales(0.1, 0.1, 0.1)
HERE = (Configuration(1, 1, 8), Load(users=8))
NEAR = (Configuration(1, 1, 8), Load(users=16))
FAR = (Configuration(8, 8, 8, profiles=(1,)), Load(users=8))
WHERE = features([HERE, NEAR, FAR], 8)


def test_without_a_measurement_predictions_stay_as_they_are() -> None:
    means, spreads = learn(WHERE, [], [], [], SCALES)
    assert means == pytest.approx([0, 0, 0])
    assert spreads == pytest.approx([np.sqrt(0.03)] * 3)


def test_a_measurement_moves_itself_most_and_what_is_far_least() -> None:
    means, spreads = learn(WHERE, [0], [0.4], [0.01], SCALES)
    assert means[0] == pytest.approx(0.3)  # 0.4 * 0.03 / (0.03 + 0.01): the example of the module
    assert means[0] > means[1] > means[2]
    assert means[2] == pytest.approx(0.1, abs=0.001)  # only the part that all have in common
    assert spreads[0] < spreads[1] < spreads[2]


def test_a_measurement_that_is_all_chance_moves_nothing() -> None:
    means, _ = learn(WHERE, [0], [0.4], [1e9], SCALES)
    assert means == pytest.approx([0, 0, 0], abs=1e-6)


def test_repeated_measurements_are_averaged() -> None:
    means, _ = learn(WHERE, [0, 0], [0.1, 0.3], [1e-9, 1e-9], SCALES)
    assert means[0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "other",
    [
        Configuration(2, 1, 8),
        Configuration(1, 2, 8),
        Configuration(1, None, 8),
        Configuration(1, 1, 16),
        Configuration(1, 1, 8, preferred=(4,)),
        Configuration(1, 1, 8, delay_us=100),
        Configuration(1, 1, 8, profiles=(1,)),
        Configuration(1, 1, 8, cuda_graphs=True),
    ],
)
def test_every_setting_takes_cases_apart(other: Configuration) -> None:
    load = Load(users=64)
    _, spreads = learn(features([(HERE[0], load), (other, load)], 8), [0], [0.4], [1e-9], SCALES)
    assert spreads[1] > 5 * spreads[0]


def test_batches_that_the_users_cannot_fill_are_alike() -> None:
    two_users = Load(users=2, rows=((1, 1.0), (3, 1.0)))  # 6 rows at most
    _, spreads = learn(
        features([(HERE[0], two_users), (Configuration(1, 1, 16), two_users)], 8), [0], [0.4], [1e-9], SCALES
    )
    assert spreads[1] == pytest.approx(spreads[0])
