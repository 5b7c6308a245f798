"""Read ASDF (HDF5) archives as ITACA writes them: which records they hold, and the samples of one record.

Samples are read straight from the HDF5 datasets: a reader that parses every trace's metadata is far slower.
Format: https://asdf-definition.readthedocs.io (keys `Waveforms/NET.STA/NET.STA.LOC.CHA__start__end__tag`).
"""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from h5py import h5s, h5t

from data_prep.flatfile import IDENTITY
from data_prep.parallel import Runner

COMPONENTS = ("E", "N", "Z")
MOST_SAMPLES = 50_000_000  # three days at 200 Hz
PROCESSING_RANK = {"mp": 0, "ap": 1, "cv": 2, "": 3}  # manual, automatic, converted only, unknown
_SUFFIXES = (".h5", ".hdf5", ".asdf")
_KEY = re.compile(
    r"(?P<network>[^.]*)\.(?P<station>[^.]*)\.(?P<location>[^.]*)\.(?P<channel>\w{2,3})"
    r"__(?P<start>[^_]*)__(?P<end>[^_]*)__(?P<tag_channel>[^_]*)_(?P<event>.*?)"
    r"(?:_(?P<data_type>acc|vel|dis|sa|sd))?(?:_(?P<processing>cv|ap|mp))?"
)
# Letters name the direction. U, V, W and 1, 2, 3 are ESM's first, second and vertical axis; beside a Z,
# however, 1 and 2 are the north-like and east-like axes of SEED.
_AXES = {"E": "E", "N": "N", "Z": "Z", "U": "E", "V": "N", "W": "Z", "1": "E", "2": "N", "3": "Z"}
_AXES_BESIDE_Z = _AXES | {"1": "N", "2": "E"}
_RECORD = ["source_file", *IDENTITY, "data_type"]
_CORNERS = (b"low_cut_frequency_hz", b"high_cut_frequency_hz")
# Strings of any length by their character set, as numpy and HDF5 know them; h5py makes both anew for each attribute.
_TEXTS = {
    cset: (dtype, h5t.py_create(dtype))
    for cset, dtype in ((h5t.CSET_ASCII, h5py.string_dtype("ascii")), (h5t.CSET_UTF8, h5py.string_dtype("utf-8")))
}
_CM_S2 = {"cm/s^2": 1.0, "cm/s/s": 1.0, "cm/s2": 1.0, "gal": 1.0, "m/s^2": 100.0, "g": 980.665}


@dataclass(frozen=True)
class Traces:
    """The three components (E, N, Z) of one record.

    Samples in cm/s², or as stored where the archive names no unit; start times in ns since 1970; filter corners in
    Hz, NaN where the archive names none.
    """

    samples: tuple[np.ndarray, ...]
    fs_hz: tuple[float, ...]
    start_ns: tuple[int, ...]
    low_cut_hz: float
    high_cut_hz: float
    unit_known: bool  # said by the archive, not taken for granted


def find_archives(sources: Sequence[Path | str]) -> list[Path]:
    """Archive files named by files, folders or glob patterns, sorted, each once.

    Raises:
        ValueError: nothing found.
    """
    return sorted({path.resolve() for source in sources for path in _expand(str(source))})


def index_archives(paths: Sequence[Path], run: Runner = map) -> pd.DataFrame:
    """List the records of archives, one row for the three components of one sensor, event and processing.

    `run` reads the files.

    Columns: those of `flatfile.IDENTITY`, `data_type`, `source_file`, `damage` and `E`, `N`, `Z`: the path of each
    component's dataset inside the file, missing where the component is. A name that is not ITACA's makes a
    record of its own without event. A file or group that cannot be read makes one row, with the reason in `damage`.

    Raises:
        ValueError: not one of the files can be read.
    """
    rows = [row for traces in run(_list_traces, paths) for row in traces]
    if all("damage" in row for row in rows):
        raise ValueError(rows[0]["damage"] if rows else f"archive {paths[0]}: holds no trace; give another")
    blank = dict.fromkeys([*_RECORD, "damage", "start", "end", "axis", "path"], "")
    table = pd.DataFrame([blank | row for row in rows], columns=list(blank), dtype=str)
    table = table.sort_values([*_RECORD, "damage", "start", "path"], ignore_index=True)
    table["piece"] = _pieces(table)
    index = table.pivot_table("path", [*_RECORD, "damage", "piece"], "axis", aggfunc="first")
    return index.reset_index().reindex(columns=[*_RECORD, "damage", *COMPONENTS])


def read_traces(file: h5py.File, keys: Sequence[str]) -> Traces:
    """Read the E, N and Z datasets `keys` of an archive, and unit and filter corners in `AuxiliaryData/Headers`.

    Raises:
        OSError: a dataset is damaged.
        KeyError: a dataset is missing, or lacks its sampling rate or start time.
        ValueError: a dataset that is no series of numbers, or a unit that is no acceleration's.
        TypeError: a sampling rate or start time that is no number.
    """
    datasets = [h5py.h5d.open(file.id, key.encode()) for key in keys]
    headers = [_header(file, key) for key in keys]
    unit = _text(headers[0], b"units")  # the other components' too
    scale = _cm_s2(unit)
    corners = np.array([[_number(_text(header, name)) for name in _CORNERS] for header in headers])
    return Traces(
        samples=tuple(_samples(dataset, scale) for dataset in datasets),
        fs_hz=tuple(float(_attribute(dataset, b"sampling_rate", h5t.NATIVE_DOUBLE)) for dataset in datasets),
        start_ns=tuple(int(_attribute(dataset, b"starttime", h5t.NATIVE_INT64)) for dataset in datasets),
        low_cut_hz=float(np.max(corners[:, 0])),
        high_cut_hz=float(np.min(corners[:, 1])),
        unit_known=unit != "",
    )


def read_rates(path: Path, keys: Sequence[str], least_s: float) -> list[float]:
    """Sampling rates of datasets in Hz, NaN for what cannot be read or is too short: rejected when prepared."""
    try:
        with h5py.File(path, "r") as file:
            return [_rate(file, key, least_s) for key in keys]
    except OSError:
        return [float("nan")] * len(keys)


def _rate(file: h5py.File, key: str, least_s: float) -> float:
    try:
        dataset = h5py.h5d.open(file.id, key.encode())
        rate = float(_attribute(dataset, b"sampling_rate", h5t.NATIVE_DOUBLE))
        return rate if dataset.shape[0] >= least_s * rate else float("nan")
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError):
        return float("nan")


def _expand(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        found = [file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and file.name[0] != "."]
    else:
        found = [path] if path.exists() else [Path(name) for name in glob.glob(source)]
    found = [file for file in found if file.is_file()]
    if not found:
        raise ValueError(f"archive {source}: no such file, folder of {'/'.join(_SUFFIXES)} files or match; check it")
    return found


def _list_traces(path: Path) -> list[dict[str, str]]:
    return list(_channels(path))


def _channels(path: Path) -> Iterator[dict[str, str]]:
    """A row for each trace of a file; one with `damage` for the file, or for a station, that cannot be read."""
    if not h5py.is_hdf5(path):
        yield _damaged(path, "not an HDF5 file; ask the service for format=hdf5 and download it again")
        return
    try:
        with h5py.File(path, "r") as file:
            stations = file.get("Waveforms")
            if not isinstance(stations, h5py.Group):
                yield _damaged(path, "HDF5, but without the group Waveforms of ASDF; give an ASDF file")
                return
            for station in stations:
                yield from _station(path, stations, station)
    except (OSError, RuntimeError, KeyError, UnicodeError) as error:
        yield _damaged(path, f"truncated or damaged ({' '.join(str(error).split())}); download it again")


def _station(path: Path, stations: h5py.Group, station: str) -> Iterator[dict[str, str]]:
    try:
        group = stations[station]
        names = [name for name in group if name != "StationXML"] if isinstance(group, h5py.Group) else None
        if names and not all(isinstance(name, str) for name in names):
            raise UnicodeError("it holds a name that is not UTF-8")
    except (OSError, RuntimeError, KeyError, UnicodeError) as error:
        yield _damaged(path, f"Waveforms/{station} is damaged ({' '.join(str(error).split())}); download it again")
        return
    if names is None:
        yield _damaged(path, f"Waveforms/{station} is no group of traces; download it again")
        return
    verticals = {_bands(name) for name in names if name.split("__")[0].upper().endswith("Z")}
    for name in names:
        yield _channel(path, station, name, _bands(name) in verticals)


def _bands(name: str) -> str:
    return name.split("__")[0][:-1].upper()


def _damaged(path: Path, reason: str) -> dict[str, str]:
    return {"source_file": str(path), "axis": "other", "path": "", "damage": f"archive {path}: {reason}"}


def _channel(path: Path, station: str, name: str, beside_z: bool) -> dict[str, str]:
    where = {"source_file": str(path), "path": f"Waveforms/{station}/{name}"}
    match = _KEY.fullmatch(name)
    if match is None:
        network, _, code = station.partition(".")
        return {**where, "network": network, "station": code, "band": name, "axis": "other"}
    axes = _AXES_BESIDE_Z if beside_z else _AXES
    told = {key: value for key, value in match.groupdict(default="").items() if key not in ("channel", "tag_channel")}
    channel = match["channel"].upper()
    return where | told | {"event": told["event"].lower(), "band": channel[:2], "axis": axes.get(channel[-1], "other")}


def _pieces(table: pd.DataFrame) -> list[int]:
    """Number the stretches of time of each record's traces, sorted by start.

    A stretch ends where a component comes again, or starts only after another one's end.
    """
    record = table.groupby([*_RECORD, "damage"], sort=False).ngroup().tolist()
    numbers: list[int] = []
    now, number, until, axes = -1, 0, "", set[str]()
    columns = (table[name].tolist() for name in ("axis", "start", "end"))
    for of, axis, start, end in zip(record, *columns, strict=True):
        if of != now or (axis != "other" and (axis in axes or start > until)):
            number = number + 1 if of == now else 0
            now, until, axes = of, end, set()
        if axis != "other":
            until = min(until, end)
            axes.add(axis)
        numbers.append(number)
    return numbers


def _samples(dataset: h5py.h5d.DatasetID, scale: float) -> np.ndarray:
    dtype = dataset.dtype  # built anew at each look, as is the shape
    if dataset.rank != 1 or dtype.kind not in "fiu":
        raise ValueError(f"{dataset.rank}-dimensional {dtype} where a series of numbers is expected")
    (length,) = dataset.shape
    if length > MOST_SAMPLES:
        raise ValueError(f"{length} samples, more than any record has")
    samples = np.empty(length, dtype)
    dataset.read(h5s.ALL, h5s.ALL, samples)
    return samples if scale == 1 else samples * scale


def _cm_s2(unit: str) -> float:
    """What a unit is in cm/s², which is taken for granted where there is none."""
    scale = _CM_S2.get(unit.lower() or "cm/s^2")
    if scale is None:
        raise ValueError(f"unit {unit!r}, expected one of {', '.join(_CM_S2)}")
    return scale


# h5py's own attributes take three times as long to read as these, and there are dozens of thousands of records.
def _attribute(place: h5py.h5g.GroupID, name: bytes, kind: h5t.TypeID) -> Any:
    """A number of an object's attributes, as a number of 8 bytes."""
    attribute = h5py.h5a.open(place, name)
    if not _is_one(attribute):  # `read` would write past the end of `value`
        raise ValueError(f"{name.decode()} has shape {attribute.shape}, one number expected")
    if attribute.get_type().get_class() not in (h5t.INTEGER, h5t.FLOAT):
        raise ValueError(f"{name.decode()} is no number")
    value: np.ndarray = np.empty((), kind.dtype)
    attribute.read(value, kind)
    return value[()]


def _is_one(attribute: h5py.h5a.AttrID) -> bool:
    return bool(attribute.get_space().get_simple_extent_type() == h5s.SCALAR)


def _header(file: h5py.File, key: str) -> h5py.h5d.DatasetID | None:
    """The header of a trace, None where there is none."""
    _, station, name = key.split("/")
    path = f"AuxiliaryData/Headers/{station.replace('.', '_')}/{name.split('__')[-1]}"
    try:
        return h5py.h5o.open(file.id, path.encode())
    except KeyError:
        return None


def _text(header: h5py.h5d.DatasetID | None, name: bytes) -> str:
    """What a header says, empty where it says nothing or, as the service writes, `None`."""
    if header is None:
        return ""
    try:
        attribute = h5py.h5a.open(header, name)
    except KeyError:
        return ""
    kind = attribute.get_type()
    if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str() and _is_one(attribute):
        dtype, memory = _TEXTS[kind.get_cset()]
        value: np.ndarray = np.empty((), dtype)
        attribute.read(value, memory)
    else:
        value = np.empty(attribute.shape, attribute.dtype)
        attribute.read(value)
    raw = value[()]
    text = (raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)).strip()
    return "" if text == "None" else text


def _number(text: str) -> float:
    """A header's frequency, NaN where it is none."""
    try:
        number = float(text or "nan")
    except ValueError:
        return float("nan")
    return number if 0 < number < np.inf else float("nan")
