"""A made-up archive, stored as the web services store theirs, for the benchmarks of the preparation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy.signal import butter, sosfilt

FS_HZ, SLOW_FS_HZ, SECONDS = 200.0, 100.0, 60.0
RECORDS_A_FILE = 20
STORED = {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True}
# A header of ITACA's has 53 attributes; these three stand 33rd, 45th and 46th.
_TOLD = {32: ("units", "cm/s^2"), 44: ("low_cut_frequency_hz", "0.100"), 45: ("high_cut_frequency_hz", "40.000")}
HEADER = dict(_TOLD.get(number, (f"attribute_{number}", "None")) for number in range(53))
STATION_XML = b"""<?xml version='1.0' encoding='UTF-8'?>
<FDSNStationXML xmlns="http://www.fdsn.org/xml/station/1" schemaVersion="1.0"><Source>benchmark</Source>
<Created>2020-01-01T00:00:00</Created><Network code="IT"><Station code="%s"><Latitude>42.0</Latitude>
<Longitude>13.0</Longitude><Elevation>100.0</Elevation><Site><Name>benchmark</Name></Site></Station></Network>
</FDSNStationXML>"""


@dataclass(frozen=True)
class Archive:
    """Files of one event each, their flatfile, and how many records they hold."""

    files: list[Path]
    flatfile: Path
    records: int


def make_archive(folder: Path, records: int) -> Archive:
    """Write an archive, a file for each event, and its flatfile into `folder`."""
    rows, flatfile = [], folder / "flatfile.csv"
    for number, start in enumerate(range(0, records, RECORDS_A_FILE)):
        rows += _write_file(folder / f"itaca_{number:04d}.h5", number, min(RECORDS_A_FILE, records - start))
    pd.DataFrame(rows).to_csv(flatfile, sep=";", index=False)
    return Archive(sorted(folder.glob("*.h5")), flatfile, records)


def first(archive: Archive, files: int) -> Archive:
    """The first files of an archive, with a flatfile of their own."""
    table = pd.read_csv(archive.flatfile, sep=";", dtype=str, keep_default_na=False)
    table = table[table["filename"].isin([path.name for path in archive.files[:files]])]
    flatfile = archive.flatfile.with_name(f"first-{files}.csv")
    table.to_csv(flatfile, sep=";", index=False)
    return Archive(archive.files[:files], flatfile, len(table) // 3)


def _write_file(path: Path, number: int, records: int) -> list[dict[str, Any]]:
    """Write one event's records and return their rows of the flatfile."""
    rng, day = np.random.default_rng(number), pd.Timestamp("2000-01-01") + pd.Timedelta(days=number)
    event = f"EMSC-{day:%Y%m%d}_{number:07d}"
    source = {
        "EVENT_ID": event,
        "EVENT_LATITUDE_DEGREE": round(rng.uniform(41, 44), 4),
        "EVENT_LONGITUDE_DEGREE": round(rng.uniform(12.5, 14), 4),
        "EVENT_DEPTH_KM": 10.0,
        "Ml": "",
        "Mw": round(rng.uniform(4.1, 6.5), 1),
    }
    rows = []
    with h5py.File(path, "w") as file:
        file.attrs["file_format"], file.attrs["file_format_version"] = np.bytes_("ASDF"), np.bytes_("1.0.3")
        file.create_group("Provenance")
        header = _header(file)
        for record in range(records):
            fs_hz, station = (SLOW_FS_HZ if record % 4 == 0 else FS_HZ), f"S{record:03d}"
            padded = np.frombuffer((STATION_XML % station.encode()).ljust(1800), np.int8)
            file.create_dataset(f"Waveforms/IT.{station}/StationXML", data=padded, maxshape=(None,), **STORED)
            end, distance_km = day + pd.Timedelta(seconds=SECONDS), round(rng.uniform(5, 150), 1)
            for axis, samples in zip("ENZ", _record(fs_hz, rng), strict=True):
                tag = f"HN{axis}_{event}_acc_mp".lower().replace("-", "_")
                key = f"IT.{station}..HN{axis}__{day:%Y-%m-%dT%H:%M:%S}__{end:%Y-%m-%dT%H:%M:%S}__{tag}"
                data = file.create_dataset(f"Waveforms/IT.{station}/{key}", data=samples, maxshape=(None,), **STORED)
                data.attrs["event_id"] = np.bytes_(f"smi:esm-db.eu/fdsnws/event/1/query?event_id={event}")
                data.attrs["sampling_rate"], data.attrs["starttime"] = fs_hz, np.int64(day.value)
                file.copy(header, f"AuxiliaryData/Headers/IT_{station}/{tag}")
                names = {"component": f"HN{axis}", "filename": path.name, "dataset": key, "processing": "MP"}
                place = {"NETWORK": "IT", "STATION_CODE": station, "epi_dist_km": distance_km, "nation": "IT"}
                rows.append(source | place | names)
        del file["header"]
    return rows


def _header(file: h5py.File) -> h5py.Dataset:
    header = file.create_dataset("header", data=np.zeros(1, np.int8), **STORED)
    header.attrs.update(HEADER)
    file.create_group("AuxiliaryData/Headers")
    return header


def _record(fs_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Noise, then a weak P and a strong S burst of noise up to 25 Hz, each dying away; (3, T) in cm/s²."""
    time_s = np.arange(round(fs_hz * SECONDS)) / fs_hz
    p_s, delay_s, decay_s, peak, noise_cm_s2 = rng.uniform([8, 2, 1.5, 5, 0.003], [15, 8, 5, 200, 0.03])
    shape = _burst(time_s - p_s, decay_s) * 0.1 + _burst(time_s - p_s - delay_s, decay_s)
    band = butter(2, [0.1, 25], "bandpass", fs=fs_hz, output="sos")
    shock, noise = rng.standard_normal((2, 3, time_s.size))
    wave = peak * sosfilt(band, shape * shock) + noise_cm_s2 * noise
    return np.asarray(wave.round(6), np.float32)


def _burst(time_s: np.ndarray, decay_s: float) -> np.ndarray:
    later = np.maximum(time_s, 0)
    return np.where(time_s > 0, np.exp(-later / decay_s) * np.minimum(1, 0.2 + later), 0)
