import numpy as np
import pandas as pd
import pytest

from data_prep.flatfile import IDENTITY, read_flatfile, with_magnitude


def rewrite(path, change, sep=";"):
    table = pd.read_csv(path, sep=";", dtype=str, keep_default_na=False)
    change(table).to_csv(path, sep=sep, index=False)
    return path


@pytest.fixture
def itaca(archive_factory):
    return archive_factory({"station": "0905", "location": "01"}, {"event": "3366146", "magnitude": ""})[1]


def test_three_rows_become_one_record_with_text_codes_and_numbers(itaca):
    table = read_flatfile(itaca)
    assert len(table) == 2
    first = table.iloc[0]
    assert [first[name] for name in IDENTITY] == ["emsc_20200101_0000001", "IT", "0905", "01", "HN", "mp"]
    assert (first["magnitude_w"], first["depth_km"], first["distance_km"]) == (5.0, 10.0, 30.0)
    assert table["event_id"].tolist() == ["EMSC-20200101_0000001", "3366146"]
    assert np.isnan(table["magnitude_w"][1])


def test_commas_and_a_byte_order_mark_are_read_too(itaca):
    expected = read_flatfile(itaca)
    rewrite(itaca, lambda table: table, sep=",")
    itaca.write_text("\ufeff" + itaca.read_text())
    pd.testing.assert_frame_equal(read_flatfile(itaca), expected)


def test_esm_spelling_gives_the_same_record(itaca, tmp_path):
    esm = tmp_path / "esm.csv"
    esm.write_text(
        "event_id;ev_nation_code;ev_latitude;ev_longitude;ev_depth_km;ML;Mw;network_code;station_code;location_code;"
        "instrument_code;epi_dist;proc_type\nEMSC-20200101_0000001;IT;42;13;10;;5;IT;0905;01;HN;30;MP\n"
    )
    ours, theirs = read_flatfile(itaca).iloc[:1], read_flatfile(esm)
    pd.testing.assert_frame_equal(ours[sorted(ours)], theirs[sorted(theirs)], check_dtype=False)


def test_without_the_key_location_stays_unknown(itaca):
    table = read_flatfile(rewrite(itaca, lambda table: table.drop(columns=["dataset", "processing"])))
    assert not {"location", "processing"} & set(table)
    assert len(table) == 2


def test_without_a_processing_column_the_key_tells_it(itaca):
    table = read_flatfile(rewrite(itaca, lambda table: table.drop(columns="processing")))
    assert table["processing"].tolist() == ["mp", "mp"]


@pytest.mark.parametrize("column", ["Mw", "Ml", "EVENT_DEPTH_KM", "component", "EVENT_ID"])
def test_a_missing_column_is_named(itaca, column):
    with pytest.raises(ValueError, match=rf'a\.h5\.csv: no column "{column}.*give ITACA'):
        read_flatfile(rewrite(itaca, lambda table: table.drop(columns=column)))


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("EVENT_DEPTH_KM", "8800", "-10 to 800 km"),
        ("EVENT_DEPTH_KM", "-33", "-10 to 800 km"),
        ("Mw", "53", "-2 to 10 magnitude units"),
        ("Mw", "inf", "-2 to 10 magnitude units"),
        ("EVENT_LATITUDE_DEGREE", "200", "-90 to 90 degrees"),
        ("EVENT_LONGITUDE_DEGREE", "-181", "-180 to 180 degrees"),
        ("Mw", "5,3", "a number with a decimal point"),
        ("epi_dist_km", "far", "a number with a decimal point"),
        ("epi_dist_km", "-1", "0 to 20040 km"),
    ],
)
def test_a_value_that_cannot_be_believed_is_the_record_s_problem_alone(itaca, column, value, expected):
    def spoil(table):
        table.loc[4, column] = value  # the second row of the second record: line 6
        return table

    table = read_flatfile(rewrite(itaca, spoil))
    assert table["problem"].tolist() == ["", f"a.h5.csv line 6, {column}: {value} found, {expected} expected"]


def test_lines_are_counted_as_an_editor_counts_them(itaca):
    lines = itaca.read_text().splitlines()
    lines[5] = lines[5].replace(";10.0;", ";900;")
    itaca.write_text("\n".join([lines[0], "", *lines[1:3], ";" * lines[0].count(";"), *lines[3:]]) + "\n")
    problem = read_flatfile(itaca)["problem"].tolist()
    assert problem[0] == ""
    assert problem[1].startswith("a.h5.csv line 8, EVENT_DEPTH_KM: 900 found")


def test_a_quotation_mark_left_open_is_told_with_its_line(itaca):
    lines = itaca.read_text().splitlines()
    for number in (2, 4):
        lines[number] = lines[number].replace(";IT;", ';"IT;', 1)
    itaca.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"quotation mark opened in line 3"):
        read_flatfile(itaca)


@pytest.mark.parametrize("blank", ["", " ", "None", "nan", "N/A", "-", "-999", "-9999.0"])
def test_a_blank_is_no_problem_however_it_is_written(itaca, blank):
    table = read_flatfile(rewrite(itaca, lambda table: table.assign(Mw=blank, EVENT_DEPTH_KM=blank)))
    assert table["problem"].tolist() == ["", ""]
    assert table[["magnitude_w", "depth_km"]].isna().all(axis=None)


def test_lines_of_one_record_that_disagree_are_told(itaca):
    def spoil(table):
        table.loc[2, "Mw"] = "6.1"
        return table

    table = read_flatfile(rewrite(itaca, spoil))
    assert table["problem"].tolist() == ["a.h5.csv line 2: another line says otherwise of the same record", ""]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2009-04-06T01:32:39.500Z", "2009-04-06 01:32:39.5"),
        ("2009-04-06 01:32:39", "2009-04-06 01:32:39"),
        ("06/04/2009 01:32:39", "2009-04-06 01:32:39"),
        ("20090406013239", "2009-04-06 01:32:39"),
        ("6 April", None),
        ("", None),
    ],
)
def test_the_time_of_the_event_is_read_in_the_styles_in_use(itaca, written, read):
    table = read_flatfile(rewrite(itaca, lambda table: table.assign(event_time=written)))
    expected = pd.NaT if read is None else pd.Timestamp(read, tz="UTC")
    assert table["event_time"][0] is expected or table["event_time"][0] == expected
    assert table["problem"].tolist() == ["", ""]


def test_capitals_tabs_and_the_names_of_the_web_service_are_understood(itaca):
    expected = read_flatfile(itaca)
    names = {"EVENT_ID": "esm_event_id", "Mw": "mw", "Ml": "ML", "EVENT_DEPTH_KM": "ev_depth_km"}
    rewrite(itaca, lambda table: table.rename(columns=names), sep="\t")
    pd.testing.assert_frame_equal(read_flatfile(itaca), expected)


def test_a_column_that_is_there_twice_is_refused(itaca):
    with pytest.raises(ValueError, match=r'column "Mw" is there twice'):
        read_flatfile(rewrite(itaca, lambda table: table.assign(mw="9")))


def test_a_header_without_records_is_refused(itaca):
    with pytest.raises(ValueError, match="no record below it"):
        read_flatfile(rewrite(itaca, lambda table: table[:0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not a table"),
        (b"\x89HDF\r\n\x1a\n\xff\xfe;;", "not a table"),
        ("EVENT_ID;è\n1;2\n".encode("latin-1"), "UTF-8"),
        (b"<html><body>503</body></html>\n<p>", "no column"),
        (b"a;b\n1;2;3;4\n", ""),
    ],
)
def test_what_is_no_flatfile_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "f.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"flatfile .*f.csv: .*{message}") as error:
        read_flatfile(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mw", "ml", "rule", "magnitude", "kind"),
    [
        (5.1, 4.8, "Mw", 5.1, "Mw"),
        (5.1, 4.8, "Mw-or-Ml", 5.1, "Mw"),
        (np.nan, 4.8, "Mw", np.nan, ""),
        (np.nan, 4.8, "Mw-or-Ml", 4.8, "Ml"),
        (np.nan, np.nan, "Mw-or-Ml", np.nan, ""),
    ],
)
def test_ml_stands_in_only_where_asked_and_is_marked(mw, ml, rule, magnitude, kind):
    table = with_magnitude(pd.DataFrame({"magnitude_w": [mw], "magnitude_l": [ml]}), rule)
    np.testing.assert_equal(table["magnitude"][0], magnitude)
    assert table["magnitude_type"][0] == kind


def test_both_spellings_of_the_real_flatfile_name_the_same_records(strong_motion):
    tables = [read_flatfile(strong_motion / name) for name in ("flatfile.csv", "flatfile_esm.csv")]
    names = [set(table[list(IDENTITY)].itertuples(index=False, name=None)) for table in tables]
    assert len(names[0]) == 251
    assert names[0] == names[1]
