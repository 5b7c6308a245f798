"""Steps of a training launched on a GPU as a whole: what would be a thousand launches of small kernels is one."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainables import workers
from trainables.config import TrainingConfig

# Calls a function of tensors and numbers.
Launch = Callable[..., None]
# Calls before a graph is captured: libraries choose and set up their kernels in them, optimisers their states.
WARM_UP = 3


def uses_graphs(config: TrainingConfig, device: torch.device) -> bool:
    """Whether a training launches its steps so: on a GPU, if one worker has it; sums of several are not captured."""
    return config.cuda_graphs and device.type == "cuda" and workers.count() == 1


def at_once(function: Callable[..., None], *arguments: Tensor | float) -> None:
    """Call a function, its kernels being launched one by one."""
    function(*arguments)


class Buffered:
    """Calls a function of tensors and numbers which it always finds in the same memory, numbers as tensors."""

    def __init__(self, device: torch.device):
        self._device = device
        self._buffers: list[Tensor] = []

    def __call__(self, function: Callable[..., None], *arguments: Tensor | float) -> None:
        """Call it, the same each time, with these; tensors have the shapes of the first time."""
        if not self._buffers:
            self._buffers = [self._buffer(argument) for argument in arguments]
        for buffer, argument in zip(self._buffers, arguments, strict=True):
            buffer.copy_(argument) if isinstance(argument, Tensor) else buffer.fill_(argument)
        self._launch(function)

    def _buffer(self, argument: Tensor | float) -> Tensor:
        # A rate in float32 is what the fused optimisers of GPUs take.
        like = argument if isinstance(argument, Tensor) else torch.zeros((), dtype=torch.float32, device=self._device)
        return torch.empty_like(like, memory_format=torch.contiguous_format)

    def _launch(self, function: Callable[..., None]) -> None:
        function(*self._buffers)


class Replayed(Buffered):
    """The same by a CUDA graph: captured after a few calls that warm up, and replayed from then on.

    Everything that the function leaves behind must be in memory that outlives it, and all its random numbers come from
    `rng`. Those that share a `pool` share their scratch memory.
    """

    def __init__(self, rng: torch.Generator, pool: Any):
        super().__init__(rng.device)
        self._rng, self._pool, self._calls = rng, pool, 0
        self._stream = torch.cuda.Stream(rng.device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def _launch(self, function: Callable[..., None]) -> None:
        self._calls += 1
        if self._calls <= WARM_UP:
            self._warm_up(function)
            return
        if self._graph is None:
            self._graph = self._capture(function)
        self._graph.replay()

    def _warm_up(self, function: Callable[..., None]) -> None:
        """Call the function as it is, on the stream that it will be captured on: libraries keep memory for each."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            super()._launch(function)
        current.wait_stream(self._stream)

    def _capture(self, function: Callable[..., None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._rng)
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            super()._launch(function)
        return graph
