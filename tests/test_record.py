import h5py
import numpy as np
import obspy
import pytest
from scipy import signal

from data_prep import process
from data_prep.archive import index_archives, read_traces
from data_prep.record import Job, PrepareSettings, prepare_records

SETTINGS = PrepareSettings(country="any", min_magnitude=0.0, max_depth_km=1000.0)
PASS_HZ = 40.0


def jobs_of(paths):
    index = index_archives(paths)
    keys = index[["E", "N", "Z"]].to_numpy().tolist()
    return [Job(path, tuple(three), SETTINGS, PASS_HZ) for path, three in zip(index["source_file"], keys, strict=True)]


def traces_of(job):
    with h5py.File(job.path) as file:
        return read_traces(file, job.keys)


@pytest.fixture(scope="module")
def real_jobs(strong_motion):
    """Records at 100, 125, 200 and 250 Hz."""
    return jobs_of([strong_motion / f"itaca_data_0{number}.h5" for number in (2, 4, 7)])


def test_restored_windows_are_the_processed_records(real_jobs):
    """Window times standard deviation plus mean, against detrended, resampled and filtered records: to 1e-5."""
    results = prepare_records(real_jobs)
    compared = 0
    for job, result in zip(real_jobs, results, strict=True):
        if not isinstance(result, list):
            continue
        row, traces = result[0].row, traces_of(job)
        whole = process.stack(traces.samples, traces.fs_hz, traces.start_ns)
        processed = process.low_pass(process.resample(process.detrend(whole), traces.fs_hz[0], 200.0), 200.0, PASS_HZ)
        start = round((row["start_ns"] - traces.start_ns[0]) / 1e9 * 200)
        sound = row["n_valid"] - (200 if row["n_valid"] < 8000 else 0)  # the last second of a short one is tapered
        std, mean = (np.array([row[f"{name}_{c}_cm_s2"] for c in "enz"])[:, None] for name in ("std", "mean"))
        restored = result[0].wave[:, :sound] * std + mean
        scale = np.abs(processed).max(axis=1, keepdims=True)
        np.testing.assert_allclose(restored / scale, processed[:, start : start + sound] / scale, atol=1e-5)
        assert row["pga_cm_s2"] == pytest.approx(
            np.sqrt(np.prod(np.abs(processed[:2, start : start + row["n_valid"]]).max(axis=1))), rel=1e-5
        )
        compared += 1
    assert compared > 60


def test_real_records_are_detrended_and_resampled_as_obspy_does(real_jobs):
    """To 1e-3 of the peak, below 0.64 of the lower Nyquist frequency, where neither anti-alias filter bites.

    Records are tapered first, and cut to lengths with a whole number of new samples: obspy takes them for periodic.
    """
    rates = set()
    for job in real_jobs:
        traces = traces_of(job)
        fs_hz, length = traces.fs_hz[0], traces.samples[0].size // 1000 * 1000
        taper = signal.windows.tukey(length, 0.2)
        wave = process.detrend(np.array([samples[:length] for samples in traces.samples], np.float64)) * taper
        reference = [_by_obspy(samples[:length], taper, fs_hz) for samples in traces.samples]
        ours = process.resample(wave, fs_hz, 200.0)
        kept = [process.low_pass(np.array(x), 200.0, 0.32 * min(fs_hz, 200.0)) for x in (ours, reference)]
        peak = np.abs(kept[1]).max(axis=1, keepdims=True)
        ours, reference = (np.array(x)[:, 200:-200] / peak for x in kept)  # obspy's ends ring into each other
        np.testing.assert_allclose(ours, reference, atol=1e-3)
        rates.add(fs_hz)
    assert rates >= {100.0, 200.0}


def _by_obspy(samples, taper, fs_hz):
    trace = obspy.Trace(samples.astype(np.float64), {"sampling_rate": fs_hz})
    trace.detrend("linear")
    trace.data *= taper
    return (trace if fs_hz == 200 else trace.resample(200.0, window=None)).data


def test_a_file_that_has_gone_is_told_for_each_of_its_records(archive_factory):
    path, _ = archive_factory({}, {"station": "BBB"})
    jobs = jobs_of([path])
    path.unlink()
    assert [result.kind for result in prepare_records(jobs)] == ["unreadable", "unreadable"]
