"""A page about a prepared dataset: how its windows were chosen, what they are, and what to doubt about them.

`write_report(folder)` writes `folder/report.html`, one file without anything from the network; the same dataset gives
the same bytes.
"""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep import page
from data_prep.dataset import COMPONENTS, PARTS, REPORT, Dataset, open_dataset
from data_prep.doubts import Doubt, count_distinct, count_shared, find_doubts
from data_prep.files import write_text
from data_prep.page import Html, Number
from data_prep.report_figures import SCALES, picture_of_window, pictures
from data_prep.split import groups

EXAMPLES = 8

_CHUNK = 32
_MOMENTS = ["mean", "std", "smallest value", "largest value", "skewness", "kurtosis"]
_WORDS = ["record", "event_id", "network", "station", "magnitude_type", "label"]
_NUMBERS = [
    *("magnitude", "depth_km", "distance_km", "event_latitude", "event_longitude", "station_latitude"),
    *("station_longitude", "pga_cm_s2", "snr", "energy_kept", "usable_low_hz", "usable_high_hz", "n_valid"),
    *("onset_s", "source_fs_hz", *SCALES),
]
_CHECKS = "samples pass all checks"
# Which reasons belong to which step, in the order asked; every other reason is a check of the samples.
_STEPS = {
    "read, and matched with the flatfile": ("no data", "incomplete", "not acceleration", "no flatfile row"),
    "best processing of each record": ("duplicate",),
    "inside the country": ("country",),
    "magnitude large enough": ("magnitude",),
    "shallow enough": ("depth",),
    _CHECKS: (),
    "no copy of another window": ("near-duplicate",),
}
_BINS = {"magnitude": (4.0, 5.0, 6.0), "distance_km": (20.0, 50.0, 100.0)}
_SETTINGS = {
    "country": "country of the earthquake",
    "min_magnitude": "magnitude above",
    "max_depth_km": "depth less than, km",
    "magnitude": "magnitude taken from",
    "window": "window cut from",
    "min_snr": "signal-to-noise ratio at least",
    "min_energy_kept": "share of energy inside at least",
    "noise": "with noise",
    "block_km": "side of a square that is one place, km",
    "seed": "seed of the split",
    "fs_hz": "samples per second",
    "window_s": "length, s",
}
_QUANTITIES = {
    "magnitude": (
        "magnitude",
        "size of the earthquake: moment magnitude Mw, or local magnitude Ml where that is blank",
    ),
    "depth_km": ("depth, km", "of the earthquake's focus"),
    "distance_km": ("distance, km", "from the station to the epicentre, the point above the focus"),
    "pga_cm_s2": ("PGA, cm/s²", "peak ground acceleration: geometric mean of the two horizontal peaks"),
    "snr": ("signal-to-noise ratio", "amplitude of the shaking over that of the noise before it"),
    "energy_kept": ("energy kept", "share of the record's shaking that lies inside the window"),
    "usable_low_hz": ("usable from, Hz", "below it filters took the motion away; 0 where no corner is known"),
    "usable_high_hz": ("usable to, Hz", "above it filters or the sampling rate took the motion away"),
    "valid_s": ("recorded, s", "length before the padding with zeros"),
    "onset_s": ("onset, s", "arrival of the first (P) wave, from the window's start"),
}
_SPLIT = {
    "groups": "groups, those of noise included",
    "largest_share": "windows in the largest group",
    "stations_shared": "stations in more than one part",
    "near_share": "windows of val and test near an epicentre of train",
}


def write_report(folder: Path) -> Path:
    """Write `report.html` into a prepared dataset's folder; returns its path.

    Raises:
        ValueError: no prepared dataset there, or a damaged one.
    """
    dataset = open_dataset(folder, verify=False)
    rows = _all_rows(dataset)
    rejected = pd.read_csv(folder / "rejected.csv", dtype=str, keep_default_na=False)
    quakes, signals = rows[rows["label"] != "noise"], signal_statistics(dataset)
    warnings = dataset.manifest["split"]["warnings"]
    doubts = sorted(find_doubts(rows, signals, warnings), key=lambda doubt: not doubt.serious)
    with page.figure_style():
        body = [
            _head(dataset, rows, rejected, doubts),
            _selection(rejected, rows["label"]),
            _parts(dataset, rows),
            pictures(quakes, dataset.usable_band_hz),
            _statistics(quakes, rows, signals),
            _examples(dataset, rows),
            _doubts(doubts),
        ]
    path = folder / REPORT
    write_text(path, page.render("Strong-motion windows", body))
    return path


def signal_statistics(dataset: Dataset) -> pd.DataFrame:
    """Moments of each stored signal (three to a window), in the order of the parts' rows; read in chunks."""
    found = [_moments(wave) for name in PARTS for wave in _chunks(dataset, name)]
    return pd.DataFrame(np.concatenate(found), columns=_MOMENTS)


def _all_rows(dataset: Dataset) -> pd.DataFrame:
    """Rows of all parts with every column this page asks for, blank where a dataset has none."""
    tables = []
    for name in PARTS:
        rows = getattr(dataset, name).rows
        words = rows.reindex(columns=_WORDS).astype(object).fillna("").astype(str)
        numbers = rows.reindex(columns=_NUMBERS).astype(float)
        tables.append(words.join(numbers).assign(part=name, position=np.arange(len(rows))))
    table = pd.concat(tables, ignore_index=True)
    place = (table["network"] + "." + table["station"]).where(table["station"] != "", "")
    return table.assign(place=place, valid_s=table["n_valid"] / dataset.fs_hz, samples=dataset.samples)


def _chunks(dataset: Dataset, name: str) -> Iterator[np.ndarray]:
    for start in range(0, len(getattr(dataset, name).rows), _CHUNK):
        # Mapped anew each time: the pages read through a map that stays open would count as this process's memory.
        yield np.array(np.load(dataset.path / f"{name}.npy", mmap_mode="r")[start : start + _CHUNK], np.float64)


def _moments(wave_NCT: np.ndarray) -> np.ndarray:
    wave = wave_NCT.reshape(-1, wave_NCT.shape[-1])
    mean, std = wave.mean(axis=1), wave.std(axis=1)
    low, high = wave.min(axis=1), wave.max(axis=1)
    wave = (wave - mean[:, None]) / np.where(std > 0, std, np.nan)[:, None]
    square = wave**2
    return np.stack([mean, std, low, high, (square * wave).mean(axis=1), (square**2).mean(axis=1)], axis=1)


def _head(dataset: Dataset, rows: pd.DataFrame, rejected: pd.DataFrame, doubts: Sequence[Doubt]) -> str:
    quakes, low_pass = rows[rows["label"] != "noise"], dataset.manifest["low_pass_hz"]
    length_s, (low_hz, high_hz) = dataset.samples / dataset.fs_hz, dataset.usable_band_hz
    facts = {
        "earthquake windows": len(quakes),
        "noise windows": len(rows) - len(quakes),
        "records looked at": len(quakes) + int((rejected["label"] != "noise").sum()),
        "events": count_distinct(quakes["event_id"]),
        "stations": count_distinct(quakes["place"]),
        "length": f"{length_s:g} s",
        "sampling": f"{dataset.fs_hz:g} Hz",
        "usable band": f"{low_hz:g}–{high_hz:g} Hz",
        "low-pass on all": "none" if low_pass is None else f"{low_pass:g} Hz",
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{page.text(value)}</dd></div>" for name, value in facts.items())
    serious = sum(doubt.serious for doubt in doubts)
    return f"""<h1>Strong-motion windows</h1>
<p>A window is {length_s:g} s of the ground's acceleration, as one station recorded it, in three directions: east (E),
north (N) and up (Z). Each direction is z-scored: less its mean and over its standard deviation, which are kept
beside it, so that the motion in cm/s² can be had back. These windows teach a model to generate others.</p>
<dl>{cells}</dl>
<p><a href="#doubts">{serious} serious and {len(doubts) - serious} lesser doubts</a> are listed at the end.</p>
{_provenance(dataset)}"""


def _provenance(dataset: Dataset) -> str:
    settings, inputs = dataset.manifest["settings"], dataset.manifest["inputs"]
    chosen = [(_SETTINGS.get(name, name), Html(page.text(value))) for name, value in settings.items()]
    files = [(entry["name"], entry["bytes"] / 1e6, entry["sha256"][:12]) for entry in inputs]
    return (
        "<h2>Made from</h2><div class='grid'>"
        + f"<div>{page.table(['setting', 'value'], chosen)}</div>"
        + f"<div>{page.table(['file', 'MB', 'SHA-256 begins'], files)}</div></div>"
    )


def _selection(rejected: pd.DataFrame, labels: pd.Series) -> str:
    step_of = {kind: step for step, kinds in _STEPS.items() for kind in kinds}
    steps = rejected["kind"].map(lambda kind: step_of.get(kind, _CHECKS))
    rejected = rejected.assign(step=steps.mask(rejected["label"] == "noise", "noise"))
    left_out = rejected["step"].value_counts()
    total = left = int((labels != "noise").sum() + (rejected["label"] != "noise").sum())
    body = [["records of earthquakes in archives and flatfile", "", total, page.bar(1.0)]]
    for step in _STEPS:
        left -= int(left_out.get(step, 0))
        body.append([step, int(left_out.get(step, 0)), left, page.bar(left / max(total, 1))])
    windows, out = (labels == "noise").sum(), left_out.get("noise", 0)
    noise = f"<p>Noise: {windows:,} windows, and {out:,} left out.</p>" if windows or out else ""
    return f"""<h2>How they were chosen</h2>
<p>Each record is left out at the first step that it does not pass. What remains at the end are the windows.</p>
{page.table(["step", "left out", "remain", ""], body)}
{noise}
<h3>Left out, by reason</h3>
{_reasons(rejected) if len(rejected) else "<p>Nothing was left out.</p>"}"""


def _reasons(rejected: pd.DataFrame) -> str:
    groups = rejected.groupby(["kind", "step"])[["reason", "record"]].agg(["first", "size"]).reset_index()
    lines = groups.sort_values(("reason", "size"), ascending=False, kind="stable").to_numpy().tolist()
    body = [
        (page.noted(kind, step), count, page.noted(reason, record)) for kind, step, reason, count, record, _ in lines
    ]
    return page.table(["reason, at the step", "left out", "for example"], body)


def _parts(dataset: Dataset, rows: pd.DataFrame) -> str:
    quakes = rows[rows["label"] != "noise"]
    split, block_km = dataset.manifest["split"], dataset.manifest["settings"]["block_km"]
    apart: dict[str, object] = {"events in more than one part": count_shared(quakes, "event_id")}
    for name, words in _SPLIT.items():
        apart[words] = Number(f"{split[name]:.0%}") if name.endswith("_share") else split[name]
    group = groups(quakes, block_km)
    columns = [_part_counts(rows[(rows["part"] == part) | (part == "all")], rows, group) for part in (*PARTS, "all")]
    body = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return f"""<h2>Parts</h2>
<p>Windows of <b>train</b> teach, those of <b>val</b> choose between models, and <b>test</b> is opened once, at the end.
Earthquakes of one place are a group and stay together, so that no part knows another's.</p>
{page.table(["", *PARTS, "all"], body)}
<div class="grid"><div><h3>By magnitude</h3>{_strata(quakes, "magnitude", "M")}</div>
<div><h3>By distance</h3>{_strata(quakes, "distance_km", "km")}</div>
<div><h3>Between the parts</h3>{page.table(["", "value"], apart.items())}</div></div>"""


def _part_counts(held: pd.DataFrame, rows: pd.DataFrame, group: pd.Series) -> dict[str, object]:
    quakes, noise = held[held["label"] != "noise"], (rows["label"] == "noise").sum()
    return {
        "earthquake windows": page.share(len(quakes), len(rows) - noise),
        "noise windows": page.share(len(held) - len(quakes), noise),
        "events": count_distinct(quakes["event_id"]),
        "stations": count_distinct(quakes["place"]),
        "groups of events and places": group[quakes.index].nunique(),
    }


def _strata(quakes: pd.DataFrame, column: str, unit: str) -> str:
    edges = _BINS[column]
    names = [f"below {edges[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(edges))]
    names += [f"{edges[-1]:g} and more", "not known"]
    bins = np.where(quakes[column].isna(), len(edges) + 1, np.digitize(quakes[column], edges))
    table = pd.crosstab(bins, quakes["part"]).reindex(index=range(len(names)), columns=PARTS, fill_value=0)
    sums = table.sum()
    body = [(name, *(page.share(table[part].iloc[i], sums[part]) for part in PARTS)) for i, name in enumerate(names)]
    return page.table([unit, *PARTS], body)


def _statistics(quakes: pd.DataFrame, rows: pd.DataFrame, signals: pd.DataFrame) -> str:
    head = ["median", "mean", "std", "min", "max", "known"]
    body = [(page.noted(*_QUANTITIES[name]), *_summary(quakes[name])) for name in _QUANTITIES]
    label = rows["label"].to_numpy().repeat(len(COMPONENTS))
    tables = [
        f"<h3>Signals of label “{escape(name)}”, z-scored</h3>"
        + page.table(
            ["of each signal", *head], [(m, *_summary(signals.loc[label == name, m].round(6))) for m in _MOMENTS]
        )
        for name in sorted(set(label))
    ]
    return f"""<h2>Statistics</h2>
<h3>Earthquake windows</h3>
{page.table(["", *head], body)}
{"".join(tables)}
<p class="quiet">Three signals to a window. Skewness is 0 where a signal swings as far up as down. Kurtosis is 3 for
steady Gaussian noise and grows as the shaking gathers in a short part of the window.</p>"""


def _summary(values: pd.Series) -> tuple[float, float, float, float, float, int]:
    low, high = float(values.min()), float(values.max())
    return float(values.median()), float(values.mean()), float(values.std(ddof=0)), low, high, int(values.count())


def choose_examples(rows: pd.DataFrame, count: int = EXAMPLES) -> pd.DataFrame:
    """Windows from the smallest to the largest magnitude, of different events where there are enough."""
    ordered = rows[rows["label"] != "noise"].sort_values(["magnitude", "record"], kind="stable")
    known = ordered.dropna(subset="magnitude")
    pools = [known.drop_duplicates("event_id"), known, ordered]
    pool = next((pool for pool in pools if len(pool) >= count), ordered)
    return pool.iloc[np.unique(np.linspace(0, len(pool) - 1, count).round().astype(int))] if len(pool) else pool


def _examples(dataset: Dataset, rows: pd.DataFrame) -> str:
    chosen = pd.concat([choose_examples(rows), rows[rows["label"] == "noise"].head(1)])
    figures = [picture_of_window(dataset, row) for _, row in chosen.iterrows()]
    return f"""<h2>Examples</h2>
<p>Earthquakes from the smallest to the largest magnitude (and noise, where there is some), back in their own units.
Dashed: the onset. Grey: padding. All three directions are drawn to one scale.</p>
<div class="grid three">{"".join(figures)}</div>"""


def _doubts(doubts: Sequence[Doubt]) -> str:
    kinds = {True: "doubt serious", False: "doubt"}
    items = [f"<div class='{kinds[serious]}'><b>{escape(a)}</b><br>{escape(b)}</div>" for serious, a, b in doubts]
    return "<h2 id='doubts'>What to doubt</h2>" + ("".join(items) or "<p>Nothing that this page looks for.</p>")
