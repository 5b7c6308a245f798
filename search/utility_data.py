"""What a detector is trained and tested on: real and generated earthquakes, and noise, of one length and one band.

Shapes: N window, C component (E, N, Z), T sample.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data_prep import process, stochastic
from data_prep.archive import COMPONENTS
from data_prep.dataset import Dataset, Part, open_dataset
from data_prep.files import sha256
from data_prep.noise import LABEL
from data_prep.split import groups
from search.export.load import load_best
from search.generate import write_waveforms
from search.pages.result import read_result
from trainables.detector import band_passed
from trainables.metrics import z_score

# The longest window, the widest band and the rate that carries it, of what a detector sees.
SECONDS, LOW_HZ, HIGH_HZ, FS_HZ = 30.0, 0.1, 40.0, 100.0
# What the demo's archive is known by.
DEMO_FILE = "demo.json"
GENERATED = 512
# Windows of noise made up for the demo, whose records are too short before P.
MADE_UP = 256
# Windows that there must be of each set.
LEAST = {"train": 8, "test": 2, "noise": 10, "held_noise": 10}
REMEDY = "give --noise DIR, a dataset prepared with --noise from recordings of several hours"


@dataclass(frozen=True)
class Recorded:
    """Windows (N, C, T), z-scored, and up to which frequency they hold anything."""

    wave: np.ndarray
    fs_hz: float
    high_hz: float

    @property
    def seconds(self) -> float:
        """Length of a window."""
        return self.wave.shape[2] / self.fs_hz


@dataclass(frozen=True)
class Examples:
    """Windows (N, C, T) of one length and band, z-scored: of the training and the test part, generated ones, noise.

    The held-out noise is of other stations or hours than the rest; `noise_source` says in words where it is from.
    """

    fs_hz: float
    band_hz: tuple[float, float]
    noise_source: str
    train: Tensor
    test: Tensor
    generated: Tensor
    noise: Tensor
    held_noise: Tensor

    @property
    def seconds(self) -> float:
        """Length of a window."""
        return self.train.shape[2] / self.fs_hz


def read_examples(result: Path, noise: Path | None, seed: int = 0) -> Examples:
    """Windows of the dataset that a search ran on, of its best generator, and of noise.

    Noise is that of the dataset `noise`, else of the search's own one, else, for the demo, made up.

    Raises:
        ValueError: no export, data that are not those of the search, no noise or too little, or too few earthquakes.
    """
    _, config = load_best(result)
    dataset = _searched(result, config["samples"], config["fs_hz"])
    letters = config["model"]["components"]
    train, test = (_recorded(dataset, part, "earthquake", letters) for part in (dataset.train, dataset.test))
    (quiet, held), source = _noise(dataset, noise, letters, seed)
    sets = {"train": train, "test": test, "noise": quiet, "held_noise": held}
    _check(sets, dataset)
    generated = Recorded(_generated(result, seed), dataset.fs_hz, train.high_hz)
    fs_hz, band_hz, waves = common(sets | {"generated": generated})
    return Examples(fs_hz=fs_hz, band_hz=band_hz, noise_source=source, **waves)


def common(sets: Mapping[str, Recorded]) -> tuple[float, tuple[float, float], dict[str, Tensor]]:
    """A rate, a band, and all windows at that rate, in that band, of one length and z-scored again.

    Windows that are too long keep their beginning.
    """
    fs_hz = min(FS_HZ, *(each.fs_hz for each in sets.values()))
    band_hz = LOW_HZ, min(HIGH_HZ, process.USABLE_SHARE * fs_hz / 2, *(each.high_hz for each in sets.values()))
    samples = int(min(SECONDS, *(each.seconds for each in sets.values())) * fs_hz + 1e-6)
    return fs_hz, band_hz, {name: _cut(each, fs_hz, band_hz, samples) for name, each in sets.items()}


def _cut(windows: Recorded, fs_hz: float, band_hz: tuple[float, float], samples: int) -> Tensor:
    count, components, length = windows.wave.shape
    flat = process.resample(windows.wave.reshape(-1, length).astype(np.float64), windows.fs_hz, fs_hz)
    # Cut first, so that what the filter does to the ends of a window is the same in all.
    wave = torch.from_numpy(flat[:, :samples].astype(np.float32)).view(count, components, samples)
    return z_score(band_passed(wave, fs_hz, *band_hz))


def _searched(result: Path, samples: int, fs_hz: float) -> Dataset:
    """The dataset that a search ran on, which must be what it was."""
    about = read_result(result)
    dataset = open_dataset(about.data)
    if sha256(about.data / "manifest.json") != about.fingerprint:
        raise ValueError(f"{about.data} is not the dataset that search {about.name} ran on; prepare that one again")
    if (dataset.samples, dataset.fs_hz) != (samples, fs_hz):
        found = f"{dataset.samples} samples at {dataset.fs_hz:g} Hz"
        raise ValueError(f"{about.data} has {found}, the generator {samples} at {fs_hz:g} Hz; export it again")
    return dataset


def _recorded(dataset: Dataset, part: Part, label: str, letters: str) -> Recorded:
    chosen = np.flatnonzero(part.rows["label"] == label)
    wave = np.asarray(part.waves[chosen])[:, [COMPONENTS.index(letter) for letter in letters]]
    return Recorded(wave, dataset.fs_hz, dataset.usable_band_hz[1])


def _generated(result: Path, seed: int) -> np.ndarray:
    with tempfile.TemporaryDirectory(prefix="utility-") as folder:
        out = Path(folder, "generated.npy")
        write_waveforms(result, GENERATED, out, seed=seed)
        return np.load(out)


def _noise(dataset: Dataset, other: Path | None, letters: str, seed: int) -> tuple[tuple[Recorded, Recorded], str]:
    """Noise to train on and noise held out; where it is from."""
    if other is None and not _has_noise(dataset) and (dataset.path.parent / "archive" / DEMO_FILE).is_file():
        return _made_up(len(letters), dataset, seed), "stationary and white, made up as the demo archive's is"
    source = dataset if other is None else open_dataset(other)
    if not _has_noise(source):
        raise ValueError(f"{source.path} has no windows of noise; {REMEDY}")
    return _held_out(source, letters), f"of {source.path.name}"


def _has_noise(dataset: Dataset) -> bool:
    return LABEL in dataset.manifest["counts"]["labels"]


def _held_out(dataset: Dataset, letters: str) -> tuple[Recorded, Recorded]:
    """All noise of a dataset in halves, whole hours of a station or whole earthquakes' records in one of them.

    A dataset's own test part would hold a tenth of it, which is too little to count false alarms by.
    """
    parts = [dataset.train, dataset.val, dataset.test]
    recorded = [_recorded(dataset, part, LABEL, letters) for part in parts]
    wave = np.concatenate([each.wave for each in recorded])
    rows = pd.concat([part.rows[part.rows["label"] == LABEL] for part in parts], ignore_index=True)
    held = groups(rows).rank(method="dense").to_numpy() % 2 == 0
    first, second = (Recorded(wave[some], dataset.fs_hz, recorded[0].high_hz) for some in (~held, held))
    return first, second


def _made_up(components: int, like: Dataset, seed: int) -> tuple[Recorded, Recorded]:
    """Noise as in the demo's archive, at the rate and of the length of its windows."""
    rng, length = np.random.default_rng(seed), round(like.samples / like.fs_hz * stochastic.FS_HZ)
    wave = np.stack([stochastic.background_noise(length, rng)[:components] for _ in range(2 * MADE_UP)])
    first, second = (Recorded(half, stochastic.FS_HZ, like.usable_band_hz[1]) for half in np.split(wave, 2))
    return first, second


def _check(sets: Mapping[str, Recorded], dataset: Dataset) -> None:
    for name, least in LEAST.items():
        if (found := len(sets[name].wave)) < least:
            kind, remedy = ("noise", REMEDY) if "noise" in name else ("earthquake", "prepare more records")
            raise ValueError(
                f"{found} windows of {kind} for {name} ({dataset.path}); expected at least {least}: {remedy}"
            )
