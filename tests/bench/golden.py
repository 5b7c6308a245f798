"""Losses of twenty steps of both architectures, which a refactoring leaves as they are.

    python tests/bench/golden.py            compare with tests/golden/*.json
    python tests/bench/golden.py --write    write them anew: after a change of the mathematics, never otherwise

In float64 and with one thread, so that they are the same on every machine but for the last digits.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from trainables.config import ARCHITECTURES, ModelConfig, TrainingConfig, TrialConfig
from trainables.gan import Gan

FOLDER = Path(__file__).resolve().parents[1] / "golden"
STEPS, SAMPLES, BATCH, FS_HZ = 20, 400, 4, 10.0
TOLERANCE = 1e-6

Losses = dict[str, list[float]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Compare twenty losses of both architectures with those on record.")
    parser.add_argument("--write", action="store_true", help="write them to tests/golden/ instead")
    write = parser.parse_args().write
    for name in ARCHITECTURES:
        found = losses(name)
        if write:
            FOLDER.mkdir(exist_ok=True)
            path(name).write_text(json.dumps(found, indent=1) + "\n")
            print(f"{path(name)} written")
        elif (error := largest_error(found, recorded(name))) > TOLERANCE:
            sys.exit(
                f"error: losses of {name} differ by {error:.1e} from {path(name)}; expected {TOLERANCE:.0e} at most"
            )
        else:
            print(f"{name}: at most {error:.1e} from the recorded losses")


def losses(architecture: str) -> Losses:
    """Each loss of each of the first steps of a small training; every step is one of the critic and the generator."""
    model = ModelConfig(architecture, latent_dim=100, base_channels=2, kernel=8)
    config = TrialConfig(model, TrainingConfig(batch_size=BATCH, n_critic=1, convolution="direct"))
    with _same_everywhere():
        gan = Gan(config, SAMPLES, FS_HZ, torch.device("cpu"))
        rng = torch.Generator().manual_seed(0)
        label = (torch.arange(BATCH)[:, None] % 2).double()
        steps = []
        for _ in range(STEPS):
            real = torch.randn(BATCH, 3, SAMPLES, generator=rng)
            gan.critic_step(real, label)
            gan.generator_step(label)
            steps.append(gan.tally.read())
    return {name: [step[name] for step in steps] for name in steps[0]}


def path(architecture: str) -> Path:
    """File of an architecture's recorded losses."""
    return FOLDER / f"{architecture}.json"


def recorded(architecture: str) -> Losses:
    """The losses on record."""
    content: Losses = json.loads(path(architecture).read_text())
    return content


def largest_error(found: Losses, expected: Losses) -> float:
    """Largest difference relative to what is expected."""
    assert found.keys() == expected.keys()
    pairs = [pair for name in expected for pair in zip(found[name], expected[name], strict=True)]
    return max(abs(a - b) / abs(b) for a, b in pairs)


@contextmanager
def _same_everywhere() -> Iterator[None]:
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


if __name__ == "__main__":
    main()
