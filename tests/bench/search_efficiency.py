"""Compare this search with random search without early stopping, on the demo, for the same wall clock.

    python tests/bench/search_efficiency.py [--data DIR] [--seeds 3] [--seconds 100] [--max-epochs 12]

All are searches as search/run.py makes them, but for the finalists and W&B. This one is made twice: without the trial
that is set by hand, which would give any search a good start, and with it, as it comes. The machine should be doing
nothing else. Of the searches with the same seed:

- `vs_random_score`: the best score of ours over that of random search, at the end (< 1 is better).
- `share_of_random_time`: when ours came to random search's final score, over the time of a search; 1 if never.

The last line is JSON: medians over the seeds, by search.
"""

import argparse
import json
import math
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from demo_data import make_demo_data
from ray import tune
from rich.console import Console

from search import cluster, session, tuner
from search.config import ResourcesConfig, SchedulerConfig, SearchConfig, StoppingConfig, WandbConfig
from search.presets import preset
from search.progress import Progress
from search.storage import place
from trainables.config import with_values

RANDOM = "random, no pruning"
ENDLESS = 100_000
RULES_OFF = StoppingConfig(patience=ENDLESS, stall_patience=0)


@dataclass
class Watch(tune.Callback):
    """The best score so far and when it came, in seconds since the search began, at each improvement."""

    began_s: float = field(default_factory=time.monotonic)
    found: list[tuple[float, float]] = field(default_factory=list)

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Tune calls this at each report."""
        if result["score"] < (self.found[-1][1] if self.found else math.inf):
            self.found.append((time.monotonic() - self.began_s, result["score"]))


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    cluster.start_ray(ResourcesConfig(), Console())
    with tempfile.TemporaryDirectory(prefix="bench-efficiency-") as scratch:
        folder = Path(scratch)
        data = options.data or make_demo_data(folder)
        warm_up(data, folder)
        config = with_values(preset("demo"), {"finalists.count": 0, "training.max_epochs": options.max_epochs})
        config = replace(config, num_samples=ENDLESS, max_hours=options.seconds / 3600)
        found = [compare(replace(config, seed=seed), data, folder) for seed in range(options.seeds)]
    print(json.dumps(medians(found, within=(0, 1))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="prepared dataset; the demo's if left out")
    add("--seeds", type=int, default=3, help="pairs of searches")
    add("--seconds", type=float, default=100.0, help="of each search")
    add("--max-epochs", type=int, default=preset("demo").training.max_epochs, help="of each trial")
    return parser


def warm_up(data: Path, folder: Path) -> None:
    """One short trial: the first one on a dataset measures its real windows for all that follow."""
    config = with_values(preset("demo"), {"training.max_epochs": 1, "num_samples": 1, "finalists.count": 0})
    search(config, data, folder / "warm-up")


def compare(config: SearchConfig, data: Path, folder: Path) -> dict[str, dict[str, float]]:
    """The figures of this search, twice, for one seed; with every other seed random search comes first."""
    seed, seconds = config.seed, config.max_hours * 3600
    unaided = replace(config, baselines=[])
    random = replace(unaided, sampler="random", scheduler=SchedulerConfig("none"), stopping=RULES_OFF)
    searches = {"ours": unaided, "ours, a trial set by hand first": config, RANDOM: random}
    found = {}
    for number, name in sorted(enumerate(searches), reverse=seed % 2 == 1):
        found[name] = search(searches[name], data, folder / f"{number}-{seed}")
        print(f"seed {seed}, {name}: " + ", ".join(f"{score:.4g} at {s:.0f} s" for s, score in found[name]), flush=True)
    return {name: figures(found[name], found[RANDOM], seconds) for name in searches if name != RANDOM}


def figures(ours: list[tuple[float, float]], random: list[tuple[float, float]], seconds: float) -> dict[str, float]:
    """The two figures of searches of so many seconds, from when each had which best score."""
    goal = random[-1][1]
    reached_s = next((at_s for at_s, score in ours if score <= goal), seconds)
    return {"vs_random_score": ours[-1][1] / goal, "share_of_random_time": min(1.0, reached_s / seconds)}


def medians(found: list[dict[str, dict[str, float]]], within: tuple[float, float]) -> dict[str, dict[str, float]]:
    """Medians over the seeds of the figures of each search; prints them between two more quantiles."""
    of_all = {}
    for name in found[0]:
        quantiles = {
            figure: np.quantile([of_seed[name][figure] for of_seed in found], [within[0], 0.5, within[1]])
            for figure in found[0][name]
        }
        shown = (f"{key} {middle:.2f} ({low:.2f} to {high:.2f})" for key, (low, middle, high) in quantiles.items())
        print(f"{name:30s}", *shown)
        of_all[name] = {figure: round(float(middle), 4) for figure, (_, middle, _) in quantiles.items()}
    return of_all


def search(config: SearchConfig, data: Path, folder: Path) -> list[tuple[float, float]]:
    """Best scores and their times in a search as the command makes it."""
    folder.mkdir()
    config = replace(config, wandb=WandbConfig(mode="disabled"))
    watch, console = Watch(), Console(file=(folder / "console.txt").open("w"))
    progress = Progress(console, folder / "trials.csv", config.num_samples, config.training.max_epochs)

    def train(callbacks: list[tune.Callback]) -> Any:
        return tuner.run_search(config, data, folder, [watch, *callbacks], resume=False)

    session._followed(config, place(folder), console, progress, train)
    if not watch.found:
        raise ValueError(f"no trial had a score within {config.max_hours * 3600:g} s; give more --seconds")
    return watch.found


if __name__ == "__main__":
    main()
