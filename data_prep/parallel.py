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
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from typing import TypeVar

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
_AHEAD = 3  # chunks handed out for each worker: enough to keep it busy, few enough to hold in memory


@contextmanager
def in_order(
    function: Callable[[Chunk], Result], chunks: Iterable[Chunk], workers: int, ray_address: str | None = None
) -> Iterator[Iterator[Result]]:
    """Yield an iterator of `function(chunk)` in the order of the chunks, worked out by `workers` processes.

    With `ray_address` (`auto` for the cluster this machine is part of) the workers are the cluster's CPUs. On leaving,
    what has not begun is dropped.

    Raises:
        ValueError: a worker was killed.
        ConnectionError: no Ray cluster at the address.
    """
    if ray_address is not None:
        with _ray(function, ray_address) as (submit, workers):
            yield _ahead(submit, chunks, workers)
    elif workers == 1:
        yield map(function, chunks)
    else:
        with _processes(function, workers) as submit:
            yield _ahead(submit, chunks, workers)


def _ahead(submit: Callable[[Chunk], "Future[Result]"], chunks: Iterable[Chunk], workers: int) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    for chunk in chunks:
        if len(waiting) == _AHEAD * workers:
            yield waiting.popleft().result()
        waiting.append(submit(chunk))
    while waiting:
        yield waiting.popleft().result()


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
def _processes(function: Callable[[Chunk], Result], workers: int) -> Iterator[Callable[[Chunk], "Future[Result]"]]:
    _start_server()
    # Not forked from this process: a copy of a process with threads may hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"), _end_with_parent)
    try:
        yield lambda chunk: pool.submit(function, chunk)
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
def _ray(
    function: Callable[[Chunk], Result], address: str
) -> Iterator[tuple[Callable[[Chunk], "Future[Result]"], int]]:
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    remote = ray.remote(num_cpus=1)(function)
    try:
        yield lambda chunk: remote.remote(chunk).future(), max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if ours:
            ray.shutdown()
