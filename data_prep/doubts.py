"""What to doubt about a prepared dataset: its amplitudes against a ground-motion model, its parts, its metadata.

The tables hold a row a window of all parts, as `report.py` reads them: besides the columns of the dataset `part`,
`place` (network and station) and `samples`; words are blank and numbers NaN where they are not known.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data_prep.dataset import PARTS

SUSPECT_FACTOR, SUSPECT_WINDOWS = 5.0, 3  # median residual of a network, and how many windows make a median
MODEL_KM = 200.0  # the ground-motion model's largest distance


class Doubt(NamedTuple):
    """Something that a reader should know before trusting the windows."""

    serious: bool
    title: str
    text: str


def ita10_log_pga(magnitude: "pd.Series | float", distance_km: Any) -> Any:
    """Median log10 PGA (cm/s², geometric mean of the horizontals) on rock, style of faulting unspecified.

    Bindi et al. (2011), doi 10.1007/s10518-011-9313-z, eq. 1 with its coefficients of PGA, which were compared with
    `openquake.hazardlib.gsim.bindi_2011`. Made for M 4.1-6.9 and Joyner-Boore distances to 200 km.
    """
    e1, b1, b2, c1, c2, c3, h_km, hinge = 3.672, -0.262, -0.0707, -1.940, 0.413, 0.000134, 10.322, 6.75
    below = np.minimum(magnitude, hinge) - hinge
    slant_km = np.hypot(distance_km, h_km)
    decay = (c1 + c2 * (magnitude - 5.0)) * np.log10(slant_km) - c3 * (slant_km - 1.0)
    return e1 + b1 * below + b2 * below**2 + decay


def pga_residual(quakes: pd.DataFrame) -> pd.Series:
    """log10 of PGA over the model's, for the windows within its reach and with all that it asks for."""
    near = quakes[(quakes["distance_km"] <= MODEL_KM) & (quakes["pga_cm_s2"] > 0) & quakes["magnitude"].notna()]
    return np.log10(near["pga_cm_s2"]) - ita10_log_pga(near["magnitude"], near["distance_km"])


def suspect_networks(quakes: pd.DataFrame) -> pd.DataFrame:
    """Networks whose PGA is typically 5 times the model's or a fifth of it: `factor` and number of `windows`."""
    table = pga_residual(quakes).groupby(quakes["network"]).agg(["median", "size"])
    far = (table["median"].abs() > np.log10(SUSPECT_FACTOR)) & (table["size"] >= SUSPECT_WINDOWS)
    return pd.DataFrame({"factor": 10 ** table["median"], "windows": table["size"]})[far]


def find_doubts(rows: pd.DataFrame, signals: pd.DataFrame, of_split: Sequence[str] = ()) -> Iterator[Doubt]:
    """What a reader should know before trusting the windows; `of_split` are the split's own warnings."""
    quakes = rows[rows["label"] != "noise"]
    yield from _doubts_of_signals(signals)
    yield from _doubts_of_events(quakes)
    yield from _doubts_of_amplitude(quakes)
    yield from _doubts_of_metadata(quakes)
    yield from _doubts_of_labels(rows)
    for warning in of_split:
        found, _, remedy = warning.rpartition("; ")
        yield Doubt(True, f"Split: {found or remedy}", f"To mend it: {remedy}." if found else "")


def _doubts_of_signals(signals: pd.DataFrame) -> Iterator[Doubt]:
    bad = int((~((signals["mean"].abs() < 1e-3) & ((signals["std"] - 1).abs() < 1e-2))).sum())
    if bad:
        text = "Their mean is not 0, their standard deviation not 1, or they hold NaN; prepare the dataset again."
        yield Doubt(True, f"{bad:,} of {len(signals):,} signals are not z-scored", text)


def _doubts_of_events(quakes: pd.DataFrame) -> Iterator[Doubt]:
    for part in PARTS:
        held = quakes[quakes["part"] == part]
        events = count_distinct(held["event_id"])
        if len(held) < 50 or events < 10:
            title = f"{part} holds {len(held):,} earthquake windows of {events:,} events"
            yield Doubt(part != "train", title, "Below 50 windows or 10 events what is measured depends on the draw.")
    share = quakes.loc[quakes["event_id"] != "", "event_id"].value_counts() / len(quakes)
    if not share.empty and share.iloc[0] > 0.2:
        title = f"One event, {share.index[0]}, holds {share.iloc[0]:.0%} of the earthquake windows"
        yield Doubt(True, title, "A model may learn that earthquake rather than earthquakes.")
    if leaked := count_shared(quakes, "event_id"):
        yield Doubt(True, f"{leaked:,} events are in more than one part", "Scores on val and test are then too good.")
    named = quakes[quakes["place"] != ""]
    if twice := int(named.duplicated(["event_id", "place"], keep=False).sum()):
        text = "Several sensors or stretches of one record: they count as windows, but hardly as independent ones."
        yield Doubt(False, f"{twice:,} windows share event and station with another", text)
    taught, judged = named[named["part"] == "train"], named[named["part"] != "train"]
    if known := int(judged["place"].isin(taught["place"]).sum()):
        text = "What is learnt about the ground under a station in train helps there: they are a little easier."
        yield Doubt(False, f"{known:,} of {len(judged):,} windows of val and test are from stations of train", text)


def _doubts_of_amplitude(quakes: pd.DataFrame) -> Iterator[Doubt]:
    for network, row in suspect_networks(quakes).iterrows():
        title = f"Network {network}: PGA is typically {row['factor']:.2g} times a model's. Units suspect?"
        text = "Median of {:.0f} windows against Bindi et al. 2011 for rock, by epicentral distance up to {:g} km."
        yield Doubt(True, title, text.format(row["windows"], MODEL_KM) + " Soft ground explains a factor of 2.")


def _doubts_of_metadata(quakes: pd.DataFrame) -> Iterator[Doubt]:
    facts = {
        "have no magnitude": (quakes["magnitude"].isna(), "They are in no figure or table by magnitude."),
        "have no distance": (quakes["distance_km"].isna(), "They are in no figure or table by distance."),
        "have no known PGA": (quakes["pga_cm_s2"].isna(), "Their units cannot be checked against a model."),
        "have Ml standing in for Mw": (quakes["magnitude_type"] == "Ml", "The two differ by some tenths."),
        "have no known low corner": (quakes["usable_low_hz"] == 0, "Their lowest frequencies may be noise."),
        "begin less than 1 s before the onset": (quakes["onset_s"] < 1, "The record began late; P may be missing."),
        "are padded with zeros": (quakes["n_valid"] < quakes["samples"], "A model learns the end of recording too."),
    }
    for title, (which, text) in facts.items():
        if which.any():
            yield Doubt(False, f"{which.sum():,} of {len(quakes):,} earthquake windows {title}", text)


def count_shared(rows: pd.DataFrame, column: str) -> int:
    """How many names of a column, of events or stations, are in more than one part."""
    names = rows.loc[rows[column] != "", [column, "part"]].drop_duplicates()[column]
    return names[names.duplicated()].nunique()


def count_distinct(names: pd.Series) -> int:
    """How many names there are, blank ones aside."""
    return names[names != ""].nunique()


def _doubts_of_labels(rows: pd.DataFrame) -> Iterator[Doubt]:
    padded = (rows["label"] == "earthquake") & (rows["n_valid"] < rows["samples"])
    if padded.any() and (rows["label"] == "noise").any():
        text = "Noise is never padded: zeros at the end tell the classes apart. Choose shorter windows, --window-s."
        yield Doubt(True, f"{padded.sum():,} earthquake windows end in padding, and no noise does", text)
