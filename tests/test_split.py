import numpy as np
import pandas as pd
import pytest

from data_prep.split import groups, split


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
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_event_and_no_place_is_in_two_parts(seed):
    table = table_of(np.random.default_rng(seed).integers(1, 20, 200))
    table["part"] = split(table, seed)
    assert table.groupby(groups(table))["part"].nunique().max() == 1
    assert table.groupby("event_id")["part"].nunique().max() == 1
    shares = table["part"].value_counts(normalize=True)
    np.testing.assert_allclose(shares[["train", "val", "test"]], [0.8, 0.1, 0.1], atol=0.01)


@pytest.mark.parametrize(("column", "edges"), [("magnitude", [0, 4, 5, 6, 9]), ("distance_km", [0, 20, 50, 100, 999])])
def test_every_part_has_the_magnitudes_and_distances_of_the_whole(column, edges):
    table = table_of(np.random.default_rng(3).integers(1, 6, 400))
    part = split(table, 0)
    whole = np.histogram(table[column], edges)[0] / len(table)
    for name in ("train", "val", "test"):
        held = np.histogram(table.loc[part == name, column], edges)[0] / (part == name).sum()
        np.testing.assert_allclose(held, whole, atol=0.06)


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


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ((42.35, 13.40), (42.36, 13.41), True),
        ((42.35, 13.40), (42.35, 14.40), False),
        ((42.35, 13.40), (43.35, 13.40), False),
        ((np.nan, np.nan), (np.nan, np.nan), False),
        ((42.35, 13.40), (np.nan, 13.40), False),
    ],
)
def test_close_epicentres_are_one_group_unknown_ones_stand_alone(first, second, together):
    table = pd.DataFrame([("a", *first), ("b", *second)], columns=["event_id", "event_latitude", "event_longitude"])
    name = groups(table)
    assert (name[0] == name[1]) is together


def test_a_square_has_sides_of_twenty_kilometres_at_any_latitude():
    step = 0.01
    for latitude in (0.05, 45.0, 70.0):
        longitude = np.arange(10, 20, step)
        table = pd.DataFrame(
            {"event_id": longitude.astype(str), "event_latitude": latitude, "event_longitude": longitude}
        )
        widest = groups(table).value_counts().iloc[0] * step * 111.19 * np.cos(np.radians(latitude))
        assert widest == pytest.approx(20, rel=0.1)


def test_blank_magnitudes_and_distances_are_spread_too():
    table = table_of([1] * 100)
    table.loc[::2, ["magnitude", "distance_km"]] = np.nan
    part = split(table, 0)
    for name in ("val", "test"):
        assert table.loc[part == name, "magnitude"].isna().mean() == pytest.approx(0.5, abs=0.11)
