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
    with in_order(square, range(50), workers) as results:
        assert list(results) == [n**2 for n in range(50)]


def test_chunks_are_taken_no_faster_than_results_are_read():
    taken = []

    def chunks():
        for number in range(100):
            taken.append(number)
            yield number

    with in_order(square, chunks(), 2) as results:
        for read, _ in zip(range(40), results, strict=False):
            assert len(taken) <= read + 8


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_is_raised_here(workers):
    with pytest.raises(OSError, match="three"), in_order(fail_at_three, range(5), workers) as results:
        list(results)


def test_a_killed_worker_is_one_clear_line():
    with pytest.raises(ValueError, match=r"killed.*fewer --workers"), in_order(die_at_three, range(5), 2) as results:
        list(results)


def test_workers_leave_ctrl_c_to_the_parent():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with in_order(interrupt_parent, range(2), 2) as results:
        assert all(signal.SIGINT in mask for _, mask in results)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_ray_cluster_does_the_same(cluster):
    with in_order(square, range(30), 1, "auto") as results:
        assert list(results) == [n**2 for n in range(30)]


def test_an_error_on_a_ray_cluster_is_raised_here(cluster):
    with pytest.raises(OSError, match="three"), in_order(fail_at_three, range(5), 1, "auto") as results:
        list(results)
