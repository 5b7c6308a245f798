"""A small archive of made-up records in ITACA's own form, to try the search before any data are at hand.

The waveforms come from `stochastic.py`, events and stations from `demo_catalogue.py`. A few more records
carry the flaws that preparation has to reject.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from obspy import Inventory, Trace, UTCDateTime
from obspy.core import event as quakeml
from obspy.core.inventory import Channel, Network, Site
from obspy.core.inventory import Station as StationXML
from pyasdf import ASDFDataSet

from data_prep.demo_catalogue import (
    Earthquake,
    Station,
    draw_events,
    epicentral_km,
    generator,
    hypocentral_km,
)
from data_prep.files import write_json, written_whole
from data_prep.stochastic import FS_HZ, P_WAVE, arrival_s, background_noise, ground_motion

Wave = NDArray[np.float32]

N_FILES = 4
NETWORK = "XX"
CHANNELS = ("HGE", "HGN", "HGZ")


@dataclass(frozen=True)
class Record:
    """One record, its wave (C, T) in cm/s2; fewer rows than `CHANNELS` where components are missing."""

    event: Earthquake
    station: Station
    start: UTCDateTime
    wave: Wave
    processing: str = "mp"


@dataclass(frozen=True)
class Planted:
    """Where a record that preparation has to reject stands, and why it has to."""

    flaw: str
    event_id: str
    station: str
    processing: str


@dataclass(frozen=True)
class DemoArchive:
    """What `write_demo_archive` wrote: paths, sound and planted records."""

    files: tuple[Path, ...]
    flatfile: Path
    n_sound: int
    planted: tuple[Planted, ...]


def _constant_component(wave_CT: Wave) -> Wave:
    return np.concatenate([np.full_like(wave_CT[:1], 0.3), wave_CT[1:]])


def _missing_samples(wave_CT: Wave) -> Wave:
    gap = (np.arange(wave_CT.shape[1]) // 50 == 20) & (np.arange(3) == 1)[:, None]
    return np.where(gap, np.float32(np.nan), wave_CT)


def _clipped(wave_CT: Wave) -> Wave:
    limit = 0.2 * np.abs(wave_CT).max()
    return np.clip(wave_CT, -limit, limit)


def _noise_only(wave_CT: Wave) -> Wave:
    return background_noise(wave_CT.shape[1], np.random.default_rng(0)).astype(np.float32)


DUPLICATE = "cv duplicate of an mp"
FLAWS: dict[str, Callable[[Wave], Wave]] = {
    "constant component": _constant_component,
    "NaN samples": _missing_samples,
    "too short": lambda wave_CT: wave_CT[:, : int(5 * FS_HZ)],
    "clipped": _clipped,
    "noise only": _noise_only,
    "missing component": lambda wave_CT: wave_CT[:2],
    # An unprocessed copy: the offset of the sensor is still in.
    DUPLICATE: lambda wave_CT: wave_CT + np.float32(1.5),
}


def write_demo_archive(folder: Path, n_events: int = 600, stations_per_event: int = 1, seed: int = 0) -> DemoArchive:
    """Write the demo archive to `folder`, whole or not at all; do nothing where it already is.

    There are n_events x stations_per_event sound records and one planted record for each of `FLAWS`, in
    `itaca_demo_01.h5` and so on, described by `flatfile.csv` and `demo.json`. The waveforms depend on the
    arguments alone. An earthquake for each record, as a tenth of them has to be like the others in magnitude.
    Raises ValueError for numbers that cannot be met, and if `folder` holds something else.
    """
    _check_numbers(n_events, stations_per_event)
    # the last station of an event is for the record that may be planted there
    events = draw_events(n_events, stations_per_event + 1, seed)
    settings = {"n_events": n_events, "stations_per_event": stations_per_event, "seed": seed}
    names = tuple(f"itaca_demo_{i + 1:02d}.h5" for i in range(N_FILES))
    planted = [_planted(flaw, event) for flaw, event in zip(FLAWS, events, strict=False)]
    content = {"settings": settings, "planted": [asdict(p) for p in planted]}
    if folder.exists():
        _check_content(folder, content)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(folder) as aside:
            _write(aside, names, events, seed)
            write_json(aside / "demo.json", content)
    files = tuple(folder / name for name in names)
    return DemoArchive(files, folder / "flatfile.csv", n_events * stations_per_event, tuple(planted))


def _check_numbers(n_events: int, stations_per_event: int) -> None:
    if n_events < len(FLAWS) or not 1 <= stations_per_event <= 8:
        raise ValueError(f"{n_events} events at {stations_per_event} stations: expected {len(FLAWS)} or more at 1 to 8")


def _check_content(folder: Path, content: dict[str, Any]) -> None:
    found = folder / "demo.json"
    if not found.is_file() or json.loads(found.read_text()) != content:
        raise ValueError(
            f"{folder} is not the demo archive of {content['settings']}: remove it or choose another folder"
        )


def _write(folder: Path, names: Iterable[str], events: list[Earthquake], seed: int) -> None:
    folder.mkdir()
    rows = []
    for name, indices in zip(names, np.array_split(np.arange(len(events)), N_FILES), strict=True):
        records = [record for i in indices for record in _event_records(events[i], int(i), seed)]
        rows += _write_asdf(folder / name, [events[i] for i in indices], records)
    pd.DataFrame(rows).to_csv(folder / "flatfile.csv", sep=";", index=False)


def _planted(flaw: str, event: Earthquake) -> Planted:
    station = event.stations[0 if flaw == DUPLICATE else -1]
    return Planted(flaw, event.id, station.code, "cv" if flaw == DUPLICATE else "mp")


def _event_records(event: Earthquake, index: int, seed: int) -> list[Record]:
    """The sound records of an event, then the planted one where the event has one."""
    *sound, extra = [_draw_record(event, s, generator(seed, index, rank)) for rank, s in enumerate(event.stations)]
    if index >= len(FLAWS):
        return sound
    flaw = list(FLAWS)[index]
    origin = sound[0] if flaw == DUPLICATE else extra
    spoilt = FLAWS[flaw](origin.wave)
    return [*sound, replace(origin, wave=spoilt, processing=_planted(flaw, event).processing)]


def _draw_record(event: Earthquake, station: Station, rng: np.random.Generator) -> Record:
    """A sound record of 33 to 37 s whose P arrives 6 to 8 s after its start."""
    onset_s, length_s = rng.uniform(6, 8), rng.uniform(33, 37)
    distance_km, n_samples = hypocentral_km(event, station), int(length_s * FS_HZ)
    motion_CT = ground_motion(event.magnitude, distance_km, onset_s, n_samples, rng)
    wave_CT = (motion_CT + background_noise(n_samples, rng)).astype(np.float32)
    return Record(event, station, event.time + arrival_s(P_WAVE, distance_km) - onset_s, wave_CT)


def _write_asdf(path: Path, events: list[Earthquake], records: list[Record]) -> list[dict[str, Any]]:
    """Write one archive file and return its rows of the flatfile."""
    rows = []
    with ASDFDataSet(str(path), compression="gzip-3", mode="w", mpi=False) as archive:
        archive.add_quakeml(quakeml.Catalog([_quakeml(event) for event in events]))
        archive.add_stationxml(_inventory({record.station for record in records}))
        for record in records:
            for channel, wave_T in zip(CHANNELS, record.wave, strict=False):
                trace = _trace(record, channel, wave_T)
                tag = f"{channel}_{record.event.id}_acc_{record.processing}".lower().replace("-", "_")
                archive.add_waveforms(trace, tag=tag, event_id=_resource_id(record.event))
                rows.append(_flatfile_row(record, trace, tag, path))
    return rows


def _trace(record: Record, channel: str, wave_T: Wave) -> Trace:
    header = {"network": NETWORK, "station": record.station.code, "channel": channel}
    return Trace(np.ascontiguousarray(wave_T), header | {"starttime": record.start, "sampling_rate": FS_HZ})


def _flatfile_row(record: Record, trace: Trace, tag: str, path: Path) -> dict[str, Any]:
    event, station, stats = record.event, record.station, trace.stats
    start, end = (time.strftime("%Y-%m-%dT%H:%M:%S") for time in (stats.starttime, stats.endtime))
    return {
        "EVENT_NAME": f"Demo {event.id[-4:]}",
        "EVENT_ID": event.id,
        "EVENT_LATITUDE_DEGREE": event.latitude,
        "EVENT_LONGITUDE_DEGREE": event.longitude,
        "EVENT_DEPTH_KM": event.depth_km,
        "Ml": None,
        "Mw": event.magnitude,
        "NETWORK": NETWORK,
        "STATION_CODE": station.code,
        "STATION_NAME": f"Demo {station.code}",
        "STATION_LATITUDE_DEGREE": station.latitude,
        "STATION_LONGITUDE_DEGREE": station.longitude,
        "epi_dist_km": round(epicentral_km(event, station), 2),
        "SAMPLING_INTERVAL_S": stats.delta,
        "NDATA": stats.npts,
        "dur_s": round(stats.endtime - stats.starttime, 3),
        "component": stats.channel,
        "filename": path.name,
        "dataset": f"{trace.id}__{start}__{end}__{tag}",
        "nation": "IT",
        "processing": record.processing.upper(),
        "pga_cm_s2": round(float(np.nanmax(np.abs(trace.data))), 4),
        "event_time": event.time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "vs30_m_s": None,
        "source": "stochastic method (Boore 2003)",
    }


def _resource_id(event: Earthquake) -> str:
    return f"smi:local/demo?event_id={event.id}"


def _quakeml(event: Earthquake) -> quakeml.Event:
    depth_m = event.depth_km * 1000
    origin = quakeml.Origin(time=event.time, latitude=event.latitude, longitude=event.longitude, depth=depth_m)
    magnitude = quakeml.Magnitude(mag=event.magnitude, magnitude_type="Mw", origin_id=origin.resource_id)
    return quakeml.Event(
        resource_id=_resource_id(event),
        event_type="earthquake",
        origins=[origin],
        magnitudes=[magnitude],
        preferred_origin_id=origin.resource_id,
        preferred_magnitude_id=magnitude.resource_id,
    )


def _inventory(stations: Iterable[Station]) -> Inventory:
    nodes = [_station_xml(station) for station in sorted(stations, key=lambda station: station.code)]
    return Inventory(networks=[Network(NETWORK, stations=nodes)], source="stochastic method")


def _station_xml(station: Station) -> StationXML:
    place = {"latitude": station.latitude, "longitude": station.longitude, "elevation": 0.0}
    orientations = ((90.0, 0.0), (0.0, 0.0), (0.0, -90.0))
    channels = [
        Channel(code, "", depth=0.0, azimuth=azimuth, dip=dip, sample_rate=FS_HZ, **place)
        for code, (azimuth, dip) in zip(CHANNELS, orientations, strict=True)
    ]
    return StationXML(station.code, channels=channels, site=Site(f"Demo {station.code}"), **place)
