"""Train thirteen small networks with the demo's stopping rules on: the planted failures have to stop, the others not.

    python tests/bench/live_runs.py            nine minutes of one core

Trainings as in `histories.py`, of 60 epochs. Five go well: two seeds, both architectures, other batches, and the demo's
own first baseline. Three begin with their output 10 to 20 times too large and learn slowly, so that for long they are
beyond the bound of drift, and close the gap, two of them with pauses. Two run away, at once and after learning well.
Three generate the same 1, 4 or 16 waveforms over and over, with faint noise on top.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from histories import MINIATURE, small_dataset
from torch import Tensor, nn

from search.baselines import DEMO_START
from search.presets import preset
from search.stoppers import DIVERSITY, DRIFT, stop_reason
from trainables.batches import PreparedDataset
from trainables.config import ModelConfig, with_values
from trainables.gan import Gan
from trainables.generator import Generator
from trainables.networks import AnyGenerator, make_generator
from trainables.training import train

EPOCHS = 60
FAINT = 0.02
GOOD = {"training.generator_lr": 1e-3, "training.critic_lr": 1e-3}
SLOW = {"training.generator_lr": 3e-4, "training.critic_lr": 3e-4}
LESS_SLOW = {"training.generator_lr": 5e-4, "training.critic_lr": 5e-4}
GATED = {"model.architecture": "gated"}
RUNAWAY = GOOD | GATED | {"training.generator_lr": 1e-2, "seed": 1}


class FewShapes(Generator):
    """Gives the first few of the waveforms asked for again and again."""

    shapes = 1

    def forward(self, latent_BZ: Tensor, label_BL: Tensor) -> Tensor:
        """Generate signals (B, C, T)."""
        again = torch.arange(len(latent_BZ)) % self.shapes
        wave = super().forward(latent_BZ[again], label_BL[again])
        return wave + FAINT * torch.randn_like(wave)


def few_shapes(shapes: int, config: ModelConfig, samples: int) -> FewShapes:
    """A generator of so many shapes."""
    generator = FewShapes(config, samples)
    generator.shapes = shapes
    return generator


def too_loud(gain: float, config: ModelConfig, samples: int) -> AnyGenerator:
    """A generator whose output is too large by a factor, until it learns better."""
    generator = make_generator(config, samples)
    assert isinstance(generator.layers, nn.Sequential)
    with torch.no_grad():
        for parameter in generator.layers[-1].parameters():
            parameter.mul_(gain)
    return generator


@dataclass(frozen=True)
class Run:
    """A training, and the rule that is to stop it; none for one that is to go on."""

    rule: str | None
    settings: dict[str, Any] = field(default_factory=lambda: GOOD)
    make: Callable[[ModelConfig, int], AnyGenerator] = make_generator


RUNS = {
    "healthy": Run(None),
    "healthy, another seed": Run(None, GOOD | {"seed": 1}),
    "healthy, gated": Run(None, SLOW | GATED),
    "healthy, batches of 8": Run(None, GOOD | {"training.batch_size": 8}),
    "the demo's first baseline": Run(None, DEMO_START[0]),
    "10 times too loud": Run(None, SLOW, partial(too_loud, 10.0)),
    "16 times too loud": Run(None, SLOW, partial(too_loud, 16.0)),
    "20 times too loud": Run(None, LESS_SLOW, partial(too_loud, 20.0)),
    "runaway": Run("drifting", RUNAWAY),
    "runaway after learning": Run("drifting", GOOD | GATED),
    "1 shape": Run("collapsed", make=partial(few_shapes, 1)),
    "4 shapes": Run("collapsed", make=partial(few_shapes, 4)),
    "16 shapes": Run("collapsed", make=partial(few_shapes, 16)),
}


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(
        description=__doc__,
        epilog="JSON, last line: for each run the rule expected and found, epochs and seconds; right, their share.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-live-") as folder:
        dataset = small_dataset(Path(folder))
        found = {name: follow(name, run, dataset) for name, run in RUNS.items()}
    right = sum(each["expected"] == each["found"] for each in found.values()) / len(found)
    print(json.dumps({**found, "right": right}))


def follow(name: str, run: Run, dataset: PreparedDataset) -> dict[str, Any]:
    """Train until a rule stops the training or its epochs are over."""
    search, reports, start = preset("demo"), list[dict[str, Any]](), time.perf_counter()
    values = {**MINIATURE, "evaluation.fakes": 64, "training.max_epochs": EPOCHS, **run.settings}
    torch.manual_seed(0)

    def report(metrics: dict[str, Any], gan: Gan) -> None:
        reports.append(metrics)

    with patch("trainables.gan.make_generator", run.make):
        train(with_values(search.trial, values), dataset, report, partial(stop_reason, config=search.stopping))
    reason = reports[-1]["stop_reason"]
    print(f"{name}: {reason or 'not stopped'}; {_course(reports)}", flush=True)
    seconds = round(time.perf_counter() - start, 1)
    return {"expected": run.rule, "found": reason.partition(":")[0] or None, "epochs": len(reports), "seconds": seconds}


def _course(reports: list[dict[str, Any]]) -> str:
    """What the rules read at the first, the tenth and the last epoch."""
    scored = [report for report in reports if DIVERSITY in report]  # not the last one of a training that diverged
    shown = [scored[0], scored[min(9, len(scored) - 1)], scored[-1]]
    gaps = [max(abs(value) for key, value in report.items() if key.startswith(DRIFT)) for report in shown]
    rows = {"score": [r["score"] for r in shown], "gap": gaps, "diversity": [r[DIVERSITY] for r in shown]}
    return ", ".join(f"{name} " + " ".join(f"{value:.4g}" for value in row) for name, row in rows.items())


if __name__ == "__main__":
    main()
