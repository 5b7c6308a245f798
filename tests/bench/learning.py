"""Train a preset's first baseline and show how far generated spectra are from real ones, untrained and by epoch.

    python tests/bench/learning.py [--data DIR] [--preset demo] [--set KEY=VALUE]... [--minutes 3]

Without --data the demo dataset is written and prepared first (not counted). The distance is the log-PSD's over its
floor: 1 is as close as real windows are to each other. It is measured on the validation windows, or where these are too
few to tell anything, on the training windows.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from demo_data import make_demo_data

from search.config import with_settings
from search.presets import preset
from trainables.batches import PreparedDataset
from trainables.config import TrialConfig
from trainables.fidelity import MIN_WINDOWS
from trainables.gan import Gan
from trainables.judge import Judge
from trainables.training import train

PART = "fidelity/log_psd"


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="bench-learning-") as folder:
        dataset = PreparedDataset.open(options.data or make_demo_data(Path(folder)))
        search = preset(options.preset)
        start = [f"{key}={value}" for key, value in search.baselines[0].items()]
        config = with_settings(search, [f"training.max_epochs={10**6}", *start, *options.set]).trial
        print(json.dumps(learn(config, dataset, 60 * options.minutes)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Show how a training brings generated spectra closer to real ones.",
        epilog="JSON, last line: untrained, trained (the least so far), share (trained / untrained), seconds, epochs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="prepared dataset; the demo's if left out")
    add("--preset", default="demo", help="demo or itaca")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="over the preset, as search/run.py takes it")
    add("--minutes", type=float, default=3.0, help="time to train, judging included")
    add("--threads", type=int, default=2, help="of PyTorch")
    return parser


def learn(config: TrialConfig, dataset: PreparedDataset, seconds: float) -> dict[str, Any]:
    """Train for that long and print each epoch's distance; returns the figures of the last line."""
    part = "val" if dataset.count("val") >= MIN_WINDOWS else "train"
    judge = Judge(config, dataset, *(dataset.part(name, config.model) for name in ("train", part)))
    before = _untrained(config, dataset, judge)
    print(f"judged by the {dataset.count(part)} windows of {part}; untrained: {before:.1f}")
    start, curve = time.perf_counter(), []

    def report(metrics: dict[str, Any], gan: Gan) -> None:
        curve.append(judge.score(gan.averaged)[PART])
        print(f"{time.perf_counter() - start:6.0f} s  epoch {metrics['epoch']:4d}  {curve[-1]:8.1f}", flush=True)

    def out_of_time(history: list[dict[str, Any]]) -> str | None:
        return "out of time" if time.perf_counter() - start + history[-1]["seconds"] > seconds else None

    train(config, dataset, report, out_of_time)
    least = min(curve)
    took = round(time.perf_counter() - start, 1)
    figures = {"untrained": before, "trained": least, "share": least / before}
    return {**{name: round(value, 3) for name, value in figures.items()}, "seconds": took, "epochs": len(curve)}


def _untrained(config: TrialConfig, dataset: PreparedDataset, judge: Judge) -> float:
    gan = Gan(config, dataset.samples, dataset.fs_hz, torch.device("cpu"))
    judge.settle(gan.averaged)
    return judge.score(gan.averaged)[PART]


if __name__ == "__main__":
    main()
