"""Several workers training one model together, or one alone: the same code, through torch's collectives."""

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")


def count() -> int:
    """Workers that share each batch."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this worker, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def check_shares(name: str, whole: float, workers: int) -> None:
    """Refuse what so many workers cannot share equally.

    Raises:
        ValueError: naming it.
    """
    if workers > 1 and whole % workers:
        raise ValueError(
            f"{name} is {whole:g}, which {workers} workers cannot share equally; expected a multiple of {workers}"
        )


def total(value: Tensor) -> Tensor:
    """Sum over all workers, in place."""
    if count() > 1:
        distributed.all_reduce(value)
    return value


def share(batch: Tensor) -> Tensor:
    """This worker's part of a batch: equal parts in the order of the workers; what does not divide is left out."""
    size = len(batch) // count()
    return batch[rank() * size : (rank() + 1) * size]


def from_first(value: T) -> T:
    """What the first worker has, a plain Python object."""
    box = [value]
    if count() > 1:
        distributed.broadcast_object_list(box)
    return box[0]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every worker the mean of all workers' gradients.

    By hand, in one message: `DistributedDataParallel` hooks into a backward pass through its own forward, and the
    gradient penalty differentiates twice.
    """
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = total(torch.cat([gradient.flatten() for gradient in gradients])).div_(count())
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
