import os
import signal

import pytest

from data_prep.parallel import in_order


def square(number):
    return number**2


def fail_at_three(number):
    if number == 3:
        raise OSError("three")
    return number


def die_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def interrupt_parent(number):
    return signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_chunks(workers):
    with in_order(workers) as run:
        assert list(run(square, range(50))) == [n**2 for n in range(50)]


def test_chunks_are_taken_no_faster_than_results_are_read():
    taken = []

    def chunks():
        for number in range(100):
            taken.append(number)
            yield number

    with in_order(2) as run:
        for read, _ in zip(range(40), run(square, chunks()), strict=False):
            assert len(taken) <= read + 8


def test_work_begins_before_the_first_result_is_read():
    taken = []
    with in_order(2) as run:
        results = run(square, (taken.append(number) or number for number in range(50)))
        assert taken
        assert list(results) == [n**2 for n in range(50)]


@pytest.mark.parametrize("workers", [1, 2])
def test_several_arguments_and_calls_share_the_workers(workers):
    with in_order(workers) as run:
        assert list(run(pow, range(9), [2] * 9)) == list(map(square, range(9)))
        assert list(run(square, [])) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_is_raised_here(workers):
    with pytest.raises(OSError, match="three"), in_order(workers) as run:
        list(run(fail_at_three, range(5)))


def test_a_killed_worker_is_one_clear_line():
    with pytest.raises(ValueError, match=r"killed.*fewer --workers"), in_order(2) as run:
        list(run(die_at_three, range(5)))


def test_workers_leave_ctrl_c_to_the_parent():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with in_order(2) as run:
        assert all(signal.SIGINT in mask for _, mask in run(interrupt_parent, range(2)))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_ray_cluster_does_the_same(cluster):
    with in_order(1, "auto") as run:
        assert list(run(square, range(30))) == [n**2 for n in range(30)]


def test_an_error_on_a_ray_cluster_is_raised_here(cluster):
    with pytest.raises(OSError, match="three"), in_order(1, "auto") as run:
        list(run(fail_at_three, range(5)))
