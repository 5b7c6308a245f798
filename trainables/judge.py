"""Judging a generator as training goes: always the same latent vectors and labels, against the same real windows.

Shapes: B batch, C component (E, N, Z), T sample, Z latent, L label and conditions.
"""

import torch
from torch import Tensor

from trainables import workers
from trainables.batches import PreparedDataset, Windows
from trainables.config import TrialConfig
from trainables.fidelity import SEED, Band, Fidelity, evenly
from trainables.layers import RectifiedNorm
from trainables.networks import AnyGenerator
from trainables.reference import file_beside

# Fakes generated together when judging: bounds memory, does not change the result.
GENERATE_BATCH = 64
MIN_FAKES = 64
# Latent vectors that batch normalisation is measured with, in equal batches, apart from those that are judged.
SETTLING = 2 * GENERATE_BATCH


class Judge:
    """Scores a generator on the validation part, always from the same latent vectors and labels.

    A trial's seed does not matter here: what trials of several seeds score then differs by their training alone.
    """

    def __init__(self, config: TrialConfig, dataset: PreparedDataset, train_part: Windows, val_part: Windows):
        band = Band(dataset.fs_hz, *dataset.usable_band_hz)
        # More fakes than there are windows to compare them with would cost time and tell nothing.
        count, device = min(config.evaluation.fakes, max(MIN_FAKES, len(val_part.wave))), val_part.label.device
        splits = config.evaluation.splits
        file = file_beside(dataset, val_part, config.model.components, count, splits)
        self.fidelity = Fidelity(train_part, val_part, band, count, splits, file)
        rng = torch.Generator(device).manual_seed(SEED)
        latent = torch.randn(count + SETTLING, config.model.latent_dim, device=device, generator=rng)
        self._latent, self._settling_latent = latent[:count], latent[count:]
        label = val_part.label
        self._label = label[evenly(count, len(label))]
        self._settling_label = label[evenly(SETTLING, len(label), first=count)]

    def settle(self, generator: AnyGenerator) -> None:
        """Give a generator the batch statistics of its weights as they are now."""
        settle_batch_norm(generator, self._settling_latent, self._settling_label)

    def score(self, generator: AnyGenerator) -> dict[str, float]:
        """Score a generator as it is; lower is better."""
        return self.judged(self.generate(generator))

    def judged(self, wave_NCT: Tensor) -> dict[str, float]:
        """Score what `generate` gave."""
        return self.fidelity(wave_NCT, self._label)

    def drifts(self, generator: AnyGenerator) -> dict[str, float]:
        """How far each moment of a generator's output is from the real one."""
        return self.fidelity.drifts(self.generate(generator))

    def generate(self, generator: AnyGenerator) -> Tensor:
        """The signals (B, C, T) that a generator is judged by."""
        return generate(generator, self._latent, self._label)


@torch.no_grad()
def generate(generator: AnyGenerator, latent_BZ: Tensor, label_BL: Tensor) -> Tensor:
    """Signals (B, C, T) from a generator in evaluation mode, a few at a time."""
    generator.eval()
    batches = zip(latent_BZ.split(GENERATE_BATCH), label_BL.split(GENERATE_BATCH), strict=True)
    return torch.cat([generator(latent, label) for latent, label in batches])


@torch.no_grad()
def settle_batch_norm(generator: AnyGenerator, latent_BZ: Tensor, label_BL: Tensor) -> None:
    """Measure the statistics that batch normalisation uses in evaluation mode for the weights as they are now.

    Averaged weights never ran in training, so the running statistics copied along would belong to other weights.
    """
    norms = [module for module in generator.modules() if isinstance(module, RectifiedNorm)]
    if not norms:
        return
    for norm in norms:
        norm.measure_anew()
    generator.train()
    for latent, label in zip(latent_BZ.split(GENERATE_BATCH), label_BL.split(GENERATE_BATCH), strict=True):
        generator(workers.share(latent), workers.share(label))
    generator.eval()
