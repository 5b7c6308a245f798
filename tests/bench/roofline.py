"""How fast a device can be: its measured peaks, and the least time that some work takes at them."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from trainables.graphs import WARM_UP
from trainables.precision import computing_in

# Width of the matrices and bytes of the memory that a device is measured with, and seconds for each.
WIDTH = {"cuda": 8192, "cpu": 1024}
BYTES = {"cuda": 2**30, "cpu": 2**26}
SECONDS = 0.5


def calls_per_s(device: torch.device, seconds: float, work: Callable[[], object]) -> float:
    """Calls a second, after some that do not count."""
    for _ in range(WARM_UP + 1):
        work()
    wait(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        wait(device)
        count += 1
    return count / (time.perf_counter() - start)


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_flops(device: torch.device, precision: str) -> float:
    """Multiplications and additions a second in a large product of matrices."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    width = WIDTH[device.type]
    a = torch.ones(width, width, device=device, dtype=dtype)
    with computing_in(precision):
        return 2 * width**3 * calls_per_s(device, SECONDS, partial(torch.mm, a, a))


def bandwidth(device: torch.device) -> float:
    """Bytes read and written a second."""
    a = torch.zeros(BYTES[device.type] // 4, device=device)
    return 2 * BYTES[device.type] * calls_per_s(device, SECONDS, partial(torch.empty_like(a).copy_, a))


class Roofline(TorchDispatchMode):
    """Counts the least time that operators need to move and multiply what they do; views take none."""

    def __init__(self, device: torch.device, precision: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_flops, self.bandwidth, self.seconds = peak_flops(device, precision), bandwidth(device), 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.is_view or "empty" in func.name():
            return result
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        moved = sum(x.numel() * x.element_size() for x in tensors)
        flops = flop_registry.get(func.overloadpacket, lambda *_, **__: 0)(*args, **kwargs, out_val=result)
        self.seconds += max(flops / self.peak_flops, moved / self.bandwidth)
        return result
