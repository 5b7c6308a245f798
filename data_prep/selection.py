"""Match archives with the flatfile and select records: nothing is dropped, what is left out gets a reason."""

import pandas as pd

from data_prep.archive import COMPONENTS, PROCESSING_RANK
from data_prep.flatfile import IDENTITY

NO_DATA = "no data"  # the kind of what the flatfile alone knows
DEEPEST_KM = 800.0  # no earthquake is deeper, so a limit there excludes nothing, not even a blank depth

# Longitude and latitude around Italy with its islands and near shores, about 20 km wide of the border.
_ITALY = [
    (6.4, 45.2), (6.8, 46.0), (7.9, 46.1), (9.2, 46.6), (10.4, 47.0), (12.2, 47.2), (13.9, 46.7),
    (13.9, 45.5), (12.7, 44.4), (14.2, 43.0), (16.4, 42.3), (18.8, 40.3), (18.0, 39.4), (16.5, 36.4),
    (12.2, 35.3), (11.0, 38.4), (7.7, 38.6), (7.7, 41.3), (9.5, 41.5), (9.7, 43.3), (7.5, 43.6), (6.5, 44.2),
]  # fmt: skip


def match_records(index: pd.DataFrame, flatfile: pd.DataFrame) -> pd.DataFrame:
    """Join the records of archives with their rows of the flatfile; one row for each of either.

    Adds `label` (`earthquake`), `record` (its name), `kind` and `reason`, both empty for a record still in. Left out
    here: what cannot be read, triplets with a missing component, data that are no acceleration, records without a
    flatfile row or with one that cannot be believed, flatfile rows without a record.
    """
    # A flatfile may not know the location or the processing: its row then serves every such record.
    same = [name for name in IDENTITY if name in flatfile]
    table = index.merge(flatfile, on=same, how="outer", indicator=True)
    table = table.assign(label="earthquake", kind="", reason="")
    table = table.sort_values([*IDENTITY, "source_file", "E"], ignore_index=True)
    table["record"] = _places(table) + "__" + table["event"] + _suffix(table)
    _reject(table, table["_merge"] == "right_only", NO_DATA, "in the flatfile, but in none of the archives")
    _reject_unreadable(table)
    _reject(table, table["_merge"] == "left_only", "no flatfile row", "no row of the flatfile describes it")
    problem = table["problem"].fillna("")
    _reject(table, problem != "", "flatfile", problem)
    return table.drop(columns=["_merge", "damage", "problem"])


def list_noise(index: pd.DataFrame) -> pd.DataFrame:
    """The recordings of ambient noise in archives: as `match_records`, with the label `noise` and without event."""
    table = index.assign(label="noise", kind="", reason="", event_id="", event="")
    start = table[list(COMPONENTS)].bfill(axis=1)["E"].str.split("__").str[1].fillna("")
    table["record"] = _places(table) + "__" + start + _suffix(table)
    _reject_unreadable(table)
    return table.drop(columns="damage").sort_values(["record", "source_file", "E"], ignore_index=True)


def keep_best_processing(table: pd.DataFrame) -> None:
    """Reject all but the best processed (manual, automatic, converted) of the versions of one record."""
    rank = table["processing"].map(PROCESSING_RANK)
    open_records = table[table["kind"] == ""].assign(rank=rank).sort_values("rank", kind="stable")
    sensor = ["event", "network", "station", "location", "band"]
    repeated = open_records[open_records.duplicated(sensor, keep=False)]
    for _, versions in repeated.groupby(sensor):
        winner = versions.iloc[0]
        # Pieces of one processing are different stretches of time unless their names agree.
        same = (versions["rank"] > winner["rank"]) | versions["E"].duplicated()
        reason = f"{winner['record']} is the same record, better processed or met first"
        table.loc[versions.index[same], ["kind", "reason"]] = ["duplicate", reason]


def select(table: pd.DataFrame, country: str, min_magnitude: float, max_depth_km: float) -> None:
    """Reject records outside `country` ("any" for all), or not above / below the limits (strict).

    A blank magnitude passes at a minimum of 0 or less, a blank depth at a maximum of 800 km or more.

    Raises:
        ValueError: a country other than IT asked of a flatfile without nations.
    """
    if country != "any":
        _reject(table, ~_inside(table, country), "country", f"not in {country}")
    magnitude, depth = table["magnitude"], table["depth_km"]
    _reject(table, magnitude.isna() & (min_magnitude > 0), "magnitude", "no magnitude in the flatfile")
    too_small = magnitude <= min_magnitude
    _reject(table, too_small, "magnitude", magnitude.map("{:g}".format) + f" is not above {min_magnitude:g}")
    _reject(table, depth.isna() & (max_depth_km < DEEPEST_KM), "depth", "no depth in the flatfile")
    too_deep = depth >= max_depth_km
    _reject(table, too_deep, "depth", depth.map("{:g} km".format) + f" is not less than {max_depth_km:g} km")


def _inside(table: pd.DataFrame, country: str) -> pd.Series:
    """By the nation column; where that is absent or blank, by the epicentre (Italy only)."""
    nation = table["nation"].fillna("").str.upper() if "nation" in table else pd.Series("", index=table.index)
    if country != "IT":
        if (nation == "").all():
            raise ValueError(f"country {country}: the flatfile has no nations; only IT is told by coordinates")
        return nation == country
    from matplotlib.path import Path as Polygon  # takes a quarter of a second, of every worker too

    epicentre = table[["event_longitude", "event_latitude"]].to_numpy()
    return nation.eq("IT") | (nation.eq("") & pd.Series(Polygon(_ITALY).contains_points(epicentre), index=table.index))


def _places(table: pd.DataFrame) -> pd.Series:
    part = {name: table[name].fillna("") for name in IDENTITY}
    return part["network"] + "." + part["station"] + "." + part["location"] + "." + part["band"]


def _suffix(table: pd.DataFrame) -> pd.Series:
    processing = table["processing"].fillna("")
    return ("_" + processing).where(processing != "", "")


def _reject_unreadable(table: pd.DataFrame) -> None:
    damage = table["damage"].fillna("")
    _reject(table, damage != "", "unreadable", damage)
    found = table[list(COMPONENTS)].notna()
    missing = pd.Series("", index=table.index)
    for name in COMPONENTS:
        missing = missing.where(found[name], missing + f", {name}")
    _reject(table, ~found.all(axis=1), "incomplete", "no component" + missing.str.removeprefix(","))
    other = table["data_type"].isin(["vel", "dis", "sa", "sd"])
    _reject(table, other, "not acceleration", "its name says " + table["data_type"].fillna(""))


def _reject(table: pd.DataFrame, which: pd.Series, kind: str, reason: "str | pd.Series") -> None:
    """Give a reason to those rows of `which` that have none yet."""
    fresh = which & (table["kind"] == "")
    table.loc[fresh, "kind"] = kind
    table.loc[fresh, "reason"] = reason if isinstance(reason, str) else reason[fresh]
