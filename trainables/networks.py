"""The pairs of networks to choose from, by the name that the configuration gives them."""

from trainables.config import ModelConfig
from trainables.critic import Critic
from trainables.gated import GatedCritic, GatedGenerator
from trainables.generator import Generator

AnyGenerator = Generator | GatedGenerator
AnyCritic = Critic | GatedCritic

NETWORKS: dict[str, tuple[type[AnyGenerator], type[AnyCritic]]] = {
    "seismogen": (Generator, Critic),
    "gated": (GatedGenerator, GatedCritic),
}


def make_generator(config: ModelConfig, samples: int) -> AnyGenerator:
    """Generator from (B, latent_dim) and labels (B, label_dim) to (B, components, samples)."""
    return NETWORKS[config.architecture][0](config, samples)


def make_critic(config: ModelConfig, samples: int, fs_hz: float) -> AnyCritic:
    """Critic of windows of a length at a sampling rate.

    Raises:
        ValueError: if the configuration does not fit such windows.
    """
    return NETWORKS[config.architecture][1](config, samples, fs_hz)
