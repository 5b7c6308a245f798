"""Compare this search with random search without early stopping, on the demo, for the same wall clock.

    python tests/bench/search_efficiency.py [--data DIR] [--seeds 3] [--seconds 100] [--max-epochs 12]

Both are searches as search/run.py makes them, but for the finalists, W&B and the trial that is set by hand: it would
give both the same good start. They differ in sampler, scheduler and stopping rules. The machine should be doing nothing
else. Of each pair of searches with the same seed:

- `vs_random_score`: the best score of ours over that of random search, at the end (< 1 is better).
- `share_of_random_time`: when ours came to random search's final score, over the time of a search; 1 if never.

The last line is JSON: medians over the seeds.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from demo_data import make_demo_data
from ray import tune
from rich.console import Console

from search import cluster, session, tuner
from search.config import ResourcesConfig, SchedulerConfig, SearchConfig, StoppingConfig, WandbConfig
from search.presets import preset
from search.progress import Progress
from search.storage import place
from trainables.config import with_values

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
        config = with_values(
            preset("demo"), {"finalists.count": 0, "baselines": [], "training.max_epochs": options.max_epochs}
        )
        config = replace(config, num_samples=ENDLESS, max_hours=options.seconds / 3600)
        pairs = [compare(replace(config, seed=seed), data, folder) for seed in range(options.seeds)]
    found = {name: [pair[name] for pair in pairs] for name in pairs[0]}
    for name, values in found.items():
        print(f"{name}: median {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    print(json.dumps({name: round(statistics.median(values), 4) for name, values in found.items()}))


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


def compare(config: SearchConfig, data: Path, folder: Path) -> dict[str, float]:
    """The figures of two searches with the same seed; with every other one, random search comes first."""
    seed, seconds = config.seed, config.max_hours * 3600
    random = replace(config, sampler="random", scheduler=SchedulerConfig("none"), stopping=RULES_OFF)
    found = {}
    for name, one in sorted({"ours": config, "random": random}.items(), reverse=seed % 2 == 1):
        found[name] = search(one, data, folder / f"{name}-{seed}")
        print(f"seed {seed}, {name}: " + ", ".join(f"{score:.4g} at {s:.0f} s" for s, score in found[name]), flush=True)
    return figures(found["ours"], found["random"], seconds)


def figures(ours: list[tuple[float, float]], random: list[tuple[float, float]], seconds: float) -> dict[str, float]:
    """The two figures of searches of so many seconds, from when each had which best score."""
    goal = random[-1][1]
    reached_s = next((at_s for at_s, score in ours if score <= goal), seconds)
    return {"vs_random_score": ours[-1][1] / goal, "share_of_random_time": min(1.0, reached_s / seconds)}


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
