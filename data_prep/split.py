"""Divide records into train, val and test so that no event and no 20 km block is in two of them.

Whole groups are dealt out: the events of a block, or the ambient noise of a station in one hour. Strata (label, and
among earthquakes the bins of magnitude and of distance) come as close to 80/10/10 as the groups allow; `describe`
says how close, and warns where that is not close.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

PARTS = {"train": 0.8, "val": 0.1, "test": 0.1}
BLOCK_KM = 20.0
NEAR_KM = 5.0
EARTH_KM = 6371.0
KM_PER_DEGREE = float(np.radians(EARTH_KM))
_SHARES = np.array(list(PARTS.values()))
_HOUR_NS = 3_600_000_000_000
_EPICENTRE = ["event_latitude", "event_longitude"]

# Upper edges of the bins, the last for blanks; their names.
_BINS = {
    "magnitude": (
        (4.0, 5.0, 6.0, np.inf),
        ("magnitude < 4", "magnitude 4-5", "magnitude 5-6", "magnitude >= 6", "no magnitude"),
    ),
    "distance_km": (
        (20.0, 50.0, 100.0, np.inf),
        ("distance < 20 km", "distance 20-50 km", "distance 50-100 km", "distance >= 100 km", "no distance"),
    ),
}
_ENOUGH = 20  # records of a stratum that are worth a warning: two for a part of 10 %
_TOLERANCE = 0.05
_DECIMALS = 6  # of costs, so that their last bits, other on another machine, decide nothing
_REMEDY = {
    "earthquake": "add archives of other places or lower --block-km",
    "noise": "take noise from more stations or hours",
}
_PASSES = 200


@dataclass(frozen=True)
class SplitSummary:
    """How far a split keeps its parts apart and how alike it makes them; `str` is one line for the terminal.

    `near_share` is of the earthquake windows of val and test with an epicentre: blocks have edges, and places across
    one may be close.
    """

    block_km: float
    groups: int
    largest_share: float
    stations: int
    stations_shared: int
    near_share: float
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"split by {self.block_km:g} km blocks: {self.groups} groups, the largest holds {self.largest_share:.0%}; "
            f"{self.stations_shared} of {self.stations} stations are in more than one part; "
            f"{self.near_share:.0%} of val and test within {NEAR_KM:g} km of a training epicentre"
        )


def groups(table: pd.DataFrame, block_km: float = BLOCK_KM) -> pd.Series:
    """Name the group of each record: the square of its epicentre, or what stands alone (see `_owners`) without one.

    Squares are cells of a fixed grid, so two epicentres of a group are at most 1.5 `block_km` apart (but next to a
    pole); close ones on either side of an edge are two groups. All records of an event go by its commonest epicentre.
    """
    owners = _owners(table)
    rows = zip(owners, table["event_latitude"], table["event_longitude"], strict=True)
    counted = Counter(row for row in rows if not math.isnan(row[1] + row[2]) and not row[0].startswith("noise "))
    block = {}
    for (owner, latitude, longitude), _ in sorted(counted.items(), key=lambda item: item[::-1]):
        block[owner] = _block(latitude, longitude, block_km)  # the commonest comes last and stays
    return pd.Series([block.get(owner, owner) for owner in owners], table.index, dtype=object, name="group")


def split(table: pd.DataFrame, seed: int, block_km: float = BLOCK_KM) -> pd.Series:
    """Give each record its part: `train`, `val` or `test`, about 80/10/10, whole groups only.

    Groups are dealt out, the larger first in an order of the seed, then exchanged as long as that brings the counts of
    the strata closer to their shares. The order of the rows does not matter.

    `table` holds `event_id`, `event_latitude`, `event_longitude`, `magnitude`, `distance_km` and perhaps `label`;
    noise without an `event_id` needs `network`, `station` and `start_ns` (nanoseconds since 1970) too.

    Raises:
        ValueError: fewer than three groups.
    """
    group = groups(table, block_km)
    counts = _strata(table).groupby(group).sum()
    if len(counts) < len(PARTS):
        raise ValueError(
            f"{len(counts)} group(s) of events and places among {len(table)} records, and a split into train, val and "
            "test needs 3; widen the selection (country, magnitude, depth) or add archives"
        )
    everywhere = counts.filter(["records", *_REMEDY]).to_numpy() > 0
    strata = counts.drop(columns="records").to_numpy()
    order = np.argsort(-strata.sum(axis=1) * np.random.default_rng(seed).uniform(0.5, 1.5, len(strata)), kind="stable")
    part_of = _improve(_deal(strata, everywhere, order), strata, everywhere)
    return group.map(dict(zip(counts.index, np.array(list(PARTS))[part_of], strict=True))).rename("part")


def describe(table: pd.DataFrame, part: pd.Series, block_km: float = BLOCK_KM) -> SplitSummary:
    """Say what `part`, a split of `table`, keeps apart and what not; needs `network` and `station` too."""
    group = groups(table, block_km)
    sizes = group.value_counts()
    parts_of_station = part.groupby(table["network"] + "." + table["station"]).nunique()
    return SplitSummary(
        block_km=block_km,
        groups=len(sizes),
        largest_share=float(sizes.max() / len(table)),
        stations=len(parts_of_station),
        stations_shared=int((parts_of_station > 1).sum()),
        near_share=_near_share(table, part),
        warnings=tuple(_warnings(table, part, group)),
    )


def _is_noise(table: pd.DataFrame) -> pd.Series:
    return table["label"] == "noise" if "label" in table else pd.Series(False, table.index)


def _owners(table: pd.DataFrame) -> list[str]:
    """Name what each record stays with: its event; without one, the hour of its station (noise) or its epicentre."""
    rows = table.reindex(columns=["event_id", "network", "station", "start_ns", *_EPICENTRE]).astype(object)
    rows["event_id"] = rows["event_id"].fillna("")
    return [_owner(noise, *row) for noise, row in zip(_is_noise(table), rows.to_numpy(), strict=True)]


def _owner(noise: bool, event: str, network: str, station: str, start_ns: int, *epicentre: float) -> str:
    if event:
        return f"event {event}"
    return f"noise {network}.{station} hour {start_ns // _HOUR_NS}" if noise else f"epicentre {epicentre}"


def _block(latitude: float, longitude: float, block_km: float) -> str:
    """Name the cell of a place: rows of `block_km`, each cut into a whole number of columns around the Earth."""
    row = math.floor(latitude * KM_PER_DEGREE / block_km)
    circle_km = 360 * KM_PER_DEGREE * math.cos(math.radians((row + 0.5) * block_km / KM_PER_DEGREE))
    columns = max(1, round(circle_km / block_km))
    return f"block {row}/{math.floor(longitude % 360 / 360 * columns) % columns}"


def _strata(table: pd.DataFrame) -> pd.DataFrame:
    """Ones and zeros, a row a record: `records` (always 1), its label and, of an earthquake, its bins."""
    noise = _is_noise(table).to_numpy()
    columns = {"records": np.ones(len(table), dtype=bool), "earthquake": ~noise, "noise": noise}
    for column, (edges, names) in _BINS.items():
        bins = np.digitize(table[column].fillna(np.inf), edges)
        columns |= {name: ~noise & (bins == number) for number, name in enumerate(names)}
    return pd.DataFrame({name: held for name, held in columns.items() if held.any()}, table.index, dtype=float)


def _deal(counts: np.ndarray, everywhere: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Part of each group: in `order`, each to the part where it lowers the cost most or raises it least.

    The cost is the sum of (held - wanted)² / wanted over parts and strata, the columns of `counts`, a row a group.
    The last groups that have what is marked in `everywhere` go to the parts that have none of it.
    """
    wanted = _SHARES[:, None] * counts.sum(axis=0)
    alone, filled = counts**2 @ (1 / wanted).T, -np.ones_like(wanted)  # filled: (held - wanted) / wanted
    left, lacking = everywhere.sum(axis=0), np.ones((len(PARTS), everywhere.shape[1]), dtype=bool)
    part_of = np.empty(len(counts), dtype=int)
    for group in order:
        change = (alone[group] + 2 * filled @ counts[group]).round(_DECIMALS)
        need = (lacking & everywhere[group] & (left <= lacking.sum(axis=0))).sum(axis=1)
        change[need < need.max()] = np.inf
        part = part_of[group] = change.argmin()
        filled[part] += counts[group] / wanted[part]
        lacking[part] &= ~everywhere[group]
        left -= everywhere[group]
    return part_of


def _improve(part_of: np.ndarray, counts: np.ndarray, everywhere: np.ndarray) -> np.ndarray:
    """Exchange groups between parts, the best pair of each two parts in turn, until none lowers the cost."""
    part_of = np.append(part_of, -1)  # and "none" as the last group: of no part, with no records
    counts, everywhere = (np.vstack([array, np.zeros_like(array[:1])]) for array in (counts, everywhere))
    kind = np.unique(counts, axis=0, return_inverse=True)[1].ravel()
    two_parts = list(combinations(range(len(PARTS)), 2))
    for _ in range(_PASSES):
        if not sum([_exchange(part_of, two, counts, everywhere, kind) for two in two_parts]):
            break
    return part_of[:-1]


def _exchange(
    part_of: np.ndarray, two: tuple[int, int], counts: np.ndarray, everywhere: np.ndarray, kind: np.ndarray
) -> bool:
    """Exchange in `part_of` a group of the first part for one of the second, or for none; False where none helps."""
    none = len(counts) - 1
    ours, theirs = (np.append(_movable(part_of == part, everywhere, kind), none) for part in two)
    change = _changes(part_of, two, counts, ours, theirs)
    row, column = np.unravel_index(change.argmin(), change.shape)
    if change[row, column] >= 0:
        return False
    part_of[theirs[column]], part_of[ours[row]] = two
    part_of[none] = -1
    return True


def _movable(inside: np.ndarray, everywhere: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """First group of each kind (equal counts) in a part, but none that alone has what each part should have."""
    sole = everywhere & (everywhere[inside].sum(axis=0) == 1)
    candidates = np.flatnonzero(inside & ~sole.any(axis=1))
    return candidates[np.unique(kind[candidates], return_index=True)[1]]


def _changes(
    part_of: np.ndarray, two: tuple[int, int], counts: np.ndarray, ours: np.ndarray, theirs: np.ndarray
) -> np.ndarray:
    """Change of the cost, (ours, theirs), by each exchange.

    With d = theirs - ours it is the sum over strata of d² (1/w₁ + 1/w₂) + 2 d (h₁/w₁ - h₂/w₂), h held and w wanted.
    """
    wanted = _SHARES[list(two), None] * counts.sum(axis=0)
    filled = [counts[part_of == part].sum(axis=0) / each for part, each in zip(two, wanted, strict=True)]
    pull, weight = 2 * (filled[0] - filled[1]), (1 / wanted).sum(axis=0)
    x, y = counts[ours], counts[theirs]
    change = (x**2 @ weight - x @ pull)[:, None] + (y**2 @ weight + y @ pull) - 2 * (x * weight) @ y.T
    return change.round(_DECIMALS)


def _near_share(table: pd.DataFrame, part: pd.Series) -> float:
    """Share of the placed earthquakes of val and test whose epicentre is less than `NEAR_KM` from one of train."""
    placed = ~_is_noise(table) & table[_EPICENTRE].notna().all(axis=1)
    latitude, longitude = np.radians(table.loc[placed, _EPICENTRE].to_numpy(float)).T
    across = np.cos(latitude)
    vectors = np.stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], axis=1)
    train = (part[placed] == "train").to_numpy()
    if train.all() or not train.any():
        return 0.0
    chord = 2 * np.sin(NEAR_KM / EARTH_KM / 2)
    distance, _ = cKDTree(np.unique(vectors[train], axis=0)).query(vectors[~train], distance_upper_bound=chord)
    return float(np.isfinite(distance).mean())


def _warnings(table: pd.DataFrame, part: pd.Series, group: pd.Series) -> Iterator[str]:
    largest, size = max(group.value_counts().sort_index().items(), key=lambda item: item[1])
    if size > _SHARES.min() * len(table):
        remedy = _REMEDY["noise" if str(largest).startswith("noise ") else "earthquake"]
        share = f"{size / len(table):.1%} of the records, more than the {_SHARES.min():.0%} that val or test should"
        yield f"the largest group holds {share}; {remedy}"
    unplaced = (table[_EPICENTRE].isna().any(axis=1) & ~_is_noise(table)).sum()
    if unplaced:
        yield f"{unplaced} earthquake records have no epicentre, so may neighbour another part; complete the flatfile"
    strata = _strata(table)
    held = strata.groupby(part).sum().reindex(list(PARTS), fill_value=0.0)
    for name in strata.columns[1:]:
        if fault := _fault(name, held):
            where = f"{held[name].sum():.0f} records in {group[strata[name] > 0].nunique()} group(s)"
            yield f"{name}: {where}, {fault}; {_REMEDY.get(name, _REMEDY['earthquake'])}"


def _fault(name: str, held: pd.DataFrame) -> str:
    """What is wrong with a stratum in `held`, counts by part: none in a part, or shares that are too far off.

    Those of a label are of its records, 80/10/10 wanted; those of a bin are of the earthquakes of each part.
    """
    count, total = held[name], held[name].sum()
    if (is_bin := name not in _REMEDY) and total < _ENOUGH:
        return ""
    if (count == 0).any():
        return "none in " + " and ".join(count.index[count == 0])
    shares = count / (held["earthquake"] if is_bin else total)
    wanted = np.full(len(PARTS), total / held["earthquake"].sum()) if is_bin else _SHARES
    a_record = 1 / held["earthquake"] if is_bin else 0.0  # no split comes closer than that
    off = (abs(shares - wanted) > np.maximum(_TOLERANCE, a_record)).any()
    return f"{_percent(shares)} {'of' if is_bin else 'in'} train/val/test, not {_percent(wanted)}" if off else ""


def _percent(shares: Iterable[float]) -> str:
    return "/".join(f"{share:.0%}" for share in shares)
