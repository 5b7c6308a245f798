"""Time the generation of waveforms against a plain PyTorch generator, and measure its memory.

    python tests/bench/generate.py [--count 10000 --length 8000 --latent 800]

Both have the same random weights: ours is what `search/generate.py` does, files included; the plain one
(`plain_wgan_gp.py`: direct convolutions, three pipelines one after another) computes batches and keeps nothing.

- `vs_reference`: its time over ours for the same number of waveforms, in turns, best of the rounds.
- `max_error`: largest difference of the normalised waveforms of both.
- `peak_rss_mb`, `waveforms_a_second`: of a process that writes `count` waveforms to a .npy.

The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from plain_wgan_gp import PlainGenerator
from train_step import machine, take_turns
from twins import under_plain_names
from untrained import write_untrained

from search.generate import write_waveforms
from trainables.config import ModelConfig
from trainables.metrics import z_score

SECONDS = 40
FEW, BATCH = 64, 16  # waveforms of a round; those that the plain generator makes together
RECORDS = 100


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    if options.result:
        write_waveforms(options.result, options.count, options.result / "many.npy")
        print(peak_mb())
        return
    print(machine("cpu"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        plain = make_both(Path(folder), options.length, options.latent)
        figures = compare(Path(folder), plain, options.latent, options.rounds)
        figures |= many(Path(folder), options.count)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time the generation of waveforms against a plain PyTorch generator, and measure its memory.",
        epilog="JSON, last line: vs_reference (plain / ours), larger is better; peak_rss_mb. The file's beginning "
        "explains them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--count", type=int, default=10_000, metavar="N", help="waveforms that memory is measured with")
    add("--length", type=int, default=8000, metavar="N", help=f"samples a waveform, which lasts {SECONDS} s")
    add("--latent", type=int, default=800, metavar="N", help="size of the latent vector")
    add("--rounds", type=int, default=3, metavar="N", help="take turns N times; the best time of each counts")
    add("--result", type=Path, help=argparse.SUPPRESS)  # what a process of its own measures
    return parser


def make_both(folder: Path, length: int, latent: int) -> PlainGenerator:
    """Export our generator of random weights; returns the plain one of the same."""
    records = {"earthquake": (torch.ones(RECORDS, 1), torch.ones(RECORDS, 3))}
    ours = write_untrained(folder, ModelConfig(latent_dim=latent), length, length / SECONDS, records)
    plain = PlainGenerator(length, latent).eval()
    state = {name: value for name, value in plain.state_dict().items() if not name.endswith("num_batches_tracked")}
    for name, value in under_plain_names(ours.state_dict(), state).items():
        state[name].copy_(value)
    return plain


def compare(folder: Path, plain: PlainGenerator, latent: int, rounds: int) -> dict[str, float]:
    """Time ours and the plain generator, and compare what they make of the same latent vectors."""
    contestants: dict[str, Callable[[], object]] = {
        "ours": partial(write_waveforms, folder, FEW, folder / "few.npy"),
        "reference": partial(plain_waveforms, plain, torch.randn(FEW, latent)),
    }
    seconds = take_turns(contestants, rounds, "cpu")
    drawn = np.random.default_rng(0).spawn(2)[0].standard_normal((BATCH, latent), np.float32)
    wave = plain_waveforms(plain, torch.from_numpy(drawn))
    error = np.abs(np.load(folder / "few.npy")[:BATCH] - z_score(wave).numpy()).max()
    return {"vs_reference": seconds["reference"] / seconds["ours"], "max_error": error}


@torch.no_grad()
def plain_waveforms(plain: PlainGenerator, latent_BZ: torch.Tensor) -> torch.Tensor:
    """The last batch of waveforms."""
    for latent in latent_BZ.split(BATCH):
        wave_BCT = plain(latent, torch.ones(len(latent), 1))
    return wave_BCT


def many(folder: Path, count: int) -> dict[str, float]:
    """Write many waveforms in a process of its own."""
    command = [sys.executable, __file__, f"--count={count}", f"--result={folder}"]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = {"peak_rss_mb": float(done.stdout), "waveforms_a_second": count / (time.perf_counter() - start)}
    print("{} waveforms: {peak_rss_mb:.0f} MB at most, {waveforms_a_second:.1f} a second".format(count, **figures))
    return figures


def peak_mb() -> float:
    """Peak memory of this process, which `getrusage` would inherit from the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
