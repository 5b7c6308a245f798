"""Whether generated records help a detector: what is compared, what is refused, what the command and the page tell."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data_prep import dataset as prepared_dataset
from data_prep.files import sha256
from data_prep.stochastic import FS_HZ as DEMO_FS_HZ
from search import utility, utility_data
from search.config import SearchConfig, resolved
from search.report import write_report
from search.utility import ALONE, GENERATED, METHODS, REAL, UTILITY, Estimate, main
from search.utility_data import Recorded, common, read_examples
from trainables import detector
from trainables.config import ModelConfig

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "bench"))
from untrained import write_untrained  # noqa: E402

SAMPLES, FS_HZ = 400, 40.0
HOUR_NS = 3_600_000_000_000


def write_data(folder, earthquakes=40, hours=8, pieces=4, samples=SAMPLES, fs_hz=FS_HZ):
    """Bursts of many places, half of them to train, and some pieces of noise of each hour at a station."""
    rng = np.random.default_rng(0)
    count = earthquakes + hours * pieces
    quake = np.arange(count) < earthquakes
    number = np.arange(count) - earthquakes * ~quake
    loud = np.where(quake[:, None, None], np.arange(samples) > samples // 4, 1)
    wave = rng.standard_normal((count, 3, samples)) * loud
    wave[:, 0] += 5 * np.arange(count)[:, None]  # to be known by, before it is z-scored
    rows = pd.DataFrame(
        {
            "event_id": [f"E{n}" if is_quake else "" for n, is_quake in zip(number, quake, strict=True)],
            "label": np.where(quake, "earthquake", "noise"),
            "network": "XX",
            "station": "S",
            "start_ns": number // pieces * HOUR_NS,
            "event_latitude": np.where(quake, 30.0 + number / 4, np.nan),
            "event_longitude": np.where(quake, 10.0, np.nan),
            "usable_low_hz": 0.05,
            "usable_high_hz": 0.4 * fs_hz,
        }
    )
    part = pd.Series(np.where(np.arange(count) % 2 == 0, "train", np.where(np.arange(count) % 4 == 1, "val", "test")))
    folder.mkdir(parents=True)
    rejected = pd.DataFrame({"record": [], "kind": [], "reason": []})
    wave = wave.astype(np.float32)
    prepared_dataset.write_dataset(folder, wave, rows, part, rejected, {"fs_hz": fs_hz})
    return folder


def write_result(folder, data, components="ENZ", samples=SAMPLES, fs_hz=FS_HZ):
    """A finished search on these data, whose generator was never trained."""
    model = ModelConfig(latent_dim=100, base_channels=2, kernel=8, components=components)
    records = {"earthquake": (torch.ones(9, 1), torch.ones(9, len(components)))}
    write_untrained(folder, model, samples, fs_hz, records)
    about = resolved(SearchConfig(), {"data": str(data), "dataset": sha256(data / "manifest.json")})
    (folder / "search.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def short(monkeypatch):
    """Trainings of two steps, which learn nothing."""
    monkeypatch.setattr(detector, "STEPS", 2)
    monkeypatch.setattr(utility_data, "GENERATED", 20)
    monkeypatch.setattr(utility, "MIXTURES", 20)


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


@pytest.fixture
def result(tmp_path, data):
    return write_result(tmp_path / "result", data)


def test_both_classes_come_at_one_rate_in_one_band_and_of_one_length():
    def sines(fs_hz, seconds, high_hz):
        time = np.arange(round(seconds * fs_hz)) / fs_hz
        return Recorded(sum(np.sin(2 * np.pi * hz * time) for hz in (10, 45))[None, None], fs_hz, high_hz)

    fs_hz, band_hz, waves = common({"slow": sines(100.0, 12.0, 40.0), "fast": sines(200.0, 40.0, 25.0)})
    assert (fs_hz, band_hz) == (100.0, (0.1, 25.0))
    for wave in waves.values():
        assert wave.shape == (1, 1, 1200)
        spectrum = torch.fft.rfft(wave[0, 0]).abs() / 600
        assert float(spectrum[120]) == pytest.approx(2**0.5, rel=0.02)  # 10 Hz, of standard deviation 1
        assert float(spectrum[540]) < 0.15  # 45 Hz


def test_the_earthquakes_are_of_the_parts_they_are_said_to_be_of(result, data, monkeypatch):
    monkeypatch.setattr(utility_data, "GENERATED", 12)
    examples = read_examples(result, None)
    assert [len(each) for each in (examples.train, examples.test, examples.generated)] == [20, 10, 12]
    assert examples.train.shape[1:] == (3, SAMPLES)
    stored = np.load(data / "test.npy")[pd.read_parquet(data / "test.parquet")["label"] == "earthquake"]
    for ours, theirs in zip(examples.test.numpy(), stored, strict=True):
        assert np.corrcoef(ours[1], theirs[1])[0, 1] > 0.8  # but for the band


def test_held_out_noise_shares_no_hour_with_the_rest(data, monkeypatch):
    monkeypatch.setattr(utility_data, "_recorded", lambda dataset, part, label, letters: _numbers(part, label))
    halves = utility_data._held_out(prepared_dataset.open_dataset(data), "ENZ")
    seen = [set(half.wave // HOUR_NS) for half in halves]
    assert not seen[0] & seen[1]
    assert len(seen[0]) == len(seen[1]) == 4


def _numbers(part, label):
    """In place of windows the times they start at."""
    return Recorded(part.rows.loc[part.rows["label"] == label, "start_ns"].to_numpy(), FS_HZ, 16.0)


def test_another_dataset_may_give_the_noise(tmp_path, result):
    other = write_data(tmp_path / "other", samples=300)
    examples = read_examples(result, other)
    assert examples.train.shape[2] == 300  # what both have
    assert examples.noise_source == "of other"


def test_the_demo_whose_records_are_too_short_before_p_has_its_noise_made_up(tmp_path):
    data = write_data(tmp_path / "demo-data" / "prepared", hours=0)
    (tmp_path / "demo-data" / "archive").mkdir()
    (tmp_path / "demo-data" / "archive" / "demo.json").touch()
    examples = read_examples(write_result(tmp_path / "demo-1", data, components="Z"), None)
    assert examples.noise.shape == examples.held_noise.shape == (256, 1, SAMPLES)
    assert not torch.equal(examples.noise, examples.held_noise)
    assert DEMO_FS_HZ > FS_HZ  # so that it went through the same resampling


def test_the_command_compares_all_ways_to_learn_and_gives_the_same_again(result, run_here, short):
    status, printed, error = run_here(main, result, "--seeds", 2)
    assert (status, error) == (0, "")
    content = json.loads((result / UTILITY).read_text())
    rows = {(row["real_records"], row["method"]): row for row in content["rows"]}
    assert set(rows) == {(0, ALONE), *((size, method) for size in (8, 20) for method in METHODS)}
    assert content["windows"] == {"train": 20, "test": 10, "generated": 20, "noise": 16, "held_noise": 16}
    gains = {(gain["real_records"], gain["method"]): gain["mean"] for gain in content["gains"]}
    gain = rows[8, GENERATED]["accuracy"]["mean"] - rows[8, REAL]["accuracy"]["mean"]
    assert gains[8, GENERATED] == pytest.approx(gain)
    assert " ".join(content["finding"].split()) in " ".join(printed.split())
    before = (result / UTILITY).read_bytes()
    run_here(main, result, "--seeds", 2)
    assert (result / UTILITY).read_bytes() == before


def test_an_estimate_is_the_mean_of_seeds_and_students_interval():
    estimate = Estimate.of([1.0, 2.0, 3.0])
    assert estimate.mean == 2.0
    assert estimate.margin == pytest.approx(4.302653 / 3**0.5)


def test_the_finding_names_the_numbers_of_records_at_which_the_difference_is_beyond_the_interval():
    def gain(size, mean):
        return {"real_records": size, "method": GENERATED, "over": REAL, "mean": mean, "margin": 0.02}

    gains = [gain(8, 0.05), gain(32, 0.021), gain(128, 0.01), gain(480, -0.03)]
    words = "'real + generated' beats 'real' in accuracy by more than the interval"
    assert utility._finding(gains, GENERATED, REAL) == f"{words} with 8, 32 real records, and falls short with 480."
    assert utility._finding(gains[2:3], GENERATED, REAL) == f"{words} with no number of real records."


@pytest.mark.parametrize(
    ("change", "arguments", "complaint"),
    [
        ({}, ["--seeds", "1"], "--seeds is 1; expected 2 to 100"),
        ({"hours": 0}, [], "no windows of noise; give --noise DIR"),
        ({"hours": 2}, [], "4 windows of noise for noise"),
        ({"earthquakes": 12}, [], "6 windows of earthquake for train"),
        ({"fs_hz": 50.0}, [], "400 samples at 50 Hz, the generator 400 at 40 Hz"),
        ({}, ["--noise", "nowhere"], "dataset nowhere: no manifest.json"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path, run_here, change, arguments, complaint):
    result = write_result(tmp_path / "result", write_data(tmp_path / "data", **change))
    status, _, error = run_here(main, result, *arguments)
    assert status == 2
    assert complaint in error
    assert error.count("\n") == 1
    assert not (result / UTILITY).exists()


def test_a_search_that_has_not_ended_or_whose_data_changed_is_refused(tmp_path, result, data, run_here):
    (data / "manifest.json").write_text((data / "manifest.json").read_text() + " ")
    status, _, error = run_here(main, result)
    assert (status, "is not the dataset that search result ran on" in error) == (2, True)
    (result / "best" / "config.json").unlink()
    status, _, error = run_here(main, result)
    assert (status, "expected the folder of a finished search" in error) == (2, True)


def test_the_page_tells_it_once_it_was_tried(result, run_here, short):
    assert "Does it help?" not in write_report(result).read_text()
    run_here(main, result, "--seeds", 2)
    page, content = write_report(result).read_text(), json.loads((result / UTILITY).read_text())
    assert "Does it help?" in page
    assert '<a href="#utility">' in page
    alone = content["rows"][0]["accuracy"]
    assert f"{100 * alone['mean']:.1f} ±{100 * alone['margin']:.1f}" in page
    (result / UTILITY).write_text("{}")
    with pytest.raises(ValueError, match=r"utility.json is damaged .*; write it again with search/utility.py"):
        write_report(result)
