"""In what precision convolutions are computed; weights, norms, transforms, sums and losses are kept in float32.

`tf32` lets a GPU round to 10 bits what it multiplies in products of matrices, those of transforms among them; what
cannot do so computes in float32. `bf16` also hands all convolutions but the spectral ones signals and weights of 8
bits. They are cast here, where autograd sees it: cast inside a function of our own, as torch's `custom_fwd` does, they
would be new tensors to it, and second derivatives would be lost without a word.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor

from trainables.config import TrainingConfig

T = TypeVar("T", Tensor, Tensor | None)

# What rounds float32 on a GPU; torch's own defaults differ from one to the other.
_BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
# Of NVIDIA's GPUs those since Ampere compute in tf32 and bf16.
_CAPABILITY = (8, 0)
_reduced: ContextVar[torch.dtype | None] = ContextVar("reduced", default=None)


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Within, convolutions are computed in that precision."""
    before = [backend.fp32_precision for backend in _BACKENDS]
    token = _reduced.set(torch.bfloat16 if precision == "bf16" else None)
    _set(["ieee" if precision == "float32" else "tf32"] * len(_BACKENDS))
    try:
        yield
    finally:
        _reduced.reset(token)
        _set(before)


def reduced(value: T) -> T:
    """What a convolution is made of, in the precision in use."""
    dtype = _reduced.get()
    return value if dtype is None or value is None else value.to(dtype)


def is_rounded() -> bool:
    """Whether convolutions in float32 on a GPU round what they multiply."""
    return bool(_BACKENDS[1].fp32_precision == "tf32")


def check_precision(config: TrainingConfig, device: torch.device) -> None:
    """Refuse bf16 on a GPU that does not have it; of another machine's GPU nothing is known here.

    Raises:
        ValueError: naming both.
    """
    if device.type == "cuda" and torch.cuda.is_available() and config.precision == "bf16":
        found = torch.cuda.get_device_capability(device)
        if found < _CAPABILITY:
            raise ValueError(
                f"precision is bf16, but the GPU has compute capability {found[0]}.{found[1]}; "
                f"expected {_CAPABILITY[0]}.{_CAPABILITY[1]} at least: use training.precision=float32"
            )


def _set(values: list[str]) -> None:
    for backend, value in zip(_BACKENDS, values, strict=True):
        backend.fp32_precision = value
