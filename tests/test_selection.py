import numpy as np
import pandas as pd
import pytest

from data_prep.archive import index_archives
from data_prep.flatfile import read_flatfile, with_magnitude
from data_prep.selection import keep_best_processing, match_records, select


@pytest.fixture
def matched(archive_factory):
    def match(*records, drop=()):
        archive, flatfile = archive_factory(*records)
        table = with_magnitude(read_flatfile(flatfile), "Mw-or-Ml").drop(columns=list(drop))
        return match_records(index_archives([archive]), table)

    return match


@pytest.mark.parametrize(
    ("record", "kind", "reason"),
    [
        ({}, "", ""),
        ({"in_archive": False}, "no data", "in none of the archives"),
        ({"in_flatfile": False}, "no flatfile row", "no row of the flatfile"),
        ({"axes": "EZ"}, "incomplete", "no component N"),
        ({"axes": "Z"}, "incomplete", "no component E, N"),
        ({"data_type": "vel"}, "not acceleration", "vel"),
    ],
)
def test_each_record_of_archive_and_flatfile_is_kept_with_its_reason(matched, record, kind, reason):
    table = matched({"station": "OTHER"}, record)
    assert len(table) == 2
    row = table[table["station"] == "AAA"].iloc[0]
    assert row["kind"] == kind
    assert reason in row["reason"]


def test_a_flatfile_without_locations_describes_every_sensor(matched):
    table = matched({"location": "01"}, {"location": "02", "in_flatfile": False}, drop=["location", "processing"])
    assert table["kind"].tolist() == ["", ""]
    assert table["magnitude"].tolist() == [5.0, 5.0]


@pytest.mark.parametrize(
    ("there", "winner"), [("cv ap", "ap"), ("cv mp", "mp"), ("ap mp", "mp"), ("mp cv ap", "mp"), ("cv", "cv")]
)
def test_the_best_processing_wins_and_is_named(matched, there, winner):
    table = matched(*({"processing": processing} for processing in there.split()))
    keep_best_processing(table)
    left_out = table[table["kind"] != ""]
    assert table.loc[table["kind"] == "", "processing"].tolist() == [winner]
    assert set(left_out["kind"]) <= {"duplicate"}
    assert left_out["reason"].str.contains(f"_{winner} is the same record").all()


def test_an_incomplete_manual_version_leaves_the_automatic_one(matched):
    table = matched({"processing": "mp", "axes": "EZ"}, {"processing": "ap"})
    keep_best_processing(table)
    assert dict(zip(table["processing"], table["kind"], strict=True)) == {"mp": "incomplete", "ap": ""}


def test_the_same_record_in_two_files_is_taken_once(archive_factory):
    paths = [archive_factory({}, name=name)[0] for name in ("a.h5", "b.h5")]
    table = match_records(index_archives(paths), read_flatfile(archive_factory({})[1]))
    keep_best_processing(table)
    assert table["kind"].tolist() == ["", "duplicate"]


def test_sensors_and_stretches_are_no_duplicates(matched):
    table = matched({}, {"location": "01"}, {"start": "2020-01-01T00:10:00", "in_flatfile": False}, {"band": "HG"})
    keep_best_processing(table)
    assert table["kind"].tolist() == [""] * 4


LIMITS = {"country": "any", "min_magnitude": 4.0, "max_depth_km": 50.0}


@pytest.mark.parametrize(
    ("record", "limits", "kind"),
    [
        ({"magnitude": 4.01}, {}, ""),
        ({"magnitude": 4.0}, {}, "magnitude"),
        ({"magnitude": "", "magnitude_l": 4.5}, {}, ""),
        ({"magnitude": ""}, {}, "magnitude"),
        ({"magnitude": ""}, {"min_magnitude": 0.0}, ""),
        ({"magnitude": 0.0}, {"min_magnitude": 0.0}, "magnitude"),
        ({"depth_km": 49.99}, {}, ""),
        ({"depth_km": 50.0}, {}, "depth"),
        ({"depth_km": ""}, {}, "depth"),
        ({"depth_km": ""}, {"max_depth_km": 1000.0}, ""),
        ({"nation": "GR"}, {"country": "IT"}, "country"),
        ({"nation": "IT", "latitude": 0.0}, {"country": "IT"}, ""),
        ({"nation": "", "latitude": 0.0}, {"country": "IT"}, "country"),
        ({"nation": ""}, {"country": "IT"}, ""),
        ({"nation": "", "latitude": ""}, {"country": "IT"}, "country"),
        ({"nation": "GR"}, {"country": "GR"}, ""),
    ],
)
def test_limits_are_strict_and_blanks_pass_only_where_nothing_is_asked(matched, record, limits, kind):
    table = matched(record)
    select(table, **{**LIMITS, **limits})
    assert table["kind"].tolist() == [kind]
    assert bool(table["reason"][0]) == bool(kind)


@pytest.mark.parametrize(
    ("place", "latitude", "longitude", "inside"),
    [
        ("L'Aquila", 42.35, 13.40, True),
        ("Amatrice", 42.63, 13.29, True),
        ("Emilia", 44.9, 11.2, True),
        ("Gemona", 46.28, 13.12, True),
        ("Messina", 38.19, 15.55, True),
        ("Pantelleria", 36.8, 12.0, True),
        ("Etna", 37.75, 15.0, True),
        ("Cagliari", 39.2, 9.1, True),
        ("Tirana", 41.3, 19.8, False),
        ("Zagreb", 45.8, 16.0, False),
        ("Tunis", 36.8, 10.2, False),
        ("Marseille", 43.3, 5.4, False),
        ("Kefalonia", 38.2, 20.5, False),
    ],
)
def test_without_nations_italy_is_told_by_the_epicentre(matched, place, latitude, longitude, inside):
    table = matched({"latitude": latitude, "longitude": longitude}, drop=["nation"])
    select(table, **LIMITS | {"country": "IT"})
    assert (table["kind"][0] == "") is inside, place


def test_another_country_needs_the_nation_column(matched):
    with pytest.raises(ValueError, match=r"country GR.*no nations"):
        select(matched({}, drop=["nation"]), **LIMITS | {"country": "GR"})


def test_the_first_reason_stands(matched):
    table = matched({"axes": "EZ", "magnitude": 1.0})
    select(table, **LIMITS)
    assert table["kind"].tolist() == ["incomplete"]


@pytest.mark.parametrize(("rule", "count"), [("Mw", 171), ("Mw-or-Ml", 192)])
def test_the_real_records_that_pass_in_any_country(strong_motion, rule, count):
    flatfile = with_magnitude(read_flatfile(strong_motion / "flatfile.csv"), rule)
    table = match_records(index_archives(sorted(strong_motion.glob("itaca_data_*.h5"))), flatfile)
    assert isinstance(table, pd.DataFrame)
    assert (table["kind"] == "").sum() == 251
    select(table, "any", 4.0, 50.0)
    assert (table["kind"] == "").sum() == count
    select(table, "IT", 4.0, 50.0)
    assert np.unique(table.loc[table["kind"] == "", "event_id"]).tolist() == ["EMSC-20090406_0000075"]
