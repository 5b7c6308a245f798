"""What `search/generate.py` writes, from the export of a generator that was never trained."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data_prep.files import sha256
from search import generate
from search.export.load import load_best, load_records
from search.generate import write_waveforms
from search.waveforms.conditions import NEAREST
from trainables.config import ModelConfig

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "bench"))
from untrained import write_untrained  # noqa: E402

SAMPLES, FS_HZ = 400, 40.0
CONDITIONS = ("magnitude", "log_distance", "depth")
STANDARDS = {
    "magnitude": {"mean": 5.0, "std": 0.5},
    "log_distance": {"mean": 3.0, "std": 0.7},
    "depth": {"mean": 10.0, "std": 4.0},
}
SCALES = [f"std_{c}_cm_s2" for c in "enz"]


def records(count=60, conditions=3, seed=0):
    """Labels, conditions and scales; the first record's unit is unknown."""
    rng = torch.Generator().manual_seed(seed)
    told = torch.cat([torch.ones(count, 1), torch.randn(count, conditions, generator=rng)], dim=1)
    scale = torch.rand(count, 3, generator=rng) * 50 + 1
    scale[0] = torch.nan
    return told, scale


@pytest.fixture(scope="session")
def result(tmp_path_factory):
    """Told of magnitude, distance and depth, and of noise whose unit nobody knows."""
    folder = tmp_path_factory.mktemp("result")
    model = ModelConfig(latent_dim=100, base_channels=2, kernel=8, conditions=CONDITIONS)
    noise = torch.zeros(9, 4), torch.full((9, 3), torch.nan)
    write_untrained(folder, model, SAMPLES, FS_HZ, {"earthquake": records(), "noise": noise}, STANDARDS)
    return folder


@pytest.fixture(scope="session")
def told_nothing(tmp_path_factory):
    """Told nothing but the label, for two components."""
    folder = tmp_path_factory.mktemp("result")
    model = ModelConfig("gated", latent_dim=100, base_channels=2, kernel=8, components="EZ")
    write_untrained(folder, model, 300, FS_HZ, {"earthquake": (torch.ones(5, 1), torch.ones(5, 2))})
    return folder


def generated(result, count, out, **options):
    """The waveforms of a .npy and their table."""
    write_waveforms(result, count, out, **options)
    return np.load(out), pd.read_csv(out.with_suffix(".csv"))


def test_waveforms_are_normalised_finite_and_each_is_another(result, tmp_path):
    wave, table = generated(result, 70, tmp_path / "x.npy")
    assert (wave.shape, wave.dtype) == ((70, 3, SAMPLES), np.float32)
    np.testing.assert_allclose(wave.std(-1), 1, atol=1e-4)
    np.testing.assert_allclose(wave.mean(-1), 0, atol=1e-4)
    assert len(np.unique(wave[:, 0, 200])) == 70
    assert (table["index"] == np.arange(70)).all()
    assert set(table["units"]) == {"normalised"}


def test_every_waveform_has_the_conditions_and_the_scales_of_the_record_that_its_row_names(result, tmp_path):
    wave, table = generated(result, 70, tmp_path / "x.npy", units="cm/s2")
    training = load_records(result, "earthquake", scaled=False)
    scale = training.scale.numpy()[table["training_record"]]
    np.testing.assert_allclose(wave.std(-1), scale, rtol=1e-3)
    np.testing.assert_array_equal(table[SCALES].to_numpy(np.float32), scale)
    magnitude = training.label[:, 1].numpy()[table["training_record"]] * 0.5 + 5
    np.testing.assert_allclose(table["Mw"], magnitude, rtol=1e-5)
    assert not (table["training_record"] == 0).any()  # of unknown unit
    assert table["training_record"].nunique() > 30


def test_the_generator_is_told_what_the_table_says(result, tmp_path, monkeypatch):
    generator, config = load_best(result)
    told = []
    generator.register_forward_pre_hook(lambda network, arguments: told.append(arguments[1]))
    monkeypatch.setattr(generate, "load_best", lambda folder: (generator, config))
    _, table = generated(result, 64, tmp_path / "x.npy", asked={"magnitude": 5.5})
    label, magnitude, log_distance, _ = torch.cat(told).unique(dim=0).numpy().T
    assert (label == 1).all()
    np.testing.assert_allclose(magnitude * 0.5 + 5, 5.5)
    distance_km = np.exp(log_distance * 0.7 + 3)
    np.testing.assert_allclose(np.sort(distance_km), np.unique(table["epi_dist_km"]), rtol=1e-5)
    assert set(table["Mw"]) == {5.5}


def test_what_is_asked_for_takes_its_scales_from_the_records_nearest_to_it(result, tmp_path):
    _, table = generated(result, 100, tmp_path / "x.npy", asked={"magnitude": 5.2, "distance_km": 30.0})
    assert set(table["Mw"]) == {5.2}
    assert set(table["epi_dist_km"]) == {30.0}
    told = load_records(result, "earthquake", scaled=False).label[:, 1:3].numpy()
    away = np.hypot(told[:, 0] - 0.4, told[:, 1] - (np.log(30) - 3) / 0.7)
    assert set(table["training_record"]) == set(away.argsort()[:NEAREST])


def test_a_limit_may_be_asked_for_as_it_is_told(result, tmp_path):
    with pytest.raises(ValueError, match="--distance 1000 is outside the training records; expected") as error:
        write_waveforms(result, 1, tmp_path / "x.npy", asked={"distance_km": 1000.0})
    low, high = str(error.value).split("expected ")[1].split(" to ")
    for limit in (low, high):
        _, table = generated(result, 1, tmp_path / "x.npy", asked={"distance_km": float(limit)})
        assert table["epi_dist_km"][0] == pytest.approx(float(limit), rel=1e-5)


def test_noise_is_of_no_event_and_has_no_conditions(result, tmp_path):
    _, table = generated(result, 3, tmp_path / "x.npy", label="noise")
    assert table[["EVENT_ID", "Mw", "epi_dist_km", *SCALES]].isna().all(axis=None)
    assert set(table["label"]) == {"noise"}


@pytest.mark.parametrize("ending", ["npy", "h5", "mseed"])
def test_the_same_seed_gives_the_same_bytes_whatever_the_threads(result, tmp_path, ending):
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        write_waveforms(result, 70, tmp_path / f"{threads}.{ending}", units="normalised", seed=3)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    write_waveforms(result, 70, tmp_path / f"other.{ending}", units="normalised", seed=4)
    assert sha256(tmp_path / f"1.{ending}") == sha256(tmp_path / f"2.{ending}")
    assert sha256(tmp_path / "1.csv") == sha256(tmp_path / "2.csv")
    assert sha256(tmp_path / f"1.{ending}") != sha256(tmp_path / f"other.{ending}")


@pytest.mark.parametrize("batch", [4, 64])
def test_more_waveforms_begin_with_the_same_whatever_the_batch(result, tmp_path, monkeypatch, batch):
    more, its_table = generated(result, 99, tmp_path / "more.npy")
    monkeypatch.setattr(generate, "BATCH", batch)
    few, table = generated(result, 67, tmp_path / "few.npy")
    np.testing.assert_array_equal(few, more[:67])
    pd.testing.assert_frame_equal(table, its_table[:67])


@pytest.mark.slow
def test_another_kind_of_processor_gives_the_same_waveforms_to_rounding(result, tmp_path):
    """As far as one can pretend to be it: torch and its libraries without any wide registers."""
    plain = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    for name, environment in (("a", {}), ("b", plain)):
        command = [sys.executable, ROOT / "search" / "generate.py", result, "--count", "40", "--out"]
        subprocess.run([*command, tmp_path / f"{name}.npy"], check=True, env=os.environ | environment)
    one, other = (np.load(tmp_path / f"{name}.npy") for name in "ab")
    np.testing.assert_allclose(one, other, rtol=0, atol=5e-6 * np.abs(one).max())
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("ending", ["npy", "h5", "mseed"])
def test_an_error_half_way_leaves_what_was_there(result, tmp_path, monkeypatch, ending):
    calls = []

    def fails_later(*arguments):
        calls.append(arguments)
        if len(calls) > 20:
            raise OSError("No space left on device")
        return waveforms(*arguments)

    waveforms = generate._waveforms
    write_waveforms(result, 2, tmp_path / f"x.{ending}", units="normalised")
    before = {file.name: sha256(file) for file in tmp_path.iterdir()}
    monkeypatch.setattr(generate, "_waveforms", fails_later)
    with pytest.raises(OSError, match="No space left"):
        write_waveforms(result, 200, tmp_path / f"x.{ending}", units="normalised", seed=9)
    assert {file.name: sha256(file) for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"asked": {"magnitude": 9.0}}, "--magnitude 9 is outside the training records; expected"),
        ({"asked": {"magnitude": float("nan")}}, "--magnitude nan is outside the training records"),
        ({"asked": {"magnitude": 5.0}, "label": "noise"}, "--magnitude 5: noise has none; leave --magnitude out"),
        ({"label": "noise", "units": "cm/s2"}, "records of noise have no known unit; generate them normalised"),
        ({"count": 0}, "--count is 0; expected 1 to"),
        ({"seed": -1}, "--seed is -1; expected 0 to"),
        ({"out": "x.sac"}, r"ends in '\.sac'; expected one of \.npy, \.h5, \.mseed"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(result, tmp_path, options, message):
    count, out = options.pop("count", 1), tmp_path / options.pop("out", "x.npy")
    with pytest.raises(ValueError, match=message):
        write_waveforms(result, count, out, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("others", ["file", "folder"])
def test_a_table_of_something_else_is_not_replaced(result, tmp_path, others):
    table = tmp_path / "x.csv"
    table.mkdir() if others == "folder" else table.write_text("mine")
    with pytest.raises(ValueError, match=r"its table would replace .*x\.csv, which is another's; choose another name"):
        write_waveforms(result, 1, tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == [table]


def test_what_a_killed_run_left_is_removed_by_the_next(result, tmp_path):
    for left in (".x.npy.0123abcd.partial.npy", ".x.csv.0123abcd.partial.csv"):
        (tmp_path / left).touch()
    for _ in range(2):  # the second in the place of the first
        write_waveforms(result, 1, tmp_path / "x.npy")
        assert sorted(file.name for file in tmp_path.iterdir()) == ["x.csv", "x.npy"]


def test_a_model_that_was_told_nothing_refuses_conditions(told_nothing, tmp_path, run_here):
    arguments = (told_nothing, "--count", 1, "--out", tmp_path / "x.npy", "--distance", 20)
    status, _, error = run_here(generate.main, *arguments)
    assert status == 2
    reason = "the model was conditioned on nothing but the label; leave --distance out"
    assert error == f"error: --distance 20: {reason}\n"


def test_the_command_says_what_it_wrote(told_nothing, tmp_path, run_here):
    out = tmp_path / "x.npy"
    status, said, error = run_here(generate.main, told_nothing, "--count", 5, "--out", out)
    assert (status, error) == (0, "")
    assert said == f"5 waveforms in {out}, a row of each in {out.with_suffix('.csv')}\n"
    assert np.load(out).shape == (5, 2, 300)
    table = pd.read_csv(out.with_suffix(".csv"))
    assert table[["std_e_cm_s2", "std_z_cm_s2"]].eq(1).all(axis=None)
    assert table["Mw"].isna().all()
