"""The figures of a dataset's page: what its windows look like together, and single ones of them.

To be made within `page.figure_style()`. Shapes: C component (E, N, Z), T sample.
"""

from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import ListedColormap
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from data_prep import page
from data_prep.dataset import COMPONENTS, Dataset
from data_prep.doubts import MODEL_KM, ita10_log_pga, pga_residual

# Columns that bring a z-scored window back into its units: (mean, standard deviation) a component.
SCALES = [f"{name}_{c.lower()}_cm_s2" for c in COMPONENTS for name in ("mean", "std")]
_LOOK = {"train": ("#4c78a8", "o"), "val": ("#e69f00", "^"), "test": ("#b3364a", "s")}
_HUES = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.9, 256)))  # no pale yellow on white
_HALO = [withStroke(linewidth=3, foreground="white")]


def pictures(quakes: pd.DataFrame, band_hz: tuple[float, float]) -> str:
    """The section of the page with what the windows look like together."""
    residual = pga_residual(quakes)
    typical = f" All windows together: {10 ** residual.median():.2g} times that." if len(residual) else ""
    figures = [
        _picture(
            quakes, ["magnitude", "distance_km"], _draw_magnitude, "Magnitude against epicentral distance, by part."
        ),
        _picture(
            quakes[quakes["pga_cm_s2"] > 0],
            ["pga_cm_s2", "magnitude", "distance_km"],
            _draw_pga,
            "Peak ground acceleration (PGA) against epicentral distance. Lines: what the model of Bindi et al. 2011 "
            f"expects on rock; soft ground shakes about twice as much.{typical}",
        ),
        _picture(
            quakes,
            ["event_latitude", "event_longitude"],
            _draw_map,
            "Epicentres, the larger the stronger, and stations.",
            2.8 if quakes["event_longitude"].max() - quakes["event_longitude"].min() > 90 else 3.5,
        ),
        _picture(
            quakes,
            ["usable_low_hz", "usable_high_hz"],
            lambda axes, known: _draw_bands(axes, known, band_hz),
            "Share of windows that hold true motion at a frequency. Shaded: the band that a model is judged by, "
            "common to at least 95 % of the windows.",
        ),
        _picture(quakes, ["snr"], _draw_snr, "How far the shaking stands above the noise before it, in amplitude."),
    ]
    return "<h2>What they look like together</h2><div class='grid'>" + "\n".join(figures) + "</div>"


def _picture(
    rows: pd.DataFrame,
    columns: list[str],
    draw: Callable[[Axes, pd.DataFrame], None],
    caption: str,
    height: float = 3.5,
) -> str:
    """Figure of the rows that have all `columns`, or words where none has; `height` in inches."""
    known = rows.dropna(subset=columns)
    if known.empty:
        return f"<figure><p class='quiet'>Not known for any window.</p><figcaption>{caption}</figcaption></figure>"
    figure, axes = page.new_figure(height)
    draw(axes, known)
    missing = f" Not known for {len(rows) - len(known):,} windows." if len(known) < len(rows) else ""
    return page.image(figure, caption + missing)


def _dots(axes: Axes, x: pd.Series, y: pd.Series, **look: Any) -> PathCollection:
    """Points, drawn as an image: thousands of them as lines would make a page slow."""
    return axes.scatter(x, y, alpha=0.7, linewidths=0, rasterized=True, **look)


def _size(rows: pd.DataFrame) -> float:
    """Area of a point, so that thousands do not hide each other."""
    return float(np.clip(4000 / len(rows), 3, 22))


def _draw_magnitude(axes: Axes, known: pd.DataFrame) -> None:
    for part, (colour, marker) in _LOOK.items():
        held = known[known["part"] == part]
        x, size = held["distance_km"].clip(lower=1), _size(known)
        _dots(axes, x, held["magnitude"], s=size, c=colour, marker=marker, label=part)
    axes.set(xscale="log", xlabel="epicentral distance (km)", ylabel="magnitude")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=3, markerscale=5 / _size(known) ** 0.5)


def _draw_pga(axes: Axes, known: pd.DataFrame) -> None:
    x, size = known["distance_km"].clip(lower=1), _size(known)
    points = _dots(axes, x, known["pga_cm_s2"], s=size, c=known["magnitude"], cmap=_HUES)
    distance_km = np.geomspace(1, MODEL_KM, 60)
    for magnitude in (4.0, 5.0, 6.0):
        line = 10 ** ita10_log_pga(magnitude, distance_km)
        colour = points.to_rgba(np.array([magnitude]))[0]
        axes.plot(distance_km, line, color=colour, linewidth=1.4, path_effects=_HALO)
        axes.text(1.05 * MODEL_KM, line[-1], f"M {magnitude:g}", fontsize=8, va="center", path_effects=_HALO)
    axes.set(xscale="log", yscale="log", xlabel="epicentral distance (km)", ylabel="PGA (cm/s²)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.figure.colorbar(points, ax=axes, label="magnitude", pad=0.02)


def _draw_map(axes: Axes, known: pd.DataFrame) -> None:
    stations = known.dropna(subset=["station_latitude", "station_longitude"]).drop_duplicates("place")
    events = known.drop_duplicates("event_id")
    size = 6 * 2 ** (events["magnitude"].fillna(3).clip(upper=7) - 3)
    _dots(axes, events["event_longitude"], events["event_latitude"], s=size, c="#d98a92", label="epicentre")
    x, y = stations["station_longitude"], stations["station_latitude"]
    _dots(axes, x, y, s=9, c="#22303c", marker="^", label="station")
    middle = np.radians(np.mean([events["event_latitude"].min(), events["event_latitude"].max()]))
    axes.set_aspect(1 / max(np.cos(middle), 0.2), adjustable="datalim")
    axes.set(xlabel="longitude (°)", ylabel="latitude (°)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=2)


def _draw_bands(axes: Axes, known: pd.DataFrame, band_hz: tuple[float, float]) -> None:
    frequency = np.geomspace(0.01, 1.6 * known["usable_high_hz"].max(), 300)
    low, high = np.sort(known["usable_low_hz"]), np.sort(known["usable_high_hz"])
    inside = np.searchsorted(low, frequency, "right") - np.searchsorted(high, frequency, "left")
    axes.axvspan(max(band_hz[0], 0.01), band_hz[1], color="#4c78a8", alpha=0.15, linewidth=0)
    axes.plot(frequency, 100 * inside / len(known), color="#1f4e79")
    axes.set(xscale="log", xlabel="frequency (Hz)", ylabel="windows (%)", ylim=(0, 104), xlim=frequency[[0, -1]])
    axes.xaxis.set_major_formatter("{x:g}")


def _draw_snr(axes: Axes, known: pd.DataFrame) -> None:
    snr = known["snr"].clip(lower=0.1)
    axes.hist(snr, bins=list(np.geomspace(snr.min() * 0.99, snr.max() * 1.01, 31)), color="#4c78a8")
    axes.set(xscale="log", xlabel="signal-to-noise ratio", ylabel="windows")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter("{x:g}")


def picture_of_window(dataset: Dataset, row: pd.Series) -> str:
    """A window in its units, or as stored where those are not known, with its onset and its padding marked."""
    scale = row[SCALES].to_numpy(float).reshape(len(COMPONENTS), 2)
    known = np.isfinite(scale).all()
    mean, std = scale.T[:, :, None] if known else (0.0, 1.0)
    wave_CT = np.load(dataset.path / f"{row['part']}.npy", mmap_mode="r")[row["position"]] * std + mean
    figure, axes = page.new_figure(3.2)
    _draw_window(axes, wave_CT, dataset.fs_hz, "cm/s²" if known else "z-score")
    axes.axvline(row["onset_s"], color="#b3364a", linestyle="--", linewidth=0.9)
    axes.axvspan(row["valid_s"], dataset.samples / dataset.fs_hz, color="#e6eaee", linewidth=0)
    return page.image(figure, _caption(row))


def _caption(row: pd.Series) -> str:
    event = row["event_id"] or "no event"
    size, distance = page.text(row["magnitude"]), page.text(row["distance_km"])
    what = f"M {size}, {distance} km" if row["label"] != "noise" else "noise"
    return (
        escape(f"Station {row['place']}, {event}, {what}, {row['part']}")
        + f"<br><small>{escape(row['record'])}</small>"
    )


def _draw_window(axes: Axes, wave_CT: np.ndarray, fs_hz: float, unit: str) -> None:
    """The components one above the other, each with its own zero and the same round value up and down."""
    peak = float(np.abs(np.nan_to_num(wave_CT)).max()) or 1.0
    scale = 10.0 ** np.floor(np.log10(peak))
    mark = scale * max(step for step in (1, 2, 5) if step * scale <= peak * 1.001)
    time, zeros = np.arange(wave_CT.shape[1]) / fs_hz, -2.3 * peak * np.arange(len(wave_CT))
    for name, wave, zero in zip(COMPONENTS, wave_CT, zeros, strict=True):
        axes.plot(time, wave + zero, color="#1f4e79", linewidth=0.6, rasterized=True)
        axes.text(0.99, zero + 0.45 * peak, name, transform=axes.get_yaxis_transform(), ha="right", path_effects=_HALO)
    ticks = (zeros[:, None] + [-mark, 0, mark]).ravel()
    axes.set_yticks(ticks, [f"{value:g}" for _ in zeros for value in (-mark, 0, mark)], fontsize=8)
    axes.set(xlabel="time (s)", ylabel=unit, xlim=(0, wave_CT.shape[1] / fs_hz))
