"""The simulation gives what can be computed by hand, and what is known of queues."""

import pytest

from builder.tuning.measurement import Configuration, Load
from builder.tuning.simulation.cores import Cores
from builder.tuning.simulation.curves import Curve
from builder.tuning.simulation.simulator import Machine, simulate, simulate_all

ONE = (1, (), False)
STEADY = Curve({ONE: ((1, 0.001), (32, 0.032))}, noise=0.0)
"""A row takes a millisecond, in any batch."""

FLAT = Curve({ONE: ((1, 0.001), (2, 0.001), (32, 0.001))}, noise=0.0)
"""A batch takes a millisecond, of any size."""

ALONE = Configuration(1, 1, 32)


def test_one_user_sees_the_sum_of_all_parts() -> None:
    machine = Machine(STEADY, 2, client_cpu_s=0.0005, front_cpu_s=0.0002, latency_s=0.0003, batch_s=0.0001)
    predicted = simulate(ALONE, Load(users=1), machine)
    assert predicted.throughput == pytest.approx(1 / 0.0021)
    assert predicted.mean_batch == 1
    # without 30 % of the load generator's time, in which it checks the answer
    assert [predicted.latency_s, predicted.p99_s] == pytest.approx([0.0016 + 0.7 * 0.0005] * 2)


def test_the_bottleneck_limits_the_throughput() -> None:
    users = Load(users=64)
    assert simulate(ALONE, users, Machine(STEADY, 8)).throughput == pytest.approx(1000, rel=0.01)
    assert simulate(Configuration(3, 1, 32), users, Machine(STEADY, 8)).throughput == pytest.approx(3000, rel=0.03)
    assert simulate(Configuration(8, 1, 32), users, Machine(STEADY, 2)).throughput == pytest.approx(2000, rel=0.03)
    slow_client = Machine(FLAT, 8, client_cpu_s=0.002)
    assert simulate(ALONE, users, slow_client).throughput == pytest.approx(500, rel=0.01)


def test_batches_gather_what_waits_up_to_their_limit() -> None:
    """Users whose answers come together send together, so that 32 of 64 run while the others wait."""
    machine = Machine(FLAT, None)
    full = simulate(ALONE, Load(users=64), machine)
    assert full.mean_batch == pytest.approx(32, rel=0.02)
    assert full.throughput == pytest.approx(32_000, rel=0.02)
    capped = simulate(Configuration(1, 1, 32, preferred=(4,)), Load(users=64), machine)
    assert capped.mean_batch == pytest.approx(4, rel=0.02)
    assert capped.throughput == pytest.approx(4_000, rel=0.02)
    assert simulate(Configuration(1, 1, 1), Load(users=64), machine).throughput == pytest.approx(1000, rel=0.02)


def test_a_delay_makes_one_user_wait_and_fills_the_batches_of_many() -> None:
    machine = Machine(FLAT, None, client_cpu_s=0.00001)
    delayed = Configuration(1, 1, 32, delay_us=3000)
    assert simulate(delayed, Load(users=1), machine).latency_s == pytest.approx(0.004, rel=0.01)
    assert simulate(delayed, Load(users=16), machine).mean_batch > simulate(ALONE, Load(users=16), machine).mean_batch


def test_in_an_open_loop_the_rate_is_kept_up_until_the_server_is_full() -> None:
    machine = Machine(STEADY, None)
    alone = Configuration(1, 1, 1)
    half = simulate(alone, Load(rate=500.0), machine, requests=4000)
    assert half.throughput == 500
    # the mean wait of a queue with Poisson arrivals and a fixed service time: load * time / (2 * (1 - load))
    assert half.latency_s == pytest.approx(0.001 + 0.5 * 0.001 / (2 * 0.5), rel=0.06)
    assert simulate(alone, Load(rate=2000.0), machine).throughput == pytest.approx(1000, rel=0.1)


def test_requests_of_several_rows_count_by_their_rows() -> None:
    machine = Machine(STEADY, None)
    mixed = simulate(ALONE, Load(users=8, rows=((1, 3.0), (5, 1.0))), machine)
    assert mixed.throughput == pytest.approx(1000, rel=0.05)
    joined = simulate(ALONE, Load(users=8), Machine(FLAT, None, request_s=0.001))
    single = simulate(ALONE, Load(users=8, rows=((8, 1.0),)), Machine(FLAT, None, request_s=0.001))
    assert single.throughput > joined.throughput


def test_equal_seeds_give_equal_results_and_noise_makes_the_slowest_slower() -> None:
    noisy = Machine(Curve(STEADY.points, noise=0.5), 2, client_cpu_s=0.0001)
    cases = [(ALONE, Load(users=4)), (ALONE, Load(rate=300.0))]
    assert simulate_all(cases, noisy, seed=3) == simulate_all(cases, noisy, seed=3)
    assert simulate_all(cases, noisy, seed=3) != simulate_all(cases, noisy, seed=4)
    steady = Machine(STEADY, 2, client_cpu_s=0.0001)
    for case in cases:
        assert simulate(*case, noisy).p99_s > 1.2 * simulate(*case, steady).p99_s


def test_a_load_without_users_and_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="users or a rate"):
        simulate(ALONE, Load(), Machine(STEADY, 2))


def test_tasks_slow_each_other_down_when_there_are_more_than_cores() -> None:
    """The example of the module: 3 ms on two cores, joined by two more tasks after 1 ms, end after 4 ms."""
    cores = Cores(2, 0.0)
    ended = {}

    def end(name: str) -> None:
        ended[name] = cores.now
        cores.free(1.0)

    def join(_: object) -> None:
        cores.start(5.0, 1.0, end, "second")
        cores.start(5.0, 1.0, end, "third")

    cores.start(3.0, 1.0, end, "first")
    cores.ring(1.0, join, None)
    while cores.step():
        pass
    # the others did 2 of their 5 ms meanwhile, and have a core each for the other 3
    assert ended == pytest.approx({"first": 4.0, "second": 7.0, "third": 7.0})


def test_busy_cores_slow_each_other_down_by_the_contention() -> None:
    cores = Cores(4, 0.1)
    assert [cores.speed_at(demand) for demand in (0.5, 1, 2, 4)] == pytest.approx([1, 1, 1 / 1.1, 1 / 1.3])
    assert cores.speed_at(8) == pytest.approx(0.5 / 1.3)
    assert Cores(None, 0.1).speed_at(100) == 1
