"""What a training process uses: its speed, its memory, and how long it waits between epochs."""

import importlib.util
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from trainables.gan import Gan

GB = 1e9
# `getrusage` counts kilobytes, but bytes on a Mac.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
# Linux takes a 5 written here as the wish to forget the peak (proc(5)).
CLEAR_PEAK = Path("/proc/self/clear_refs")


class Usage:
    """Measures from one report to the next, on one device, from `steps` that a training began with."""

    def __init__(self, device: torch.device, steps: int = 0):
        self._device, self._steps = device, steps
        self._since = time.perf_counter()

    def __call__(self, gan: Gan, seconds: float) -> dict[str, float]:
        """Metrics of the epoch that has just ended, which took so many seconds.

        Returns:
            `worker/steps_per_s`, of both networks, judging included; `worker/wait_s`, the rest of the time since the
            last call: saving, reporting, waiting for the search's answer, and before the first epoch the start;
            and `worker/gpu_utilisation`, a share of the time, where NVIDIA's library tells it.
        """
        now, steps = time.perf_counter(), gan.critic_steps + gan.generator_steps
        metrics = {
            "worker/steps_per_s": (steps - self._steps) / seconds,
            "worker/wait_s": max(0.0, now - self._since - seconds),
        }
        self._since, self._steps = now, steps
        if self._device.type == "cuda" and importlib.util.find_spec("pynvml"):
            metrics["worker/gpu_utilisation"] = torch.cuda.utilization(self._device) / 100
        return metrics


def forget_peak(device: torch.device) -> None:
    """Have `peak_gb` begin anew for the next training of this process, where the system lets it."""
    if device.type == "cuda":
        if torch.cuda.is_initialized():  # the allocator knows of no device before
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # it stays the peak of all trainings so far
            CLEAR_PEAK.write_text("5")


def peak_gb(device: torch.device) -> float:
    """Peak memory of this process since `forget_peak`; on a GPU what its allocator held there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / GB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / GB
