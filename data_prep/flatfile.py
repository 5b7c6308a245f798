"""Read a flatfile of ITACA or ESM: one row a component or a record in, one row a record (three components) out."""

from pathlib import Path
from typing import Literal

import pandas as pd

MagnitudeRule = Literal["Mw", "Mw-or-Ml"]

# Our name -> the spellings of ITACA, of ESM's flatfile and of ESM's web service; capitals do not matter.
_NEEDED = {
    "event_id": ("EVENT_ID", "esm_event_id"),
    "event_latitude": ("EVENT_LATITUDE_DEGREE", "ev_latitude"),
    "event_longitude": ("EVENT_LONGITUDE_DEGREE", "ev_longitude"),
    "depth_km": ("EVENT_DEPTH_KM", "ev_depth_km"),
    "magnitude_w": ("Mw",),
    "magnitude_l": ("Ml",),
    "network": ("NETWORK", "network_code"),
    "station": ("STATION_CODE",),
    "distance_km": ("epi_dist_km", "epi_dist"),
    "channel": ("component", "instrument_code"),
}
_OPTIONAL = {
    "station_latitude": ("STATION_LATITUDE_DEGREE", "st_latitude"),
    "station_longitude": ("STATION_LONGITUDE_DEGREE", "st_longitude"),
    "event_time": ("event_time",),
    "nation": ("nation", "ev_nation_code"),
    "processing": ("processing", "proc_type", "processing_type"),
    "location": ("location_code",),
    "dataset": ("dataset",),
}
_RANGES = {
    "event_latitude": (-90, 90, "degrees"),
    "event_longitude": (-180, 180, "degrees"),
    "station_latitude": (-90, 90, "degrees"),
    "station_longitude": (-180, 180, "degrees"),
    "depth_km": (-10, 800, "km"),
    "magnitude_w": (-2, 10, "magnitude units"),
    "magnitude_l": (-3, 10, "magnitude units"),
    "distance_km": (0, 20_040, "km"),
}
_BLANKS = {"", "-", "--", "none", "nan", "na", "n/a", "null", "nil", "unknown"}
IDENTITY = ("event", "network", "station", "location", "band", "processing")


def read_flatfile(path: Path) -> pd.DataFrame:
    """Read a flatfile separated by `;`, `,` or tabs into one row a record.

    Columns: `event` (the id as archives write it: lower case, `-` as `_`), `network`, `station`, `band` (such as
    HN), `location` and `processing` where the flatfile gives them, `event_id`, `event_latitude`,
    `event_longitude`, `station_latitude`, `station_longitude` (degrees), `depth_km`, `distance_km` (epicentral),
    `magnitude_w`, `magnitude_l`, `event_time` (UTC), and `nation` where given. Blanks are NaN. `problem` names line,
    column and value of what cannot be believed in a row, and is empty for a sound one.

    Raises:
        ValueError: no readable table, or a column that is missing or there twice.
    """
    table, spellings = _columns(_read(path), path)
    problem = pd.Series("", index=table.index)
    for name, spelling in spellings.items():
        if name in _RANGES:
            table[name], wrong = _numbers(table[name], *_RANGES[name])
            problem = problem.where(problem.ne("") | wrong.eq(""), _line(table, path) + f", {spelling}: " + wrong)
    if "event_time" in table:
        table["event_time"] = _times(table["event_time"])
    return _one_row_a_record(table.assign(problem=problem, line=_line(table, path)))


def with_magnitude(table: pd.DataFrame, rule: MagnitudeRule) -> pd.DataFrame:
    """Add `magnitude` and `magnitude_type` (Mw, Ml or empty): Mw, or under `Mw-or-Ml` Ml where Mw is blank."""
    magnitude = table["magnitude_w"]
    kind = magnitude.notna().map({True: "Mw", False: ""})
    if rule == "Mw-or-Ml":
        stand_in = magnitude.isna() & table["magnitude_l"].notna()
        magnitude, kind = magnitude.where(~stand_in, table["magnitude_l"]), kind.mask(stand_in, "Ml")
    return table.assign(magnitude=magnitude, magnitude_type=kind)


def archive_event(event_id: str) -> str:
    """Event id as the keys of an archive spell it."""
    return event_id.lower().replace("-", "_")


def _read(path: Path) -> pd.DataFrame:
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(";,\t", key=header.count)
        with path.open(encoding="utf-8-sig") as file:
            raw = pd.read_csv(
                file, sep=separator, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False
            ).fillna("")
    except FileNotFoundError:
        raise ValueError(f"flatfile {path}: no such file; give ITACA's or ESM's flatfile") from None
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise ValueError(f"flatfile {path}: not a table of UTF-8 text ({reason}); save it as UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"flatfile {path}: not a table of text ({reason}); `;`, `,` or tabs expected") from None
    raw = raw[(raw != "").any(axis=1)]
    over_lines = raw.apply(lambda column: column.str.contains("\n", regex=False)).any(axis=1)
    if over_lines.any():
        at = int(over_lines.idxmax()) + 1
        raise ValueError(f"flatfile {path}: a quotation mark opened in line {at} is not closed there; remove it")
    if len(raw) < 2:
        raise ValueError(f"flatfile {path}: one line and no record below it; ask the service again")
    return raw


def _columns(raw: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Keep the columns we know under our names; also the flatfile's own name of each."""
    header = [str(name).strip() for name in raw.iloc[0]]
    lower = [name.lower() for name in header]
    found = {}
    for ours, spellings in (_NEEDED | _OPTIONAL).items():
        at = [lower.index(spelling.lower()) for spelling in spellings if spelling.lower() in lower]
        if at and lower.count(lower[at[0]]) > 1:
            raise ValueError(f'flatfile {path}: column "{header[at[0]]}" is there twice; leave one')
        if at:
            found[ours] = at[0]
        elif ours in _NEEDED:
            raise ValueError(
                f'flatfile {path}: no column "{" or ".join(spellings)}" among {", ".join(header[:12])}...; '
                "give ITACA's or ESM's flatfile with that column"
            )
    table = raw.iloc[1:, list(found.values())].apply(lambda column: column.str.strip())
    table.columns = pd.Index(found)
    return table, {ours: header[at] for ours, at in found.items()}


def _numbers(text: pd.Series, low: float, high: float, unit: str) -> tuple[pd.Series, pd.Series]:
    """Numbers, NaN for blanks and for what is wrong, and what is wrong; -999 and the like are blanks."""
    blank = text.str.lower().isin(_BLANKS) | text.str.fullmatch(r"-9{3,}(\.0*)?")
    values = pd.to_numeric(text.mask(blank), errors="coerce").astype(float)
    wrong = pd.Series("", index=text.index)
    wrong[~blank & values.isna()] = "a number with a decimal point"
    wrong[(values < low) | (values > high)] = f"{low} to {high} {unit}"
    return values.where(wrong == ""), wrong.where(wrong == "", text + " found, " + wrong + " expected")


def _times(text: pd.Series) -> pd.Series:
    """UTC times from `2009-04-06T01:32:39Z` (or a space for the T), `06/04/2009 01:32:39` and `20090406013239`.

    What is no time is NaT and no reason to do without the record: nothing is decided by it.
    """
    times = pd.to_datetime(text, errors="coerce", utc=True, format="ISO8601")
    for style in ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y", "%Y%m%d%H%M%S"):
        times = times.fillna(pd.to_datetime(text.where(times.isna()), errors="coerce", utc=True, format=style))
    return times


def _line(table: pd.DataFrame, path: Path) -> pd.Series:
    """Where each row stands in the file."""
    return f"{path.name} line " + (table.index + 1).astype(str).to_series(table.index)


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
    # Of the rows of a record the first with a problem stands for it.
    worst_first = table.sort_values("problem", key=lambda text: text.eq(""), kind="stable")
    record = worst_first.drop_duplicates(identity).sort_index().reset_index(drop=True)
    versions = table[[name for name in table if name not in ("line", "problem")]].drop_duplicates()
    disagreeing = pd.MultiIndex.from_frame(versions.loc[versions.duplicated(identity), identity])
    differ = record["problem"].eq("") & pd.MultiIndex.from_frame(record[identity]).isin(disagreeing)
    otherwise = record["line"] + ": another line says otherwise of the same record"
    record["problem"] = record["problem"].mask(differ, otherwise)
    return record.drop(columns="line")
