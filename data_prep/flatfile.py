"""Read a flatfile of ITACA or ESM: one row a component in, one row a record (three components) out."""

from pathlib import Path
from typing import Literal

import pandas as pd

MagnitudeRule = Literal["Mw", "Mw-or-Ml"]

# Our name -> ITACA's spelling, ESM's spelling.
_NEEDED = {
    "event_id": ("EVENT_ID", "event_id"),
    "event_latitude": ("EVENT_LATITUDE_DEGREE", "ev_latitude"),
    "event_longitude": ("EVENT_LONGITUDE_DEGREE", "ev_longitude"),
    "depth_km": ("EVENT_DEPTH_KM", "ev_depth_km"),
    "magnitude_w": ("Mw", "Mw"),
    "magnitude_l": ("Ml", "ML"),
    "network": ("NETWORK", "network_code"),
    "station": ("STATION_CODE", "station_code"),
    "distance_km": ("epi_dist_km", "epi_dist"),
    "channel": ("component", "instrument_code"),
}
_OPTIONAL = {
    "nation": ("nation", "ev_nation_code"),
    "processing": ("processing", "proc_type"),
    "location": ("location_code", "location_code"),
    "dataset": ("dataset", "dataset"),
}
_RANGES = {
    "event_latitude": (-90, 90, "degrees"),
    "event_longitude": (-180, 180, "degrees"),
    "depth_km": (-10, 800, "km"),
    "magnitude_w": (-2, 10, "magnitude units"),
    "magnitude_l": (-3, 10, "magnitude units"),
    "distance_km": (0, 20_040, "km"),
}


def read_flatfile(path: Path) -> pd.DataFrame:
    """Read a `;` or `,` separated flatfile into one row a record.

    Columns: `event` (the id as archives write it: lower case, `-` as `_`), `network`, `station`, `band` (such as
    HN), `location` and `processing` where the flatfile gives them, `event_id`, `event_latitude`,
    `event_longitude` (degrees), `depth_km`, `distance_km` (epicentral), `magnitude_w`, `magnitude_l`, and
    `nation` where given. Numbers left blank are NaN.

    Raises:
        ValueError: no readable table, a missing column, text in a numeric column, or values of another unit.
    """
    try:
        raw = pd.read_csv(path, sep=_separator(path), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"flatfile {path}: no such file; give ITACA's or ESM's flatfile") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"flatfile {path}: not a table of text ({error}); expected `;` or `,`") from None
    return _one_row_a_record(_numbers(_rename(raw, path), path))


def with_magnitude(table: pd.DataFrame, rule: MagnitudeRule) -> pd.DataFrame:
    """Add `magnitude` and `magnitude_type` (Mw, Ml or empty): Mw, or under `Mw-or-Ml` Ml where Mw is blank."""
    magnitude = table["magnitude_w"]
    kind = magnitude.notna().map({True: "Mw", False: ""})
    if rule == "Mw-or-Ml":
        stand_in = magnitude.isna() & table["magnitude_l"].notna()
        magnitude, kind = magnitude.where(~stand_in, table["magnitude_l"]), kind.mask(stand_in, "Ml")
    return table.assign(magnitude=magnitude, magnitude_type=kind)


def _separator(path: Path) -> str:
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    return max(";,", key=header.count)


def _rename(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    names = {}
    for ours, spellings in (_NEEDED | _OPTIONAL).items():
        found = [spelling for spelling in spellings if spelling in raw.columns]
        if found:
            names[found[0]] = ours
        elif ours in _NEEDED:
            raise ValueError(
                f'flatfile {path}: no column "{" or ".join(dict.fromkeys(spellings))}" among '
                f"{', '.join(raw.columns[:12])}...; give ITACA's or ESM's flatfile with that column"
            )
    return raw[list(names)].rename(columns=names).apply(lambda column: column.str.strip())


def _numbers(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    for name, (low, high, unit) in _RANGES.items():
        try:
            values = pd.to_numeric(table[name].replace("", None)).astype(float)
        except ValueError as error:
            raise ValueError(f'flatfile {path}: column "{name}": {error}; numbers (decimal point) expected') from None
        outside = values[(values < low) | (values > high)]
        if len(outside):
            raise ValueError(
                f'flatfile {path}: column "{name}" holds {outside.iloc[0]:g}; expected {low} to {high} {unit}'
            )
        table[name] = values
    return table


def _one_row_a_record(table: pd.DataFrame) -> pd.DataFrame:
    """ITACA gives a channel (HNE) a row, ESM the instrument (HN) a row: both become a row a band."""
    if "dataset" in table:  # the HDF5 key knows what ITACA's own columns leave out
        key = table.pop("dataset").str.extract(r"^[^.]*\.[^.]*\.([^.]*)\..*?(?:_(cv|ap|mp))?$")
        table = table.assign(location=key[0].fillna(""))
        table["processing"] = table["processing"] if "processing" in table else key[1].fillna("")
    if "processing" in table:
        table["processing"] = table["processing"].str.lower()
    table["band"] = table.pop("channel").str[:2].str.upper()
    table["event"] = table["event_id"].map(archive_event)
    identity = [name for name in IDENTITY if name in table]
    return table.drop_duplicates(identity, ignore_index=True)


IDENTITY = ("event", "network", "station", "location", "band", "processing")


def archive_event(event_id: str) -> str:
    """Event id as the keys of an archive spell it."""
    return event_id.lower().replace("-", "_")
