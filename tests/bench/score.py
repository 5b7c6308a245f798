"""What the score makes of real windows, and of windows made worse by known amounts: the table that shows its worth.

    python tests/bench/score.py [--data DIR] [--seeds 20]

All windows of the dataset (the demo's, if none is given) are drawn at random into three parts: one fits the embedding,
one is the real one, one is held out. The last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

from degradations import (
    DEGRADATIONS,
    Degradation,
    flat_noise,
    mean_spectrum_noise,
    phases,
    shaped_noise,
    thirds,
    white_noise,
)
from demo_data import make_demo_data
from torch import Tensor

from trainables.batches import PreparedDataset, Windows
from trainables.fidelity import SCORED, Band, Fidelity

SPLITS = 50
LIGHTLY = 0.05  # standard deviations of white noise


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-score-") as folder:
        dataset = PreparedDataset.open(options.data or make_demo_data(Path(folder)))
        print(f"{sum(dataset.count(part) for part in ('train', 'val', 'test'))} windows, {dataset.fs_hz:g} Hz")
        print(json.dumps(benchmark(dataset, options.seeds)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Show what the score makes of windows that are made worse by known amounts.",
        epilog="JSON, last line: rising (share of degradations whose named measure and score rise at every level), "
        "real_median, real_within (share of scores of real windows from 0.8 to 1.25), shaped_noise, in_order.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="prepared dataset; the demo's if left out")
    add("--seeds", type=int, default=20, metavar="N", help="draws of real windows against real windows")
    return parser


def benchmark(dataset: PreparedDataset, seeds: int) -> dict[str, float]:
    """Print the tables; returns the figures of the last line."""
    bench = Bench(dataset, seed=0)
    rising = [bench.rises(name) for name in DEGRADATIONS]
    ladder = bench.ladder()
    print("order: " + " < ".join(f"{name} {score:.2f}" for name, score in ladder.items()))
    real = real_scores(dataset, seeds)
    print("real against real: " + ", ".join(f"{score:.2f}" for score in sorted(real)))
    shaped = bench(shaped_noise(bench.real.wave, bench.band), bench.real)
    print("noise with each window's envelope and spectrum: " + _parts(shaped))
    figures = {
        "rising": statistics.mean(rising),
        "real_median": statistics.median(real),
        "real_within": statistics.mean(0.8 <= score <= 1.25 for score in real),
        "shaped_noise": shaped["score"],
        "in_order": float(is_rising(list(ladder.values()))),
    }
    return {name: round(value, 3) for name, value in figures.items()}


class Bench:
    """A judge with a third of a dataset's windows, which are there to be made worse; and another, held out."""

    def __init__(self, dataset: PreparedDataset, seed: int):
        train, real, held = thirds(dataset, seed)
        self.real, self.held = real, held
        self.band = Band(dataset.fs_hz, *dataset.usable_band_hz)
        self._judge = Fidelity(train, real, self.band, len(held.wave), SPLITS)

    def __call__(self, wave_NCT: Tensor, windows: Windows) -> dict[str, float]:
        """Judge what was made of windows, of as many as are held out."""
        return self._judge(wave_NCT, windows.label)

    def levels(self, degradation: Degradation) -> tuple[list[float], list[float]]:
        """The named measure (its sign such that it should rise) and the score at each level."""
        # Copies of few windows are measured on windows held out: the real ones would cover themselves.
        windows = self.held if degradation.falls else self.real
        found = [self(degradation.apply(windows.wave, level, self.band), windows) for level in degradation.levels]
        sign = -1 if degradation.falls else 1
        return [sign * each[degradation.named] for each in found], [each["score"] for each in found]

    def rises(self, name: str) -> bool:
        """Whether both rise at every level; prints them."""
        degradation = DEGRADATIONS[name]
        named, score = self.levels(degradation)
        for title, values in ((degradation.named, [abs(value) for value in named]), ("score", score)):
            print(f"{name:22s} {title:24s}" + " ".join(f"{value:9.2f}" for value in values))
        return is_rising(named) and is_rising(score)

    def ladder(self) -> dict[str, float]:
        """Scores of windows from the best to the worst."""
        wave = self.held.wave
        steps = {
            "held-out real": wave,
            "lightly degraded": white_noise(wave, LIGHTLY, self.band),
            "phase-randomised": phases(wave, 1.0, self.band),
            "noise of their mean spectrum": mean_spectrum_noise(wave, self.band),
            "white noise": flat_noise(wave, self.band),
        }
        return {name: self(step, self.held)["score"] for name, step in steps.items()}


def real_scores(dataset: PreparedDataset, seeds: int) -> list[float]:
    """Scores of held-out real windows in as many draws."""
    benches = (Bench(dataset, seed) for seed in range(seeds))
    return [bench(bench.held.wave, bench.held)["score"] for bench in benches]


def is_rising(values: list[float]) -> bool:
    """Whether each is more than the one before."""
    return all(more > less for less, more in pairwise(values))


def _parts(found: dict[str, float]) -> str:
    return f"score {found['score']:.2f}; " + ", ".join(f"{name} {found[f'fidelity/{name}']:.2f}" for name in SCORED)


if __name__ == "__main__":
    main()
