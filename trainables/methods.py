"""How the generator's long convolutions are computed: what is fastest depends on shape and machine, so it is measured.

The methods differ in rounding alone, but training magnifies rounding: a resumed training must go on with the same.
"""

import time
from functools import cache

import torch
from torch import nn

from trainables import workers
from trainables.config import TrainingConfig
from trainables.generator import METHODS, LongConvolution
from trainables.precision import computing_in

# Windows that a measurement is made with: enough to be typical, few enough to take no time.
BATCH = 2
ROUNDS = 3


def methods_of(generator: nn.Module) -> list[str]:
    """The method of each long convolution, in order."""
    return [layer.method for layer in _layers(generator)]


def use_methods(generator: nn.Module, methods: list[str]) -> None:
    """Set the method of each long convolution, in order."""
    for layer, method in zip(_layers(generator), methods, strict=True):
        layer.method = method


def choose_methods(generator: nn.Module, config: TrainingConfig, samples: int) -> list[str]:
    """The configured method, or for each long convolution whichever is fastest here on windows of that length."""
    layers, batch = _layers(generator), min(BATCH, config.batch_size)
    if config.convolution != "measured":
        return [config.convolution] * len(layers)
    with computing_in(config.precision):
        fastest = [
            _fastest(layer.weight.shape[1:], samples, batch, layer.weight.device, config.precision) for layer in layers
        ]
    return workers.from_first(fastest)  # the first worker's choice is everyone's


def _layers(generator: nn.Module) -> list[LongConvolution]:
    return [module for module in generator.modules() if isinstance(module, LongConvolution)]


@cache
def _fastest(shape_OCK: torch.Size, samples: int, batch: int, device: torch.device, precision: str) -> str:
    return min(METHODS, key=lambda method: _seconds(method, shape_OCK, samples, batch, device))


def _seconds(method: str, shape_OCK: torch.Size, samples: int, batch: int, device: torch.device) -> float:
    """Least time of a pass forward and backward; of one group, as both methods take one after another."""
    outputs, inputs, _ = shape_OCK
    weight, bias = torch.zeros(1, *shape_OCK, device=device), torch.zeros(1, outputs, device=device)
    x = torch.zeros(1, batch, samples, inputs, device=device)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        arguments = [value.detach().requires_grad_() for value in (x, weight, bias)]
        METHODS[method](*arguments).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
