"""One picture of generated beside real waveforms, with their spectra and envelopes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from data_prep.files import written_whole
from trainables import metrics
from trainables.fidelity import Band

SHOWN = 4
SPACING = 12.0
COLOURS = {"real": "#1f4e79", "generated": "#c0504d"}
BANDS_SHOWN = (0.16, 0.84)


def draw_waveforms(
    real_NCT: Tensor, generated_NCT: Tensor, components: str, band: Band, title: str, file: Path
) -> None:
    """Write a PNG: a few records of each kind, and the median and 16-84 % band of spectrum and envelope of all."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(1, 2, width_ratios=[2, 1])
    records, features = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    axes = records.subplot_mosaic([[f"real{i}", f"generated{i}"] for i in range(SHOWN)])
    axes |= features.subplot_mosaic([["psd"], ["envelope"]])
    kinds = {"real": real_NCT, "generated": metrics.z_score(generated_NCT)}
    for kind, wave in kinds.items():
        for i in range(min(SHOWN, len(wave))):
            _draw_record(axes[f"{kind}{i}"], wave[i], components, band.fs_hz, COLOURS[kind])
        axes[f"{kind}0"].set_title(kind)
        for i in range(SHOWN - 1):
            axes[f"{kind}{i}"].tick_params(labelbottom=False)
        axes[f"{kind}{SHOWN - 1}"].set_xlabel("time (s)")
        frequency = np.geomspace(max(band.low_hz, band.fs_hz / wave.shape[-1]), band.high_hz, metrics.BANDS)
        _draw_band(axes["psd"], frequency, metrics.log_psd(wave, band.fs_hz, band.low_hz, band.high_hz), kind)
        envelope = metrics.log_envelope(wave, band.fs_hz)
        time = np.linspace(0, wave.shape[-1] / band.fs_hz, envelope.shape[-1])
        _draw_band(axes["envelope"], time, envelope, kind)
    axes["psd"].set(xscale="log", xlabel="frequency (Hz)", title="ln power spectrum, all components")
    axes["envelope"].set(xlabel="time (s)", title="ln envelope, all components")
    for name in ("psd", "envelope"):
        axes[name].legend(frameon=False)
    with written_whole(file) as aside:
        figure.savefig(aside, dpi=110)


def _draw_record(axis: Any, wave_CT: Tensor, components: str, fs_hz: float, colour: str) -> None:
    time = np.arange(wave_CT.shape[-1]) / fs_hz
    for position, (name, signal) in enumerate(zip(components, wave_CT, strict=True)):
        axis.plot(time, signal.numpy() - position * SPACING, colour, linewidth=0.6)
        axis.text(0.005, -position * SPACING + 1.5, name, transform=axis.get_yaxis_transform(), fontsize=8)
    axis.set(yticks=[], ylim=((0.3 - len(components)) * SPACING, 0.8 * SPACING), xlim=(0, time[-1]))


def _draw_band(axis: Any, x: np.ndarray, feature_NCF: Tensor, kind: str) -> None:
    low, middle, high = torch.quantile(
        feature_NCF.flatten(0, 1), torch.tensor([BANDS_SHOWN[0], 0.5, BANDS_SHOWN[1]]), dim=0
    ).numpy()
    axis.plot(x, middle, COLOURS[kind], label=kind)
    axis.fill_between(x, low, high, color=COLOURS[kind], alpha=0.2, linewidth=0)
