"""Which configurations are tried: no request that is served now is refused, and nothing is tried twice."""

from dataclasses import replace

from builder.tuning import Configuration, Space
from builder.tuning.plan_choices import PlanUse
from builder.tuning.search.space import cap_of

CURRENT = Configuration(1, None, 32)
TWO_CORES = Space.of(CURRENT, cores=2, proven_max_batch=32)


def test_the_current_configuration_is_the_first() -> None:
    odd = Configuration(3, 5, 48, preferred=(7, 9), delay_us=123)
    assert Space.of(odd, cores=4, proven_max_batch=64).configurations[0] == odd


def test_no_configuration_is_tried_twice() -> None:
    assert len(TWO_CORES.configurations) == len(set(TWO_CORES.configurations))
    settings = {replace(one, threads=one.threads or 2) for one in TWO_CORES.configurations}
    assert len(settings) == len(TWO_CORES.configurations)  # with one instance, no threads and 2 threads are the same


def test_instances_and_threads_take_at_most_two_threads_for_each_core() -> None:
    space = Space.of(CURRENT, cores=6, proven_max_batch=32)
    pairs = {(one.instances, one.threads or 6) for one in space.configurations}
    assert all(count * threads <= 12 for count, threads in pairs)
    assert {(1, 1), (6, 1), (6, 2), (2, 6), (1, 6), (4, 2)} <= pairs
    assert (4, 4) not in pairs


def test_no_configuration_refuses_requests_that_the_current_one_takes() -> None:
    assert {one.max_batch_size for one in TWO_CORES.configurations} == {32}
    assert {cap_of(one) for one in TWO_CORES.configurations} == {1, 2, 4, 8, 16, 32}


def test_no_batch_is_smaller_than_the_largest_request() -> None:
    space = Space.of(CURRENT, cores=2, proven_max_batch=32, largest_request=6)
    assert {cap_of(one) for one in space.configurations} == {6, 8, 16, 32}


def test_batches_larger_than_now_are_tried_up_to_what_was_proven() -> None:
    space = Space.of(Configuration(1, None, 8), cores=1, proven_max_batch=20)
    assert {one.max_batch_size for one in space.configurations} == {8, 16, 20}


def test_a_largest_batch_beyond_what_was_proven_stays_as_it_is() -> None:
    space = Space.of(Configuration(1, None, 64), cores=1, proven_max_batch=16)
    assert {one.max_batch_size for one in space.configurations} == {64}


def test_no_delay_takes_more_than_a_part_of_the_limit() -> None:
    delays = {
        limit: {one.delay_us for one in Space.of(CURRENT, cores=1, proven_max_batch=8, max_p99_s=limit).configurations}
        for limit in (0.0001, 0.004, 1.0)
    }
    assert delays == {0.0001: {0}, 0.004: {0, 100, 500}, 1.0: {0, 100, 500, 2000}}


def test_a_model_without_a_batch_has_no_batching() -> None:
    space = Space.of(Configuration(1, None, 0), cores=2, proven_max_batch=0)
    assert {(one.max_batch_size, one.preferred, one.delay_us) for one in space.configurations} == {(0, (), 0)}
    assert space.largest_batch == 1
    assert len(space.configurations) == 4


def test_on_a_gpu_threads_are_left_alone() -> None:
    space = Space.of(CURRENT, cores=64, proven_max_batch=8, kind="gpu")
    assert {one.threads for one in space.configurations} == {None}
    assert {one.instances for one in space.configurations} == {1, 2, 4}


def test_every_way_to_run_a_plan_is_combined_with_its_batches() -> None:
    uses = [PlanUse((), False, 32, (8,)), PlanUse((1,), True, 16, (12,))]
    space = Space.of(CURRENT, cores=2, proven_max_batch=32, kind="tensorrt", plan=uses)
    caps: dict[tuple[tuple[int, ...], bool], set[int]] = {}
    for one in space.configurations:
        caps.setdefault((one.profiles, one.cuda_graphs), set()).add(cap_of(one))
    assert caps == {((), False): {1, 2, 4, 8, 16, 32}, ((1,), True): {1, 2, 4, 8, 12, 16}}


def test_what_changes_less_is_simpler() -> None:
    shapes = [CURRENT, replace(CURRENT, delay_us=100), replace(CURRENT, instances=2, threads=1),
              replace(CURRENT, instances=2, threads=1, preferred=(8,))]  # fmt: skip
    assert sorted([shapes[2], shapes[3], shapes[1], shapes[0]], key=TWO_CORES.simplicity) == shapes


def test_of_equally_many_changes_fewer_instances_and_a_shorter_delay_are_simpler() -> None:
    short, long, two = replace(CURRENT, delay_us=100), replace(CURRENT, delay_us=500), replace(CURRENT, instances=2)
    assert sorted([two, long, short], key=TWO_CORES.simplicity) == [short, long, two]
