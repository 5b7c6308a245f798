"""Small synthetic archives in ITACA's format, with their flatfiles."""

import signal
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest

from data_prep import dataset
from data_prep.command import run_command
from data_prep.prepare import prepare
from data_prep.record import PrepareSettings
from trainables.batches import PreparedDataset
from trainables.config import EvaluationConfig, ModelConfig, TrainingConfig, TrialConfig

# A job in the background of a shell ignores Ctrl-C, as would the commands it starts, to which tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

RECORD = {
    "event": "EMSC-20200101_0000001",
    "network": "IT",
    "station": "AAA",
    "location": "",
    "band": "HN",
    "axes": "ENZ",
    "data_type": "acc",
    "processing": "mp",
    "fs_hz": 100.0,
    "seconds": 40.0,
    "onset_s": 8.0,
    "start": "2020-01-01T00:00:00",
    "magnitude": 5.0,
    "magnitude_l": "",
    "depth_km": 10.0,
    "distance_km": 30.0,
    "latitude": 42.0,
    "longitude": 13.0,
    "nation": "IT",
    "corners": None,
    "wave": None,
    "in_archive": True,
    "in_flatfile": True,
}


def quake(fs_hz=100.0, seconds=40.0, onset_s=8.0, seed=0):
    """Weak noise, then a shock that rises in 2 s and dies away; (3, T) in cm/s²."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(fs_hz * seconds)) / fs_hz - onset_s
    envelope = np.where(time > 0, (0.3 + np.maximum(time, 0)) * np.exp(-np.maximum(time, 0) / 2), 0)
    noise = rng.standard_normal((2, 3, time.size))
    return 20 * envelope * noise[0] + 0.02 * noise[1]


def _write(file, record):
    wave = record.wave if record.wave is not None else quake(record.fs_hz, record.seconds, record.onset_s, record.seed)
    for axis, samples in zip(record.axes, wave, strict=False):
        data = file.create_dataset(f"Waveforms/{record.network}.{record.station}/{_key(record, axis)}", data=samples)
        data.attrs["sampling_rate"] = record.fs_hz
        data.attrs["starttime"] = np.int64(pd.Timestamp(record.start).value)
        if record.corners:
            tag = _key(record, axis).split("__")[-1]
            header = file.create_dataset(
                f"AuxiliaryData/Headers/{record.network}_{record.station}/{tag}", data=np.zeros(1, np.int8)
            )
            header.attrs["low_cut_frequency_hz"], header.attrs["high_cut_frequency_hz"] = record.corners


def _key(record, axis):
    channel, event = record.band + axis, record.event.lower().replace("-", "_")
    name = f"{record.network}.{record.station}.{record.location}.{channel}__{record.start}__{record.start}"
    return f"{name}__{channel.lower()}_{event}_{record.data_type}_{record.processing}"


def _row(record, axis):
    return {
        "EVENT_ID": record.event,
        "EVENT_LATITUDE_DEGREE": record.latitude,
        "EVENT_LONGITUDE_DEGREE": record.longitude,
        "EVENT_DEPTH_KM": record.depth_km,
        "Ml": record.magnitude_l,
        "Mw": record.magnitude,
        "NETWORK": record.network,
        "STATION_CODE": record.station,
        "epi_dist_km": record.distance_km,
        "component": record.band + axis,
        "filename": "a.h5",
        "dataset": _key(record, axis),
        "nation": record.nation,
        "processing": record.processing.upper(),
    }


@pytest.fixture
def archive_factory(tmp_path):
    """Write records (dicts laid over `RECORD`) to an archive and a flatfile; returns both paths."""

    def make(*records, name="a.h5"):
        full = [SimpleNamespace(**{**RECORD, "seed": seed, **record}) for seed, record in enumerate(records)]
        archive, flatfile = tmp_path / name, tmp_path / f"{name}.csv"
        with h5py.File(archive, "w") as file:
            file.create_group("Waveforms")
            for record in full:
                if record.in_archive:
                    _write(file, record)
        rows = [_row(record, axis) for record in full if record.in_flatfile for axis in record.axes]
        pd.DataFrame(rows, columns=list(_row(full[0], "E"))).to_csv(flatfile, sep=";", index=False)
        return archive, flatfile

    return make


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run a command's `main` with arguments; returns exit status, what it printed and what it complained of."""

    def call(main, *arguments):
        monkeypatch.setattr("sys.argv", ["command", *map(str, arguments)])
        status = 0
        try:
            run_command(main)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def ten_events():
    """Ten records of ten events at ten places far from each other."""
    return [
        {"event": f"EMSC-2020010{n}", "station": f"S{n}", "latitude": 38.0 + n, "longitude": 12.0 + n / 2}
        for n in range(10)
    ]


@pytest.fixture
def make_quake():
    """Synthesise one record, (3, T)."""
    return quake


@pytest.fixture(scope="session")
def strong_motion():
    """Folder of real records, where there is one beside the project."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "strong-motion"
    if not folder.is_dir():
        pytest.skip(f"no real records at {folder}")
    return folder


@pytest.fixture(scope="session")
def real_data(tmp_path_factory, strong_motion):
    """The real records, prepared."""
    folder = tmp_path_factory.mktemp("real") / "data"
    settings = PrepareSettings(country="any", min_magnitude=0.0)
    prepare(sorted(strong_motion.glob("*.h5")), strong_motion / "flatfile.csv", folder, settings, progress=False)
    return PreparedDataset.open(folder)


def _write_prepared(folder, windows=60, samples=400, fs_hz=40.0, events=30, seed=0, noise_every=0):
    """A prepared dataset of z-scored noise under a random envelope, as prepare.py writes it.

    Every so many windows, one is labelled noise, of no event and of unknown unit.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / fs_hz
    onset = rng.uniform(1, 3, (windows, 1, 1))
    wave = rng.standard_normal((windows, 3, samples)) * np.exp(-np.abs(time - onset))
    wave = (wave - wave.mean(-1, keepdims=True)) / wave.std(-1, keepdims=True)
    rows = pd.DataFrame(
        {
            "event_id": [f"E{i % events}" for i in range(windows)],
            "label": "earthquake",
            "usable_low_hz": 0.5,
            "usable_high_hz": 16.0,
            **{f"std_{c}_cm_s2": rng.uniform(1, 50, windows) for c in "enz"},
            "magnitude": rng.uniform(4, 6.5, windows),
            "distance_km": rng.uniform(2, 100, windows),
            "depth_km": rng.uniform(1, 20, windows),
        }
    )
    if noise_every:
        noise = rows.index % noise_every == 0
        rows.loc[noise, ["label", "event_id"]] = ["noise", ""]
        unknown = ["magnitude", "distance_km", "depth_km", *(f"std_{c}_cm_s2" for c in "enz")]
        rows.loc[noise, unknown] = np.nan
    part = pd.Series(["train"] * (windows - windows // 2) + ["val", "test"] * (windows // 4))[:windows]
    folder.mkdir(parents=True)
    rejected = pd.DataFrame({"record": [], "kind": [], "reason": []})
    dataset.write_dataset(folder, wave.astype(np.float32), rows, part, rejected, {"fs_hz": fs_hz})
    return folder


@pytest.fixture(scope="session")
def write_prepared():
    """Write a small prepared dataset into a folder, which is returned."""
    return _write_prepared


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Folder of a small prepared dataset: 30 windows to train, 15 to validate, 15 to test."""
    return _write_prepared(tmp_path_factory.mktemp("data") / "prepared")


@pytest.fixture
def mixed(tmp_path):
    """Folder of a small prepared dataset whose every third window is noise; a test may change it."""
    return _write_prepared(tmp_path / "mixed", noise_every=3)


@pytest.fixture
def trial_config():
    """The smallest training that is a training: two epochs of a narrow network."""
    return TrialConfig(
        ModelConfig(latent_dim=100, base_channels=2, kernel=8),
        TrainingConfig(batch_size=8, n_critic=2, ema_half_life=100.0, max_epochs=2, convolution="direct"),
        EvaluationConfig(fakes=16, splits=10),
    )


@pytest.fixture(scope="session")
def cluster():
    """One small Ray cluster for all tests that need one."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=True,  # Ray Train asks it when to give back the places of a stopped trial's workers
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()
