import base64
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from data_prep.dataset import PARTS, open_dataset, write_dataset
from data_prep.report import choose_examples, signal_statistics, write_report

FS_HZ, SAMPLES = 40.0, 400
EVIL = "A&B<script>alert(1)</script>$x_{"
SPLIT = {"groups": 12, "largest_share": 0.1, "stations_shared": 0, "near_share": 0.0, "warnings": [f"{EVIL}; {EVIL}"]}


def make_rows(windows=24, noise=0, **columns):
    """Sound rows: 12 events of M 4 to 6.9 at 12 places; the last `noise` of them are noise of an unknown unit."""
    rng, event = np.random.default_rng(0), np.arange(windows) % 12
    magnitude, distance_km = 4.0 + 2.9 * event / 11, rng.uniform(5, 150, windows)
    rows = pd.DataFrame(
        {
            "record": [f"record{i}" for i in range(windows)],
            "event_id": [f"E{i}" for i in event],
            "network": [("IT", "TK")[i % 2] for i in range(windows)],
            "station": [f"S{i}" for i in range(windows)],
            "magnitude": magnitude,
            "magnitude_type": "Mw",
            "depth_km": 10.0,
            "distance_km": distance_km,
            "event_latitude": 38.0 + event / 2,
            "event_longitude": 12.0 + event / 2,
            "station_latitude": 38.1 + event / 2,
            "station_longitude": 12.1 + event / 2,
            "pga_cm_s2": 1000 / distance_km,
            "label": "earthquake",
            "source_fs_hz": FS_HZ,
            **{f"{name}_{c}_cm_s2": value for c in "enz" for name, value in (("mean", 0.1), ("std", 20.0))},
            "onset_s": 2.0,
            "usable_low_hz": 0.1,
            "usable_high_hz": 16.0,
            "snr": rng.uniform(3, 100, windows),
            "n_valid": SAMPLES,
            "energy_kept": 0.95,
        }
    )
    quiet = rows.index >= windows - noise
    rows.loc[quiet, ["magnitude", "depth_km", "distance_km", "event_latitude", "event_longitude", "pga_cm_s2"]] = np.nan
    rows.loc[quiet, [f"{name}_{c}_cm_s2" for c in "enz" for name in ("mean", "std")]] = np.nan
    rows.loc[quiet, ["event_id", "label"]] = ["", "noise"]
    return rows.assign(**columns)


def make_folder(folder, rows, rejected=(), **settings):
    rng = np.random.default_rng(0)
    wave = rng.standard_normal((len(rows), 3, SAMPLES))
    wave = (wave - wave.mean(-1, keepdims=True)) / wave.std(-1, keepdims=True)
    part = pd.Series([PARTS[max(0, i % 5 - 2)] for i in range(len(rows))])
    left_out = pd.DataFrame(list(rejected), columns=["record", "label", "kind", "reason"])
    head = {"settings": {"block_km": 20.0, **settings}, "inputs": [], "low_pass_hz": None, "split": SPLIT}
    folder.mkdir()
    write_dataset(folder, wave.astype(np.float32), rows, part, left_out, {"fs_hz": FS_HZ, **head})
    return folder


class _Reader(HTMLParser):
    """Tables as lists of rows of cells, the tags met, and all text."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tags, self.links, self.text = [], set(), [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.in_cell = tag in ("td", "th") or (tag in ("small", "br") and getattr(self, "in_cell", False))

    def handle_endtag(self, tag):
        self.in_cell = tag == "small" and self.in_cell

    def handle_data(self, data):
        self.text += data
        if getattr(self, "in_cell", False):
            self.rows[-1][-1] += data

    def row(self, name):
        return next(row for row in self.rows if row and row[0].startswith(name))


REJECTED = [
    ("r1", "earthquake", "no data", "in the flatfile only"),
    ("r2", "earthquake", "duplicate", "again"),
    ("r3", "earthquake", "magnitude", "3 is not above 4"),
    ("r4", "earthquake", "glitch", "E peaks"),
    ("r5", "earthquake", "glitch", "N peaks"),
    ("r6", "earthquake", "near-duplicate", "the same"),
    ("r7", "noise", "too short", "10 s"),
    (EVIL, "earthquake", EVIL, EVIL),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 earthquake windows and 6 of noise, three in five of them to train; one has an evil name."""
    rows = make_rows(30, noise=6)
    rows.loc[0, ["event_id", "network", "station", "record"]] = EVIL
    folder = tmp_path_factory.mktemp("report") / "set"
    return make_folder(folder, rows, REJECTED, country=EVIL, min_snr=3.0, noise=True)


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder).read_text(encoding="utf-8")


def test_each_step_of_the_selection_leaves_what_the_files_hold(page):
    steps = _Reader(page).rows
    first = next(i for i, row in enumerate(steps) if row[0].startswith("records of earthquakes"))
    counts = [(row[1], row[2]) for row in steps[first : first + 8]]
    assert counts == [
        ("", "31"),
        ("1", "30"),
        ("1", "29"),
        ("0", "29"),
        ("1", "28"),
        ("0", "28"),
        ("3", "25"),
        ("1", "24"),
    ]
    assert "Noise: 6 windows, and 1 left out." in page


def test_each_reason_has_its_count_and_an_example(page):
    reader = _Reader(page)
    assert reader.row("glitch")[1:] == ["2", "E peaksr4"]
    assert reader.row("too short") == ["too shortnoise", "1", "10 sr7"]


def test_the_parts_add_up_to_the_files(folder, page):
    reader, dataset = _Reader(page), open_dataset(folder)
    tables = [getattr(dataset, part).rows for part in PARTS]
    for name, label in (("earthquake windows", "earthquake"), ("noise windows", "noise")):
        counts = [int((rows["label"] == label).sum()) for rows in tables]
        assert [int(cell.split()[0]) for cell in reader.row(name)[1:]] == [*counts, sum(counts)]
    quakes = [rows[rows["label"] == "earthquake"] for rows in tables]
    assert [int(cell) for cell in reader.row("events")[1:4]] == [rows["event_id"].nunique() for rows in quakes]
    strata = [reader.row(name)[1:] for name in ("below 4", "4 to 5", "5 to 6", "6 and more")]
    sums = np.sum([[int(cell.split()[0]) for cell in row] for row in strata], axis=0)
    assert sums.tolist() == [len(rows) for rows in quakes]


def test_what_comes_from_files_is_escaped(page):
    assert "<script" not in page
    assert _Reader(page).text.count(EVIL) >= 7  # setting, reason, record, example, station, warning of the split


def test_nothing_is_fetched_from_anywhere(page):
    reader = _Reader(page)
    assert {link[:19] for link in reader.links} == {"#doubts", "data:image/svg+xml;"}
    assert not reader.tags & {"script", "link", "iframe", "object"}
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)
    figures = [base64.b64decode(code) for code in re.findall(r"base64,([^\"]+)", page)]
    assert len(figures) == 5 + 8 + 1  # together, of earthquakes, of noise
    assert not any(b'href="http' in figure or b"@import" in figure or b"<dc:date>" in figure for figure in figures)


def test_a_window_of_an_unknown_unit_is_drawn_as_it_is_stored(page):
    *quakes, noise = [base64.b64decode(code) for code in re.findall(r"base64,([^\"]+)", page)][5:]
    assert b"z-score" in noise
    assert all(b"cm/s" in quake and b"z-score" not in quake for quake in quakes)


def test_the_same_dataset_gives_the_same_bytes_wherever_it_lies(folder, page, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    (copy / "report.html").unlink()
    assert write_report(copy).read_text(encoding="utf-8") == page


@pytest.mark.parametrize("blank", ["absent", "NaN"])
def test_a_dataset_that_knows_little_has_a_page_too(tmp_path, blank):
    full = make_rows(5)
    needed = ["event_id", "label", "usable_low_hz", "usable_high_hz"]
    rows = full[needed] if blank == "absent" else full.mask(~np.isin(full.columns, needed)[None].repeat(5, 0))
    page = write_report(make_folder(tmp_path / blank, rows)).read_text(encoding="utf-8")
    assert page.count("Not known for any window.") == 4
    assert "5 of 5 earthquake windows have no known PGA" in page
    assert "Nothing was left out." in page
    assert _Reader(page).row("stations")[1:] == ["0"] * 4


def test_noise_alone_has_a_page_too(tmp_path):
    page = write_report(make_folder(tmp_path / "set", make_rows(5, noise=5))).read_text(encoding="utf-8")
    assert _Reader(page).row("noise windows")[-1].startswith("5")


def test_signal_statistics_are_those_of_all_signals(folder):
    dataset = open_dataset(folder)
    wave = np.concatenate([getattr(dataset, part).waves for part in PARTS]).reshape(-1, SAMPLES).astype(float)
    found = signal_statistics(dataset)
    np.testing.assert_allclose(found["smallest value"], wave.min(axis=1))
    np.testing.assert_allclose(found["kurtosis"], (wave**4).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["skewness"], (wave**3).mean(axis=1), atol=1e-5)


def test_examples_go_from_the_smallest_to_the_largest_magnitude():
    rows = make_rows(48, noise=4)
    chosen = choose_examples(rows)
    assert len(chosen) == chosen["event_id"].nunique() == 8
    assert chosen["magnitude"].is_monotonic_increasing
    assert chosen["magnitude"].iloc[[0, -1]].tolist() == [rows["magnitude"].min(), rows["magnitude"].max()]
    pd.testing.assert_frame_equal(choose_examples(rows.sample(frac=1, random_state=1)), chosen)
    assert len(choose_examples(rows.head(3))) == 3
    assert choose_examples(rows.tail(4)).empty


def test_a_folder_without_a_dataset_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        write_report(tmp_path)
