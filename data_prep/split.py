"""Divide records into train, val and test so that no event and no 20 km block is in two of them."""

import numpy as np
import pandas as pd

PARTS = {"train": 0.8, "val": 0.1, "test": 0.1}
BLOCK_KM = 20.0
KM_PER_DEGREE = 111.19
_MAGNITUDES = (4.0, 5.0, 6.0, np.inf)
_DISTANCES_KM = (20.0, 50.0, 100.0, np.inf)


def groups(table: pd.DataFrame) -> pd.Series:
    """Name the group of each record: the 20 km square of its epicentre, or the event alone without one.

    Squares are cells of a fixed grid, so two epicentres of a group are at most 28 km apart; close ones on either
    side of an edge are two groups. All records of an event go by its first epicentre.
    """
    first = table.groupby("event_id")[["event_latitude", "event_longitude"]].transform("first")
    row = np.floor(first["event_latitude"] * KM_PER_DEGREE / BLOCK_KM)
    shrink = np.cos(np.radians((row + 0.5) * BLOCK_KM / KM_PER_DEGREE))
    column = np.floor(first["event_longitude"] * KM_PER_DEGREE * shrink / BLOCK_KM)
    block = row.map("{:.0f}".format) + "/" + column.map("{:.0f}".format)
    return block.where(row.notna() & column.notna(), "event " + table["event_id"].astype(str))


def split(table: pd.DataFrame, seed: int) -> pd.Series:
    """Give each record its part: `train`, `val` or `test`, about 80/10/10, whole groups only.

    Groups are dealt out from the largest to the smallest (equal ones in the seed's order), each to the part where it
    brings the counts (all records, and those of each bin of magnitude and of distance) closest to their shares.

    Raises:
        ValueError: fewer than three groups.
    """
    group = groups(table)
    counts = _counts(table, group)
    if len(counts) < len(PARTS):
        raise ValueError(
            f"{len(counts)} group(s) of events and places among {len(table)} records, and a split into train, val and "
            "test needs 3; widen the selection (country, magnitude, depth) or add archives"
        )
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[counts.columns[0]].to_numpy()[order], kind="stable")]
    part_of = _deal(counts.to_numpy()[order], np.array(list(PARTS.values())))
    names = np.array(list(PARTS))[part_of]
    return group.map(dict(zip(counts.index[order], names, strict=True))).rename("part")


def _counts(table: pd.DataFrame, group: pd.Series) -> pd.DataFrame:
    """Records of each group: all of them first, then by bin of magnitude, then of distance; blanks are a bin."""
    magnitude = np.digitize(table["magnitude"].fillna(np.inf), _MAGNITUDES)
    distance = np.digitize(table["distance_km"].fillna(np.inf), _DISTANCES_KM)
    bins = pd.DataFrame({"all": 0, "magnitude": magnitude, "distance": distance}, index=table.index)
    tables = [pd.crosstab(group, bins[name]).add_prefix(str(name)) for name in bins]
    return pd.concat(tables, axis=1).astype(float)


def _deal(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Part of each group in turn, by least sum of (count - wanted)² / wanted."""
    wanted = shares[:, None] * counts.sum(axis=0)
    held = np.zeros_like(wanted)
    part_of = np.empty(len(counts), dtype=int)
    for turn, count in enumerate(counts):
        change = ((held + count - wanted) ** 2 - (held - wanted) ** 2) / wanted
        cost = change.sum(axis=1)
        empty = held[:, 0] == 0
        if len(counts) - turn <= empty.sum():  # the last groups go to the parts that have none
            cost[~empty] = np.inf
        part_of[turn] = cost.argmin()
        held[part_of[turn]] += count
    return part_of
