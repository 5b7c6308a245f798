"""The preparation of an archive as a seismologist would write it: a loop over the records with pyasdf and obspy.

`loop` makes a window of every record it is given; `whole` does beside that what `prepare()` does: it looks at all
sampling rates before it chooses the low-pass, checks the samples, gives a reason for every record left out, looks for
near-duplicates, splits by event and writes checksums of what came in and went out.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from made_up import FS_HZ, SLOW_FS_HZ, Archive
from scipy import fft

WINDOW, LEAD, SECOND = 8000, 1000, 200  # samples at FS_HZ
USABLE_SHARE = 0.8  # of the Nyquist frequency
PARTS = {"train": 0.8, "val": 0.1, "test": 0.1}
Picker = Callable[[Any], int]


class RefusedError(Exception):
    """A record that makes no window, and why."""


def loop(archive: Archive, out: Path, pick: Picker) -> None:
    """Windows and their rows, of sound records sampled at two rates known beforehand."""
    metadata, pass_hz = _metadata(archive.flatfile), USABLE_SHARE * SLOW_FS_HZ / 2
    windows, rows = [], []
    for key, stream, header in _records(archive.files):
        stream.sort(["channel"])
        if len(stream) != 3 or not all(np.isfinite(trace.data).all() and np.ptp(trace.data) > 0 for trace in stream):
            continue
        stream.detrend("linear")
        try:
            wave, row = _window(stream, pick, pass_hz)
        except RefusedError:
            continue
        if key in metadata:
            windows.append(wave)
            rows.append(metadata[key] | row | _usable_band(header))
    np.save(out.with_suffix(".npy"), np.stack(windows))
    pd.DataFrame(rows).to_parquet(out.with_suffix(".parquet"))


def whole(archive: Archive, out: Path, pick: Picker) -> None:
    """A dataset in the folder `out`, with all that `prepare()` does to make one."""
    out.mkdir(exist_ok=True)
    metadata, pass_hz = _metadata(archive.flatfile), _common_pass_hz(archive.files)
    windows, rows, keys, refused = [], [], [], dict.fromkeys(metadata, "in none of the archives")
    for key, stream, header in _records(archive.files):
        refused.pop(key, None)
        try:
            if key not in metadata:
                raise RefusedError("no row of the flatfile describes it")
            _check(stream, header)
            wave, row = _window(stream, pick, pass_hz)
        except RefusedError as error:
            refused[key] = str(error)
            continue
        windows.append(wave)
        rows.append(metadata[key] | row | _usable_band(header))
        keys.append(key)
    table, waves = pd.DataFrame(rows), np.stack(windows)
    same = _near_duplicates(waves, table["EVENT_ID"])
    refused |= {keys[number]: "near-duplicate" for number in np.flatnonzero(same)}
    _write(out, waves[~same], table[~same], refused, [*archive.files, archive.flatfile])


def pick_sta_lta(stream: Any) -> int:
    """Onset, in samples, by a trigger on the vertical component."""
    from obspy.signal.trigger import recursive_sta_lta, trigger_onset

    vertical = stream[2].copy().filter("bandpass", freqmin=1, freqmax=20)
    triggers = trigger_onset(recursive_sta_lta(vertical.data, SECOND // 2, 5 * SECOND), 3, 1)
    return int(triggers[0][0]) if len(triggers) else LEAD


def pick_ar_aic(stream: Any) -> int:
    """Onset, in samples, by obspy's AR-AIC picker with the settings of its tutorial."""
    from obspy.signal.trigger import ar_pick

    vertical, north, east = (trace.data for trace in stream[::-1])
    return round(ar_pick(vertical, north, east, FS_HZ, 1, 20, 1, 0.1, 4, 1, 2, 8, 0.1, 0.2, s_pick=False)[0] * FS_HZ)


def _metadata(flatfile: Path) -> dict[tuple[str, str], dict[Any, Any]]:
    """Rows of the flatfile to be used, by event and station code."""
    table = pd.read_csv(flatfile, sep=";").drop_duplicates(["EVENT_ID", "STATION_CODE"])
    table = table[(table["nation"] == "IT") & (table["Mw"] > 4) & (table["EVENT_DEPTH_KM"] < 50)]
    event = table["EVENT_ID"].str.lower().str.replace("-", "_")
    return dict(zip(zip(event, table["STATION_CODE"], strict=True), table.to_dict("records"), strict=True))


def _common_pass_hz(files: Sequence[Path]) -> float:
    """Corner of the low-pass that leaves all windows what the most slowly sampled trace carries."""
    from pyasdf import ASDFDataSet

    rates = set()
    for path in files:
        with ASDFDataSet(str(path), mode="r", mpi=False) as dataset:
            for station in dataset.waveforms:
                rates |= {trace["sampling_rate"] for trace in station.get_waveform_attributes().values()}
    return USABLE_SHARE * min(rates) / 2


def _records(files: Sequence[Path]) -> Iterator[tuple[tuple[str, str], Any, list[dict[str, str]]]]:
    """Event and station code, three components and their headers of each record."""
    from pyasdf import ASDFDataSet

    for path in files:
        with ASDFDataSet(str(path), mode="r", mpi=False) as dataset:
            for station in dataset.waveforms:
                for key, stream in _streams(station).items():
                    headers = dataset.auxiliary_data.Headers["{network}_{station}".format(**stream[0].stats)]
                    yield key, stream, [headers[trace.stats.asdf.tag].parameters for trace in stream]


def _streams(station: Any) -> dict[tuple[str, str], Any]:
    """The three components of each event at one station, by event and station code."""
    streams: dict[tuple[str, str], Any] = {}
    for tag in station.get_waveform_tags():  # such as hge_emsc_20090406_0000075_acc_mp
        key = tag.split("_", 1)[1].removesuffix("_acc_mp"), station._station_name.split(".")[1]
        streams[key] = streams[key] + station[tag] if key in streams else station[tag]
    return streams


def _check(stream: Any, header: list[dict[str, str]]) -> None:
    """Detrend a stream that can be believed, refuse any other; the limits are those of `data_prep.checks`."""
    stream.sort(["channel"])
    if len(stream) != 3 or len({(trace.stats.sampling_rate, trace.stats.npts) for trace in stream}) > 1:
        raise RefusedError("a component is missing, or differs in rate or length")
    starts, fs_hz = [trace.stats.starttime for trace in stream], stream[0].stats.sampling_rate
    if max(starts) - min(starts) > 0.5 / fs_hz:
        raise RefusedError("the components start apart")
    if fs_hz < FS_HZ / 4:
        raise RefusedError("sampled slowly")
    if any(one["units"] != "cm/s^2" for one in header):
        raise RefusedError("unit")
    wave = np.stack([trace.data for trace in stream]).astype(float)
    _check_samples(wave, fs_hz)
    stream.detrend("linear")
    _check_detrended(np.stack([trace.data for trace in stream]), np.abs(wave).max(axis=1), fs_hz)


def _check_samples(wave: np.ndarray, fs_hz: float) -> None:
    if wave.shape[1] < 10 * fs_hz:
        raise RefusedError("too short")
    if not np.isfinite(wave).all():
        raise RefusedError("not finite")
    if np.abs(wave).max() > 1e5:
        raise RefusedError("amplitude")
    low, high = wave.min(axis=1), wave.max(axis=1)
    if (low == high).any():
        raise RefusedError("constant")
    for samples, least, most in zip(wave, low, high, strict=True):
        if max(np.diff(_runs(samples == extreme)).max() for extreme in (least, most)) >= 5:
            raise RefusedError("clipped")
        bend, limit = np.abs(np.diff(samples, 2)), 5e-7 * (most - least)
        drawn = 0.0
        for begin, end in _runs(bend < limit):
            if end - begin >= 0.3 * fs_hz and begin > 0 and end < len(bend):
                near = round(0.1 * fs_hz)
                corner = min(bend[max(0, begin - near) : begin].max(), bend[end : end + near].max())
                sloped = abs(samples[end] - samples[begin + 1]) > 10 * limit
                drawn += (end - begin) / fs_hz if corner > (20 * limit if sloped else 0.01 * (most - least)) else 0
        if drawn >= 1:
            raise RefusedError("straight line")


def _runs(mask: np.ndarray) -> np.ndarray:
    """Begin and end (exclusive) of each run of true values."""
    return np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))).reshape(-1, 2)


def _check_detrended(wave: np.ndarray, largest: np.ndarray, fs_hz: float) -> None:
    size = np.abs(wave)
    peak = size.max(axis=1)
    if (peak <= 1e-6 * largest).any() or (peak < 1e-3 * peak.max()).any():
        raise RefusedError("dead component")
    for component, at in enumerate(size.argmax(axis=1)):
        around = size[:, max(0, at - round(fs_hz)) : at + round(fs_hz)].max(axis=1)
        if around[component] > 6 * np.delete(around, component).max():
            raise RefusedError("glitch")


def _window(stream: Any, pick: Picker, pass_hz: float) -> tuple[np.ndarray, dict[str, float]]:
    """Window of one detrended record and its own columns."""
    if stream[0].stats.sampling_rate != FS_HZ:
        stream.resample(FS_HZ)
    stream.filter("lowpass", freq=pass_hz, corners=4, zerophase=True)
    onset = pick(stream)
    wave = np.stack([trace.data for trace in stream])
    power = (wave**2).sum(axis=0)
    snr = np.sqrt(power[onset : onset + 10 * SECOND].mean() / power[:onset].mean())
    start = max(0, onset - LEAD)
    part = wave[:, start : start + WINDOW]
    if part.shape[1] < WINDOW:
        ramp = np.ones(part.shape[1])
        ramp[-SECOND:] = np.cos(np.linspace(0, np.pi / 2, SECOND)) ** 2
        part = np.pad(part * ramp, ((0, 0), (0, WINDOW - part.shape[1])))
    energy_kept = power[start : start + WINDOW].sum() / power.sum()
    if snr < 3 or energy_kept < 0.85:
        raise RefusedError(f"signal-to-noise ratio {snr:.3g}, {energy_kept:.0%} of the energy inside the window")
    mean, std, peak = part.mean(axis=1, keepdims=True), part.std(axis=1, keepdims=True), np.abs(part).max(axis=1)
    row = {"onset_s": onset / FS_HZ, "snr": snr, "energy_kept": energy_kept, "pga_cm_s2": np.sqrt(peak[0] * peak[1])}
    row |= {f"std_{name}_cm_s2": value for name, value in zip("enz", std.ravel(), strict=True)}
    return ((part - mean) / std).astype(np.float32), row


def _usable_band(header: list[dict[str, str]]) -> dict[str, float]:
    low, high = ([float(one[f"{name}_cut_frequency_hz"]) for one in header] for name in ("low", "high"))
    return {"usable_low_hz": max(low), "usable_high_hz": min(high)}


def _near_duplicates(waves: np.ndarray, event: pd.Series) -> np.ndarray:
    """Which windows correlate, at some lag, at 0.99 or more with an earlier one of their event."""
    same = np.zeros(len(waves), bool)
    for positions in event.groupby(event).indices.values():
        spectra = fft.rfft(waves[positions], axis=-1)
        for number, one in enumerate(spectra[:-1]):
            cross = fft.irfft((spectra[number + 1 :] * one.conj()).sum(axis=1), WINDOW)
            same[positions[number + 1 :]] |= cross.max(axis=1) >= 0.99 * waves[0].size  # all have unit variance
    return same


def _write(out: Path, waves: np.ndarray, table: pd.DataFrame, refused: dict[Any, str], inputs: list[Path]) -> None:
    """Arrays and tables of the three parts, with no event in two; the records left out; checksums."""
    events = np.random.default_rng(0).permutation(table["EVENT_ID"].unique())
    bounds = np.round(np.cumsum(list(PARTS.values()))[:-1] * len(events)).astype(int)
    for name, chosen in zip(PARTS, np.split(events, bounds), strict=True):
        inside = table["EVENT_ID"].isin(chosen).to_numpy()
        np.save(out / f"{name}.npy", waves[inside])
        table[inside].to_parquet(out / f"{name}.parquet")
    pd.Series(refused, dtype=str).to_csv(out / "rejected.csv")
    written = sorted(path for path in out.iterdir() if path.suffix != ".json")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in [*inputs, *written]}
    (out / "manifest.json").write_text(json.dumps(sums, indent=2))
