"""A machine is found again from what was measured on it."""

from dataclasses import replace

import pytest

from builder.tuning.measurement import BatchTimes, Configuration, Interval, Load, Measurement
from builder.tuning.simulation.curves import Curve, engine_of
from builder.tuning.simulation.fitting import fit
from builder.tuning.simulation.simulator import Machine, simulate

SIZES = (1, 2, 4, 8, 16, 32)
MIXED = Load.of_all_sizes(SIZES[-1])
ENGINES = {(1, (), False): 1.0, (2, (), False): 0.7}
TRUTH = Machine(
    Curve({engine: tuple((b, share * (4e-4 + 1e-4 * b)) for b in SIZES) for engine, share in ENGINES.items()}, 0.2),
    cores=2,
    client_cpu_s=1.2e-4,
    client_wake_s=5e-5,
    front_cpu_s=9e-5,
    latency_s=1.5e-4,
    batch_s=5e-5,
    request_s=1e-5,
    contention=0.2,
)


def measured(configuration: Configuration, load: Load, machine: Machine = TRUTH) -> Measurement:
    """Return what would be measured on a machine."""
    predicted = simulate(configuration, load, machine, requests=1500, seed=9)
    engine = engine_of(configuration, machine.cores)
    sizes = SIZES if load == MIXED else (max(1, int(predicted.mean_batch)), int(predicted.mean_batch) + 1)
    batches = {}
    for rows in sizes:
        others = 0 if load == MIXED else rows - 1
        seconds = machine.curve.seconds(engine, rows) + machine.request_s * others
        batches[rows] = BatchTimes(max(1, 1000 // rows), seconds * predicted.slowdown)
    return Measurement(
        configuration,
        load,
        Interval(predicted.throughput, predicted.throughput * 0.97, predicted.throughput * 1.03),
        Interval(predicted.p99_s, predicted.p99_s, predicted.p99_s),
        requests=1500,
        mean_batch=predicted.mean_batch,
        batches=batches,
        latency_s=predicted.latency_s,
        client_cpu_s=predicted.client_cpu_s,
        server_cpu_s=predicted.server_cpu_s,
    )


CALIBRATION = (
    (Configuration(1, 1, 32), MIXED),
    (Configuration(1, 2, 32), MIXED),
    (Configuration(2, 1, 32, preferred=(8,)), Load(users=32)),
)
OTHERS = (
    (Configuration(1, 1, 32), Load(users=16)),
    (Configuration(1, 2, 32), Load(users=64)),
    (Configuration(2, 1, 32), Load(users=4)),
    (Configuration(1, 1, 32, delay_us=1000), Load(users=16)),
    (Configuration(1, 1, 32, preferred=(4,)), Load(users=16)),
    (Configuration(2, 1, 32), Load(rate=900.0)),
)


@pytest.fixture(scope="module")
def fitted() -> Machine:
    return fit([measured(*case) for case in CALIBRATION], cores=2)


@pytest.mark.parametrize("case", OTHERS)
def test_three_runs_predict_others(fitted: Machine, case: tuple[Configuration, Load]) -> None:
    true, predicted = (simulate(*case, machine, requests=1500, seed=5) for machine in (TRUTH, fitted))
    assert predicted.throughput == pytest.approx(true.throughput, rel=0.12)
    assert predicted.p99_s == pytest.approx(true.p99_s, rel=0.35)


def test_further_runs_make_it_better() -> None:
    """A first guess from one run knows nothing of two instances; with their run, it does."""
    case = Configuration(2, 1, 32), Load(users=16)
    first = [measured(*CALIBRATION[0])]
    true = simulate(*case, TRUTH).throughput
    errors = [
        abs(simulate(*case, fit(runs, cores=2)).throughput / true - 1) for runs in (first, [*first, measured(*case)])
    ]
    assert errors[1] < 0.05
    assert errors[1] <= errors[0]


def test_one_instance_says_nothing_about_how_several_share_the_cores(fitted: Machine) -> None:
    """Whatever else makes its requests slow must not make several instances look bad."""
    late = replace(TRUTH, tail=1.8, front_cpu_s=2e-4)
    runs = [
        measured(*CALIBRATION[0]),
        measured(*CALIBRATION[1]),
        measured(Configuration(1, 2, 32), Load(users=8), late),
    ]
    assert fit(runs, cores=2).contention == fit(runs[:2], cores=2).contention
    assert fitted.contention != fit(runs, cores=2).contention


def test_a_server_elsewhere_shares_no_cores() -> None:
    machine = fit([measured(*CALIBRATION[0])], cores=2, here=False)
    assert machine.cores is None
    assert machine.front_cpu_s == 0


def test_measurements_that_failed_are_left_out() -> None:
    failed = Measurement(Configuration(1, 1, 32), MIXED, None, None, error="it did not load")
    with pytest.raises(ValueError, match="no measurement"):
        fit([failed], cores=2)
    good = measured(*CALIBRATION[0])
    assert fit([failed, good], cores=2) == fit([good], cores=2)


def test_a_disturbed_run_moves_little(fitted: Machine) -> None:
    """Another program took the machine during one run, which gave a third of the throughput and four times the p99."""
    good = measured(Configuration(1, 1, 32), Load(users=16))
    assert good.throughput is not None
    assert good.p99_s is not None
    third, long = good.throughput.value / 3, 4 * good.p99_s.value
    disturbed = replace(good, throughput=Interval(third, third, third), p99_s=Interval(long, long, long))
    runs = [measured(*case) for case in CALIBRATION]
    other = Configuration(1, 1, 32, preferred=(4,)), Load(users=16)
    after = simulate(*other, fit([*runs, disturbed], cores=2)).throughput
    assert after == pytest.approx(simulate(*other, fitted).throughput, rel=0.25)


def test_the_slowest_requests_get_a_factor_of_their_own() -> None:
    runs = [measured(*case) for case in (*CALIBRATION, *OTHERS[:3])]
    slow = [replace(one, p99_s=Interval(*[2 * one.p99_s.value] * 3)) for one in runs if one.p99_s is not None]
    calm, slower = fit(runs, cores=2), fit(slow, cores=2)
    assert slower.tail > 1.2 * calm.tail
    case = OTHERS[3]
    assert simulate(*case, slower).p99_s > 1.3 * simulate(*case, calm).p99_s
