"""What the steps of an epoch tell of themselves, kept on the device: no step waits for the device until it is read."""

import torch
from torch import Tensor

from trainables import workers

LOSSES = ("critic_distance", "penalty", "generator")
NETWORKS = ("critic", "generator")


class DivergedError(ArithmeticError):
    """A loss or gradient is no longer finite; training cannot go on."""


class Tally:
    """Sums of losses, and whether anything was not finite.

    `halted` is 1 from the first loss or gradient on that is not finite, 0 before. A fused optimiser whose `found_inf`
    it is takes no step then: the device decides, as with torch's own `GradScaler`.
    """

    def __init__(self, device: torch.device):
        self.halted = torch.zeros((), dtype=torch.float32, device=device)
        self._culprit = torch.zeros_like(self.halted)  # place among the networks, from 1
        self._sums = torch.zeros(2, len(LOSSES), dtype=torch.float64, device=device)  # of losses, and how many

    def watch(self, network: str, values: Tensor) -> None:
        """Halt, and remember the network, if any of these values of it is the first that is not finite."""
        bad = 1 - values.isfinite().all().to(self.halted)
        self._culprit += (1 + NETWORKS.index(network)) * bad * (1 - self.halted)
        torch.maximum(self.halted, bad, out=self.halted)

    def add(self, **losses: Tensor) -> None:
        """Count in a step's losses, this worker's share."""
        for name, loss in losses.items():
            place = LOSSES.index(name)
            self._sums[0, place] += loss.detach()
            self._sums[1, place] += 1

    def read(self) -> dict[str, float]:
        """Mean losses over all workers and all steps since the last time; waits for the device.

        Raises:
            DivergedError: if one of these steps was not taken, or any before.
        """
        told = torch.cat([workers.total(self._sums.clone()).flatten(), self._culprit.double()[None]]).tolist()
        self._sums.zero_()
        culprit, means = int(told.pop()), zip(LOSSES, told, told[len(LOSSES) :], strict=False)
        if culprit:
            raise DivergedError(f"non-finite {NETWORKS[culprit - 1]} loss or gradient")
        return {f"loss/{name}": total / count for name, total, count in means if count}
