"""Time what judging a generator costs, on its own and within a trial of the demo.

    python tests/bench/metrics.py [--windows 256] [--samples 8000] [--rate 200] [--data DIR]

- `seconds`: one call of a judge already built, for as many made-up windows as it judges by; best of the rounds.
- `peak_rss_mb`: by how much building the judge and calling it raise this process's memory at its peak.
- `share_of_trial`: seconds of that call over the seconds of the epoch it ends, in a training with the demo's first
  baseline, one thread as a demo's trial has; median over epochs, the first left out. Generating is not counted.

Without --data the demo dataset is written and prepared first (not counted). Two calls must give equal figures. A table
shows the seconds of each measure: of its features of the generated windows, and of the distances to real ones.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from demo_data import make_demo_data
from torch import Tensor

from search.config import with_settings
from search.presets import preset
from trainables import metrics
from trainables.batches import PreparedDataset, Windows
from trainables.config import EvaluationConfig
from trainables.fidelity import Band, Fidelity, _features
from trainables.training import train

EVENTS = 40
HIGH_SHARE = 0.8  # of the Nyquist frequency, up to which is judged


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    figures = alone(options)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-metrics-") as folder:
        dataset = PreparedDataset.open(options.data or make_demo_data(Path(folder)))
        figures["share_of_trial"] = share_of_trial(dataset, options.epochs)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time what judging a generator costs, on its own and within a trial of the demo.",
        epilog="JSON, last line: seconds, peak_rss_mb, share_of_trial; smaller is better.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--windows", type=int, default=256, metavar="N", help="real windows to judge by, and generated ones")
    add("--samples", type=int, default=8000, metavar="N", help="of a window")
    add("--rate", type=float, default=200.0, metavar="HZ", help="samples a second")
    add("--threads", type=int, default=2, metavar="N", help="of PyTorch, but for the trial's one")
    add("--rounds", type=int, default=3, metavar="N", help="the best time of so many calls counts")
    add("--epochs", type=int, default=5, metavar="N", help="of the trial")
    add("--data", type=Path, metavar="DIR", help="prepared dataset for the trial; the demo's if left out")
    return parser


def alone(options: argparse.Namespace) -> dict[str, float]:
    """Cost of judging made-up windows, with the table."""
    train_part, val_part, fake = (_made_up(options, seed) for seed in range(3))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak so far, of making the windows, is forgotten
    before = _memory("VmRSS")
    start = time.perf_counter()
    band = Band(options.rate, 0.0, HIGH_SHARE * options.rate / 2)
    judge = Fidelity(train_part, val_part, band, options.windows, EvaluationConfig().splits)
    print(f"built in {time.perf_counter() - start:.2f} s", flush=True)
    found: list[dict[str, float]] = []
    seconds = _best(lambda: found.append(judge(fake.wave, fake.label)), max(2, options.rounds))
    grown = _memory("VmHWM") - before
    assert all(each == found[0] for each in found), "the same windows were judged differently"
    _print_table(judge, fake.wave, seconds, options.rounds)
    return {"seconds": seconds, "peak_rss_mb": grown / 1e6}


def _made_up(options: argparse.Namespace, seed: int) -> Windows:
    """Z-scored noise of a falling spectrum that rises at once and dies away."""
    rng, samples = torch.Generator().manual_seed(seed), options.samples
    frequency, time_s = torch.fft.rfftfreq(samples, 1 / options.rate), torch.arange(samples) / options.rate
    spectrum = torch.fft.rfft(torch.randn(options.windows, 3, samples, generator=rng)) / (1 + frequency / 5)
    later = (time_s - 5 * torch.rand(options.windows, 1, 1, generator=rng)).clamp_min(0)
    wave = torch.fft.irfft(spectrum, n=samples) * (0.02 + later * torch.exp(-later / 3))
    return Windows(metrics.z_score(wave), torch.ones(len(wave), 1), torch.arange(len(wave)) % EVENTS)


def _memory(name: str) -> int:
    """A figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _best(call: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _print_table(judge: Fidelity, fake_NCT: Tensor, seconds: float, rounds: int) -> None:
    shape, features = metrics.z_score(fake_NCT), {}
    rows: list[tuple[str, float, float]] = []
    for name, (feature, _) in judge._measures.items():
        features[name] = _features(feature, shape)
        measuring = _best(partial(_features, feature, shape), rounds)
        rows.append((name, measuring, _best(partial(judge._over_floor, name, features[name]), rounds)))
    rows.append(("slow_motion", _best(lambda: judge._excess(shape), rounds), 0.0))
    rows.append(("among fakes", 0.0, _best(lambda: judge._among_fakes(features), rounds)))
    rows.append(("drifts, thesis", _best(lambda: (judge.drifts(fake_NCT), judge._thesis_table(fake_NCT)), rounds), 0.0))
    print(f"{'seconds':20s}{'features':>10s}{'distance':>10s}{'share':>8s}")
    for name, measuring, comparing in sorted(rows, key=lambda row: -row[1] - row[2]):
        print(f"{name:20s}{measuring:10.3f}{comparing:10.3f}{(measuring + comparing) / seconds:8.1%}")
    print(f"{'a call':20s}{seconds:20.3f}", flush=True)


def share_of_trial(dataset: PreparedDataset, epochs: int) -> float:
    """Train the demo's first baseline for some epochs and time the judge within each."""
    search = preset("demo")
    start = [f"{key}={value}" for key, value in search.baselines[0].items()]
    config = with_settings(search, [f"training.max_epochs={epochs + 1}", *start]).trial
    judging: list[float] = []
    shares: list[float] = []

    class TimedFidelity(Fidelity):
        def __call__(self, wave_NCT: Tensor, label_NL: Tensor) -> dict[str, float]:
            start = time.perf_counter()
            found = super().__call__(wave_NCT, label_NL)
            judging.append(time.perf_counter() - start)
            return found

    def report(figures: dict[str, Any], gan: object) -> None:
        shares.append(judging[-1] / figures["seconds"])
        print(f"epoch {figures['epoch']}: {judging[-1]:.3f} of {figures['seconds']:.2f} s", flush=True)

    with patch("trainables.judge.Fidelity", TimedFidelity):
        train(config, dataset, report, lambda history: None)
    return statistics.median(shares[1:])


if __name__ == "__main__":
    main()
