"""Made-up stations and earthquakes, scattered over central Italy.

Every event has enough stations within the reach of the model in `stochastic.py`.
"""

from dataclasses import dataclass, replace

import numpy as np
from obspy import UTCDateTime
from obspy.geodetics import degrees2kilometers, locations2degrees

from data_prep.stochastic import MAX_DISTANCE_KM

LATITUDES, LONGITUDES = (42.0, 43.4), (12.4, 13.7)
STATION_GRID = (7, 6)
MIN_EPICENTRAL_KM = 5.0
DEPTHS_KM = (5.0, 15.0)
MAGNITUDES = (4.1, 6.3)


@dataclass(frozen=True)
class Station:
    """A made-up station; degrees."""

    code: str
    latitude: float
    longitude: float


@dataclass(frozen=True)
class Earthquake:
    """A made-up event and the stations that record it; degrees."""

    id: str
    time: UTCDateTime
    latitude: float
    longitude: float
    depth_km: float
    magnitude: float
    stations: tuple[Station, ...] = ()


def epicentral_km(event: Earthquake, station: Station) -> float:
    """Great-circle distance in km between epicentre and station."""
    degrees = locations2degrees(event.latitude, event.longitude, station.latitude, station.longitude)
    return float(degrees2kilometers(degrees))


def hypocentral_km(event: Earthquake, station: Station) -> float:
    """Distance in km between hypocentre and station."""
    return float(np.hypot(epicentral_km(event, station), event.depth_km))


def generator(seed: int, *key: int) -> np.random.Generator:
    """Random numbers of their own for each key: none for the stations, event, or event and record."""
    # A spawn key, because the plain seeds (s, i) and (s, i, 0) give the same numbers.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw_stations(seed: int) -> list[Station]:
    """Stations on a grid, each moved by up to a third of its spacing."""
    grid = np.indices(STATION_GRID).reshape(2, -1)
    share = (grid + 0.5 + generator(seed).uniform(-1 / 3, 1 / 3, grid.shape)) / np.reshape(STATION_GRID, (2, 1))
    latitude = np.interp(share[0], (0, 1), LATITUDES).round(4).tolist()
    longitude = np.interp(share[1], (0, 1), LONGITUDES).round(4).tolist()
    return [Station(f"D{i + 1:03d}", *place) for i, place in enumerate(zip(latitude, longitude, strict=True))]


def draw_events(n_events: int, n_stations: int, seed: int) -> list[Earthquake]:
    """Events ten days apart, each recorded by `n_stations` stations."""
    stations = draw_stations(seed)
    return [_draw_event(i, stations, n_stations, generator(seed, i)) for i in range(n_events)]


def _draw_event(index: int, stations: list[Station], n_stations: int, rng: np.random.Generator) -> Earthquake:
    """Draw an event until enough stations are near it."""
    near: list[Station] = []
    while len(near) < n_stations:
        event = _draw_source(index, rng)
        near = [station for station in stations if _within_reach(event, station)]
    chosen = rng.choice(len(near), n_stations, replace=False)
    return replace(event, stations=tuple(near[i] for i in chosen))


def _draw_source(index: int, rng: np.random.Generator) -> Earthquake:
    # Magnitudes are uniform, not Gutenberg-Richter, so that few events show all durations.
    return Earthquake(
        id=f"DEMO-{index + 1:04d}",
        time=UTCDateTime(2001, 1, 1) + round((10 * index + rng.uniform()) * 86400, 2),
        latitude=round(rng.uniform(*LATITUDES), 4),
        longitude=round(rng.uniform(*LONGITUDES), 4),
        depth_km=round(rng.uniform(*DEPTHS_KM), 1),
        magnitude=round(rng.uniform(*MAGNITUDES), 1),
    )


def _within_reach(event: Earthquake, station: Station) -> bool:
    far_enough = epicentral_km(event, station) >= MIN_EPICENTRAL_KM
    return far_enough and hypocentral_km(event, station) <= MAX_DISTANCE_KM
