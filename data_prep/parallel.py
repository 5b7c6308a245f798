"""Work shared among processes of this machine, or of a Ray cluster, with results in order and bounded memory."""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from typing import Any, TypeVar

Result = TypeVar("Result")
Runner = Callable[..., Iterator[Any]]  # called as `map` is; begins before the first result is read, but for `map`
_AHEAD = 3  # calls handed out for each worker: enough to keep it busy, few enough to hold in memory


@contextmanager
def in_order(workers: int, ray_address: str | None = None) -> Iterator[Runner]:
    """Yield a `map`, results in the order of its arguments, that shares the work among `workers` processes.

    With `ray_address` (`auto` for the cluster this machine is part of) the workers are the cluster's CPUs. On leaving,
    what has not begun is dropped.

    Raises:
        ValueError: a worker was killed.
        ConnectionError: no Ray cluster at the address.
    """
    if ray_address is not None:
        with _ray(ray_address) as run:
            yield run
    elif workers == 1:
        yield map
    else:
        with _processes(workers) as run:
            yield run


def _ahead(submit: Callable[..., "Future[Result]"], workers: int, *arguments: Iterable[Any]) -> Iterator[Result]:
    left = zip(*arguments, strict=True)
    waiting = deque(submit(*each) for each in islice(left, _AHEAD * workers))

    def results() -> Iterator[Result]:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(submit(*each) for each in islice(left, 1))
            yield result

    return results()


def warm_up(module: str) -> None:
    """Start the server that workers are forked from: it imports `module` once for all, while this process goes on."""
    multiprocessing.set_forkserver_preload([module])
    _start_server()


def _start_server() -> None:
    resource_tracker.ensure_running()  # of whose making the mask would come back unset
    # Ctrl-C is for this process alone to answer: the server hands the mask it was started under on to the workers.
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


@contextmanager
def _processes(workers: int) -> Iterator[Runner]:
    _start_server()
    # Not forked from this process: a copy of a process with threads may hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"), _end_with_parent)

    def run(function: Callable[..., Result], /, *arguments: Iterable[Any]) -> Iterator[Result]:
        return _ahead(partial(pool.submit, function), workers, *arguments)

    try:
        yield run
    except BrokenProcessPool:
        raise ValueError("a worker process was killed, perhaps for want of memory; choose fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Have this worker end when the process that started it does, even by SIGKILL."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _ray(address: str) -> Iterator[Runner]:
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def run(function: Callable[..., Result], /, *arguments: Iterable[Any]) -> Iterator[Result]:
        remote = ray.remote(num_cpus=1)(function)
        return _ahead(lambda *each: remote.remote(*each).future(), cpus, *arguments)

    try:
        yield run
    finally:
        if ours:
            ray.shutdown()
