"""Record what some twenty small trainings report: histories that the stopping rules are tested on.

    python tests/bench/histories.py            write tests/golden/histories.json; ten minutes of one core

Made-up records as in the demo, fewer and shorter; good and bad learning rates, both architectures, two batch sizes.
Only what the rules read is kept, to four digits.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from data_prep.demo import write_demo_archive
from data_prep.prepare import prepare
from search.presets import preset
from search.session import DEMO_SETTINGS
from search.stoppers import DIVERSITY, DRIFT
from trainables.batches import PreparedDataset
from trainables.config import TrialConfig, with_values
from trainables.gan import Gan
from trainables.training import train

FILE = Path(__file__).resolve().parents[1] / "golden" / "histories.json"
EVENTS, STATIONS, WINDOW_S, GENERATOR_STEPS = 60, 5, 10.24, 420
KEPT = ("epoch", "generator_steps", "score", DIVERSITY)
MINIATURE = {
    "model.latent_dim": 100,
    "model.base_channels": 2,
    "model.kernel": 8,
    "training.n_critic": 1,
    "evaluation.fakes": 32,
    "evaluation.splits": 10,
}
# Rates of generator and critic: of those after the first four, one is far too high or too low.
RATES = [(5e-4, 5e-4), (1e-3, 1e-3), (2e-3, 2e-3), (4e-3, 3e-3), (1e-1, 1e-3), (1e-3, 1e-1), (1e-6, 1e-3)]

Settings = dict[str, Any]
History = dict[str, list[float | None]]


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-histories-") as folder:
        dataset = small_dataset(Path(folder))
        found = [{"settings": settings, "reports": history(settings, dataset)} for settings in trainings()]
    FILE.write_text("[\n" + ",\n".join(json.dumps(each, separators=(",", ":")) for each in found) + "\n]\n")
    print(f"{FILE} written")


def trainings() -> Iterator[Settings]:
    """What sets each training apart."""
    for (generator_lr, critic_lr), batch_size, seed in product(RATES, (8, 16), (0, 1)):
        yield {
            "model.architecture": "gated" if seed else "seismogen",
            "training.batch_size": batch_size,
            "training.generator_lr": generator_lr,
            "training.critic_lr": critic_lr,
            "seed": seed,
        }


def history(settings: Settings, dataset: PreparedDataset) -> History:
    """Each metric's course over one training."""
    epochs = round(GENERATOR_STEPS / (dataset.count("train") // settings["training.batch_size"]))
    config: TrialConfig = with_values(preset("demo").trial, {**MINIATURE, **settings, "training.max_epochs": epochs})
    reports: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any], gan: Gan) -> None:
        reports.append(metrics)

    train(config, dataset, report, lambda history: None)
    print(f"{settings}: score {reports[0]['score']:.1f} to {reports[-1]['score']:.1f}", flush=True)
    keys = [*KEPT, *(key for key in reports[0] if key.startswith(DRIFT))]
    return {key: [_rounded(report.get(key)) for report in reports] for key in keys}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def small_dataset(folder: Path) -> PreparedDataset:
    """The demo's made-up records, fewer and shorter, prepared in a folder."""
    archive = write_demo_archive(folder / "archive", n_events=EVENTS, stations_per_event=STATIONS)
    settings = replace(DEMO_SETTINGS, window_s=WINDOW_S)
    prepare(archive.files, archive.flatfile, folder / "data", settings, progress=False)
    return PreparedDataset.open(folder / "data")


if __name__ == "__main__":
    main()
