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
from trainables.graphs import WARM_UP, Replayed, at_once, uses_graphs
from trainables.precision import computing_in

# Windows that a CPU is measured with: enough to be typical, few enough to take no time. A GPU is not filled by a few.
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
    layers = _layers(generator)
    if config.convolution != "measured":
        return [config.convolution] * len(layers)
    device = layers[0].weight.device
    how = samples, device, config.batch_size, config.precision, uses_graphs(config, device)
    with computing_in(config.precision):
        fastest = [_fastest(layer.weight.shape[1:], *how) for layer in layers]
    return workers.from_first(fastest)  # the first worker's choice is everyone's


def _layers(generator: nn.Module) -> list[LongConvolution]:
    return [module for module in generator.modules() if isinstance(module, LongConvolution)]


@cache
def _fastest(
    shape_OCK: torch.Size, samples: int, device: torch.device, batch: int, precision: str, graphs: bool
) -> str:
    return min(METHODS, key=lambda method: _seconds(method, shape_OCK, samples, device, batch, graphs))


def _seconds(method: str, shape_OCK: torch.Size, samples: int, device: torch.device, batch: int, graphs: bool) -> float:
    """Least time of a pass forward and backward, launched as steps are.

    It is of one group, as both methods take one after another.
    """
    outputs, inputs, _ = shape_OCK
    weight, bias = torch.zeros(1, *shape_OCK, device=device), torch.zeros(1, outputs, device=device)
    x = torch.zeros(1, min(batch, BATCH) if device.type == "cpu" else batch, samples, inputs, device=device)

    def both_ways() -> None:
        METHODS[method](*(value.detach().requires_grad_() for value in (x, weight, bias))).sum().backward()

    launch = Replayed(torch.Generator(device), torch.cuda.graph_pool_handle()) if graphs else at_once
    times = []
    for _ in range(graphs * WARM_UP + ROUNDS):
        start = time.perf_counter()
        launch(both_ways)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
