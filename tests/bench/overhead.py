"""Measure what a trial costs beside its training: its start, and what it adds to the search's time and memory.

    python tests/bench/overhead.py [--trials 1000]

- `first_start_s`, `reused_start_s`: from the moment a trial's parameters are drawn to its first training step, in a
  process that is new and in one that has run a trial before (median); demo data and networks, one trial at a time.
- `vs_nested`: the median of the same time of stock nested trials, which start a `TorchTrainer` of one worker each, over
  `reused_start_s`.
- `growth_time`: seconds a trial, less its proposal, of the last hundred over the first hundred in a search of so many
  trials of one step; the searcher, scheduler, callbacks and storage are the search's own. The first trials, which wait
  for their processes, are left out.
- `growth_kb_per_trial`: the driver's resident memory by ended trials, least-squares slope over all of them.

The last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from demo_data import make_demo_data
from ray import train, tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch as StockSearch
from rich.console import Console

from search import cluster, session, tuner
from search.config import ResourcesConfig, SearchConfig
from search.optuna_search import OptunaSearch
from search.presets import preset
from search.progress import Progress
from search.storage import place
from trainables.batches import PreparedDataset
from trainables.config import TrialConfig, with_values
from trainables.gan import Gan
from trainables.trainable import run_trial
from trainables.training import train as train_here

HUNDRED = 100
WARM = 10  # trials until every process runs
OURS, NESTED = 8, 3  # trials whose start is timed
METRICS = {f"fidelity/part_{number}": 1.0 for number in range(30)}


@dataclass
class Clock(tune.Callback):
    """When each trial was drawn, in order, how long that took, and when it ended with how much memory in use."""

    drawn: list[str] = field(default_factory=list)
    drawn_at: list[float] = field(default_factory=list)
    drawing: list[float] = field(default_factory=list)
    ended_at: list[float] = field(default_factory=list)
    drawn_by: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tune calls this when a trial has ended."""
        self.ended_at.append(time.time())
        self.drawn_by.append(sum(self.drawing))
        self.rss.append(psutil.Process().memory_info().rss)

    @contextmanager
    def watching(self, searcher: Any) -> Iterator[None]:
        """Time the proposals of a class of searchers."""
        suggest = searcher.suggest

        def timed(searcher: Any, trial_id: str) -> Any:
            start = time.time()
            parameters = suggest(searcher, trial_id)
            self.drawn.append(trial_id)
            self.drawn_at.append(time.time())
            self.drawing.append(time.time() - start)
            return parameters

        searcher.suggest = timed
        yield
        searcher.suggest = suggest


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of one step; at least 210 (default: 1000)")
    options = parser.parse_args()
    cluster.start_ray(ResourcesConfig(), Console())
    with tempfile.TemporaryDirectory(prefix="bench-overhead-") as scratch:
        folder = Path(scratch)
        data = make_demo_data(folder)
        figures = growth(data, folder / "growth", options.trials)
        figures |= starts(data, folder)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()}))


def growth(data: Path, folder: Path, count: int) -> dict[str, float]:
    """What each further trial of one step costs."""
    config = replace(preset("demo"), num_samples=count)
    clock = search(config, data, folder, one_step)
    seconds = np.diff(np.array(clock.ended_at) - np.array(clock.drawn_by))[WARM:]
    print(
        f"one trial: {seconds[:HUNDRED].mean() * 1000:.1f} ms at first, {seconds[-HUNDRED:].mean() * 1000:.1f} at last"
    )
    return {
        "growth_time": seconds[-HUNDRED:].mean() / seconds[:HUNDRED].mean(),
        "growth_kb_per_trial": np.polyfit(np.arange(len(clock.rss)), clock.rss, 1)[0] / 1024,
    }


def starts(data: Path, folder: Path) -> dict[str, float]:
    """From a trial's parameters to its first step."""
    config = with_values(preset("demo"), {"training.max_epochs": 1, "resources.max_concurrent": 1})
    config = replace(config, num_samples=OURS)
    ours = _waits(search(config, data, folder / "ours", marked_trial), folder / "ours")
    nested = _waits(stock_search(config, data, folder / "nested"), folder / "nested")
    print(f"starts: ours {_listed(ours)} s; nested {_listed(nested)} s")
    reused = statistics.median(ours[1:])
    return {"first_start_s": ours[0], "reused_start_s": reused, "vs_nested": statistics.median(nested) / reused}


def search(config: SearchConfig, data: Path, folder: Path, trainable: Any) -> Clock:
    """Our search as the command runs it, but for the training."""
    clock, console = Clock(), Console(file=(folder.parent / "console.txt").open("w"))
    folder.mkdir()
    progress = Progress(console, folder / "trials.csv", config.num_samples, config.training.max_epochs)

    def train(callbacks: list[tune.Callback]) -> Any:
        return tuner.run_search(config, data, folder, [clock, *callbacks], resume=False)

    tuner.run_trial = trainable  # type: ignore[attr-defined]
    with clock.watching(OptunaSearch):
        session._followed(config, place(folder), console, progress, train)
    return clock


def stock_search(config: SearchConfig, data: Path, folder: Path) -> Clock:
    """Trials as Ray's documentation nests Train in Tune, one at a time."""
    clock = Clock()
    searcher = StockSearch({"seed": tune.randint(0, 9)}, metric="score", mode="min")
    with clock.watching(StockSearch):
        tune.run(
            tune.with_parameters(nested_trial, base=config.trial, data=data, folder=folder),
            storage_path=str(folder),
            search_alg=searcher,
            num_samples=NESTED,
            max_concurrent_trials=1,
            callbacks=[clock],
            verbose=0,
        )
    return clock


def one_step(parameters: dict[str, Any], *, base: TrialConfig, **_: Any) -> None:
    """A trial of one report, with as many metrics as a training's and a checkpoint."""
    metrics = {"score": 1 + parameters["training.penalty_weight"], "epoch": base.training.max_epochs, "samples": 480}
    ended = {"last_epoch": True, "stop_reason": "", "seconds": 0.01, "warning": ""}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "training.pt").touch()
        tune.report({**METRICS, **metrics, **ended}, checkpoint=tune.Checkpoint.from_directory(folder))


def marked_trial(parameters: dict[str, Any], *, runs: str, **arguments: Any) -> None:
    """Our trial, leaving a file with the time of its first step."""
    mark_first_step(Path(runs).parent, tune.get_context().get_trial_id())
    run_trial(parameters, runs=runs, **arguments)


def nested_trial(parameters: dict[str, Any], *, base: TrialConfig, data: Path, folder: Path) -> None:
    """The same training by one worker of a nested Train run."""
    trial_id = tune.get_context().get_trial_id()

    def train_in_worker() -> None:
        mark_first_step(folder, trial_id)
        train_here(base, PreparedDataset.open(data), lambda metrics, gan: train.report(metrics), lambda history: None)

    callbacks: list[Any] = [TuneReportCallback()]  # no callback of Train's own by its type
    TorchTrainer(
        train_in_worker,
        scaling_config=train.ScalingConfig(num_workers=1),
        run_config=train.RunConfig(name=trial_id, storage_path=str(folder / "train"), callbacks=callbacks),
    ).fit()


def mark_first_step(folder: Path, trial_id: str) -> None:
    """Have this process note when it takes its next step."""
    step = Gan.critic_step

    def first_step(gan: Gan, *batch: Any) -> Any:
        Gan.critic_step = step  # type: ignore[method-assign]
        (folder / f"{trial_id}.first").write_text(str(time.time()))
        return step(gan, *batch)

    Gan.critic_step = first_step  # type: ignore[assignment,method-assign]


def _waits(clock: Clock, folder: Path) -> list[float]:
    first = [float((folder / f"{trial_id}.first").read_text()) for trial_id in clock.drawn]
    return [step - drawn for step, drawn in zip(first, clock.drawn_at, strict=True)]


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
