import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.split import describe, groups, split

SHARES = pd.Series({"train": 0.8, "val": 0.1, "test": 0.1})
EDGES = {"magnitude": [0, 4, 5, 6, 99], "distance_km": [0, 20, 50, 100, 9999]}
HOUR_NS = 3600 * 10**9
HYPOTHESIS = {"deadline": None, "derandomize": True, "database": None}


def table_of(events, seed=0):
    """`events`: sizes of events far from each other."""
    rng = np.random.default_rng(seed)
    event = np.repeat(np.arange(len(events)), events)
    return pd.DataFrame(
        {
            "event_id": event.astype(str),
            "event_latitude": 36.0 + event // 40,
            "event_longitude": 6.0 + event % 40,
            "magnitude": rng.uniform(3.5, 7, len(events))[event],
            "distance_km": rng.uniform(1, 200, len(event)),
            "network": "IT",
            "station": rng.integers(0, 30, len(event)).astype(str),
            "label": "earthquake",
            "start_ns": rng.integers(0, 10**18, len(event)),
        }
    )


def noise_of(count, stations=5, hours=20, seed=0):
    """Ambient noise: of no event, its hours drawn with repetition."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "event_id": "",
            "network": "IT",
            "station": rng.integers(0, stations, count).astype(str),
            "label": "noise",
            "start_ns": 1_600_000_000 * 10**9 + rng.integers(0, hours * HOUR_NS, count),
        }
    )


def joined(*tables):
    return pd.concat(tables, ignore_index=True)


def quakes(events):
    """Rows of (event, latitude, longitude)."""
    return pd.DataFrame(events, columns=["event_id", "event_latitude", "event_longitude"])


def without(values, share, rng):
    return np.where(rng.random(len(values)) < share, np.nan, values)


@st.composite
def catalogues(draw):
    """Clustered or spread events anywhere, sizes with a heavy tail, blanks, second epicentres, noise, any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_events, n_places = draw(st.integers(3, 40)), draw(st.integers(1, 40))
    south, west = draw(st.sampled_from([(36, 6), (-90, -180), (88, 0), (-2, 179)]))
    place = rng.integers(0, n_places, n_events)
    latitude = np.clip(south + 10 * rng.random(n_places)[place] + rng.normal(0, 0.05, n_events), -90, 90)
    longitude = (west + 10 * rng.random(n_places)[place] + rng.normal(0, 0.05, n_events) + 180) % 360 - 180
    blank = draw(st.sampled_from([0, 0.1, 1]))
    table = table_of(np.minimum(rng.pareto(1, n_events) * 3 + 1, 100).astype(int), draw(st.integers(0, 99)))
    event = table["event_id"].astype(int)
    table["event_latitude"] = without(latitude[event] + (rng.random(len(event)) < 0.05), blank / 5, rng).clip(-90, 90)
    table["event_longitude"] = longitude[event]
    table["distance_km"] = without(table["distance_km"], blank, rng)
    table["magnitude"] = without(4 + rng.exponential(0.43, n_events), blank, rng)[event]
    table.loc[rng.random(len(event)) < draw(st.sampled_from([0, 0.2])), "label"] = "noise"
    table = joined(table, noise_of(draw(st.sampled_from([0, 1, 10, 100]))))
    return table.sample(frac=1, random_state=draw(st.integers(0, 99)))


@settings(max_examples=200, **HYPOTHESIS)
@given(catalogues(), st.integers(0, 3))
def test_no_event_no_block_and_no_hour_is_in_two_parts(table, seed):
    group = groups(table)
    if group.nunique() < 3:
        with pytest.raises(ValueError, match="needs 3"):
            split(table, seed)
        return
    part = split(table, seed)
    assert part.index.equals(table.index)
    assert set(part) == {"train", "val", "test"}
    assert part.groupby(group).nunique().max() == 1
    assert part[table["event_id"] != ""].groupby(table["event_id"]).nunique().max() == 1
    ambient = table[(table["event_id"] == "") & (table["label"] == "noise")]
    hours = part.groupby([ambient["network"], ambient["station"], ambient["start_ns"] // HOUR_NS]).nunique()
    assert (hours == 1).all()
    pd.testing.assert_series_equal(split(table.sort_index(), seed), part.sort_index())  # the same in any order


@st.composite
def fair_catalogues(draw):
    """200 to 300 places of which none has more than twice the records of another: at most 1 % of all each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_events, size = draw(st.integers(200, 300)), draw(st.integers(1, 10))
    table = table_of(rng.integers(size, 2 * size + 1, n_events))
    event = table["event_id"].astype(int)
    table["magnitude"] = without(3.7 + rng.exponential(0.43, n_events), 0.05, rng)[event]
    near = rng.normal(3.5, draw(st.sampled_from([0, 1])), n_events)[event]  # events with a network about them, or far
    table["distance_km"] = without(np.exp(near + rng.normal(0, 0.7, len(event))), 0.05, rng)
    return joined(table, noise_of(draw(st.sampled_from([0, len(table) // 2])), 50, 200))


@settings(max_examples=20, **HYPOTHESIS)
@given(fair_catalogues())
def test_strata_are_within_five_points_where_the_groups_allow_it(table):
    # Whole groups can bring a part's count of a bin no closer to the wanted one than half of the largest piece that a
    # group has of it. Pieces of at most 5 % of the bin leave half of the 5 points to reconciling all the bins at once.
    group, part = groups(table), split(table, 0)
    assert group.value_counts(normalize=True).max() <= 0.01
    kinds = {name: pd.cut(table[name], edges).astype(str) for name, edges in EDGES.items()}
    for kind in (table["label"], *(each[table["label"] == "earthquake"] for each in kinds.values())):
        makeup = pd.crosstab(part[kind.index], kind, normalize="index")
        whole = kind.value_counts(normalize=True)
        for name in whole.index:
            member = kind.index[kind == name]
            if group[member].value_counts(normalize=True).max() > 0.05:
                continue
            assert (abs(makeup[name] - whole[name]) <= 0.05).all()
            assert (abs(part[member].value_counts(normalize=True).reindex(SHARES.index) - SHARES) <= 0.05).all()


@pytest.mark.parametrize("sizes", [[1, 1, 1], [100, 1, 1], [50, 50, 50], [1, 1, 98], [5, 4, 3, 2]])
def test_with_three_groups_no_part_is_empty(sizes):
    assert set(split(table_of(sizes), 0)) == {"train", "val", "test"}


@pytest.mark.parametrize("sizes", [[5], [5, 5]])
def test_fewer_than_three_groups_cannot_be_split(sizes):
    with pytest.raises(ValueError, match=rf"{len(sizes)} group.*needs 3; widen"):
        split(table_of(sizes), 0)


def test_the_seed_alone_decides():
    table = table_of([3] * 60)
    pd.testing.assert_series_equal(split(table, 7), split(table, 7))
    assert (split(table, 7) != split(table, 8)).any()


def test_exchanges_mend_what_dealing_one_by_one_leaves():
    table = table_of([11, 17, 15, 11, 10, 10, 6, 7, 3, 2, 8]).assign(magnitude=5.0, distance_km=10.0)
    for seed in range(4):  # dealt alone, three of them miss it
        assert split(table, seed).value_counts().to_dict() == {"train": 80, "val": 10, "test": 10}


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ((42.35, 13.40), (42.36, 13.41), True),
        ((42.35, 13.40), (42.35, 14.40), False),
        ((42.35, 13.40), (43.35, 13.40), False),
        ((np.nan, np.nan), (np.nan, np.nan), False),
        ((42.35, 13.40), (np.nan, 13.40), False),
        ((10.0, 180.0), (10.0, -180.0), True),
        ((0.0, 13.4), (-0.0, 13.4), True),
        ((10.0, 0.0), (10.0, -1e-18), True),
        ((90.0, 0.0), (90.0, 120.0), True),
        ((-90.0, 0.0), (-89.99, -170.0), True),
    ],
)
def test_close_epicentres_are_one_group_unknown_ones_stand_alone(first, second, together):
    name = groups(quakes([("a", *first), ("b", *second)]))
    assert (name[0] == name[1]) is together


def test_an_event_goes_by_its_commonest_epicentre_in_any_order():
    table = quakes(
        [("a", 42.0, 13.0), ("a", 44.0, 11.0), ("a", 44.0, 11.0), ("a", np.nan, 13.0), ("b", 44.0, 11.0), ("c", 42, 13)]
    )
    for order in (table, table[::-1]):
        name = groups(order)
        assert set(name[[0, 1, 2, 3]]) == {name[4]}
        assert name[4] != name[5]


def test_earthquakes_without_a_name_go_by_their_own_epicentre():
    name = groups(quakes([("", 42.0, 13.0), (None, 44.0, 11.0), ("b", 44.0, 11.0), ("", np.nan, 1.0)]))
    assert name.nunique() == 3
    assert name[1] == name[2]


@pytest.mark.parametrize("block_km", [10, 20, 50])
@pytest.mark.parametrize("latitude", [0.05, 45.0, 70.0])
def test_a_square_has_sides_of_block_km_at_any_latitude(latitude, block_km):
    step = 0.01
    table = quakes([(str(longitude), latitude, longitude) for longitude in np.arange(10, 20, step)])
    widest = groups(table, block_km).value_counts().iloc[0] * step * 111.19 * np.cos(np.radians(latitude))
    assert widest == pytest.approx(block_km, rel=0.15)


def test_a_chain_of_near_neighbours_is_many_groups():
    along = np.linspace(0, 1, 401)  # 2.3 km apart, from Genoa to Calabria
    table = quakes([(str(step), 44.4 - 6 * step, 8.9 + 7.5 * step) for step in along])
    assert groups(table).nunique() > 40


def test_noise_goes_by_station_and_hour_and_before_an_event_with_it():
    table = joined(table_of([2, 1]), noise_of(4))
    table.loc[3:, "station"] = ["A", "A", "A", "B"]
    table.loc[3:, "start_ns"] = np.array([5 * HOUR_NS, 6 * HOUR_NS - 1, 6 * HOUR_NS, 5 * HOUR_NS])
    table.loc[1, "label"] = "noise"
    name = groups(table)
    assert name[0] == name[1]
    assert name[3] == name[4]
    assert name.nunique() == 5


@pytest.mark.parametrize(
    ("count", "stations", "hours", "tolerance"), [(300, 20, 50, 0.01), (150, 1, 3, 1), (3, 3, 9, 1)]
)
def test_each_part_has_its_share_of_earthquakes_and_of_noise(count, stations, hours, tolerance):
    table = joined(table_of([3] * 60), noise_of(count, stations, hours))
    part = split(table, 0)
    for label, allowed in (("earthquake", 0.02), ("noise", tolerance)):
        shares = part[table["label"] == label].value_counts(normalize=True)
        assert set(shares.index) == set(SHARES.index)
        assert (abs(shares - SHARES) <= allowed).all()


def test_blank_magnitudes_and_distances_are_spread_too():
    table = table_of([1] * 100)
    table.loc[::2, ["magnitude", "distance_km"]] = np.nan
    part = split(table, 0)
    for name in ("val", "test"):
        assert table.loc[part == name, "magnitude"].isna().mean() == pytest.approx(0.5, abs=0.11)


def test_the_description_counts_groups_stations_and_near_places():
    km = 1 / 111.195
    table = quakes([("a", 0.0, 179.99), ("b", 4.9 * km, 179.99), ("c", -5.1 * km, 179.99), ("d", 0.0, -179.99)] * 2)
    table = table.assign(magnitude=5.0, distance_km=9.0, network="IT", station=list("ABCDEFGD"))
    part = pd.Series(["train", "val", "test", "val"] * 2)
    found = describe(table, part)
    assert (found.groups, found.stations, found.stations_shared) == (3, 7, 0)
    assert (found.largest_share, found.near_share) == (0.5, pytest.approx(4 / 6))
    part[7] = "test"
    assert describe(table, part).stations_shared == 1
    json.dumps(asdict(found))
    assert str(found) == (
        "split by 20 km blocks: 3 groups, the largest holds 50%; 0 of 7 stations are in more than one part; "
        "67% of val and test within 5 km of a training epicentre"
    )


def test_a_fair_split_has_no_warnings():
    table = joined(table_of([3] * 200), noise_of(200, 20))
    assert describe(table, split(table, 0)).warnings == ()


@pytest.mark.parametrize(
    ("sizes", "large", "train", "val", "expected"),
    [
        ([6, 2, 2], 0, [*range(6)], [6, 7], "the largest group holds 60.0% of the records, more than the 10% that"),
        ([6, 2, 2], 0, [*range(6)], [6, 7], "earthquake: 10 records in 3 group(s), 60%/20%/20% in train/val/test"),
        ([1] * 100, 30, range(80), range(80, 90), "magnitude >= 6: 30 records in 30 group(s), none in val and test"),
        ([1] * 100, 19, range(80), range(80, 90), None),  # too few to ask for any
        ([1] * 100, 30, range(6, 86), [*range(3), *range(86, 93)], None),
        ([1] * 100, 30, range(7, 87), [*range(4), *range(87, 93)], "magnitude >= 6: 30 records in 30 group(s), 29%"),
    ],
)
def test_what_the_groups_do_not_allow_is_said(sizes, large, train, val, expected):
    table = table_of(sizes).assign(magnitude=5.5, distance_km=10.0)
    table.loc[: large - 1, "magnitude"] = 6.5
    part = pd.Series("test", table.index)
    part[[*train]], part[[*val]] = "train", "val"
    said = [line for line in describe(table, part).warnings if line.startswith(expected or "magnitude >= 6")]
    assert len(said) == (expected is not None)
    assert all(line.endswith("; add archives of other places or lower --block-km") for line in said)


def test_noise_in_too_few_hours_and_events_without_epicentre_are_said():
    table = joined(table_of([1] * 96), noise_of(30, 2).assign(start_ns=0))
    table.loc[:1, "event_latitude"] = np.nan
    largest, unplaced, noise = describe(table, split(table, 0)).warnings
    assert largest.endswith("take noise from more stations or hours")
    assert unplaced.startswith("2 earthquake records have no epicentre")
    assert noise.startswith("noise: 30 records in 2 group(s), none in ")
