"""Read ASDF (HDF5) archives as ITACA writes them: which records they hold, and the samples of one record.

Samples are read straight from the HDF5 datasets: a reader that parses every trace's metadata is far slower.
Format: https://asdf-definition.readthedocs.io (keys `Waveforms/NET.STA/NET.STA.LOC.CHA__start__end__tag`).
"""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from data_prep.flatfile import IDENTITY

COMPONENTS = ("E", "N", "Z")
_SUFFIXES = (".h5", ".hdf5", ".asdf")
_KEY = re.compile(
    r"(?P<network>[^.]*)\.(?P<station>[^.]*)\.(?P<location>[^.]*)\.(?P<channel>\w{2,3})"
    r"__[^_]*__[^_]*__(?P<tag_channel>[^_]*)_(?P<event>.*?)"
    r"(?:_(?P<data_type>acc|vel|dis|sa|sd))?(?:_(?P<processing>cv|ap|mp))?"
)
# Letters name the direction. U, V, W and 1, 2, 3 are ESM's first, second and vertical axis; beside a Z,
# however, 1 and 2 are the north-like and east-like axes of SEED.
_AXES = {"E": "E", "N": "N", "Z": "Z", "U": "E", "V": "N", "W": "Z", "1": "E", "2": "N", "3": "Z"}
_AXES_BESIDE_Z = _AXES | {"1": "N", "2": "E"}


@dataclass(frozen=True)
class Traces:
    """The three components (E, N, Z) of one record as stored.

    Samples in cm/s²; start times in ns since 1970; filter corners in Hz, NaN where the archive names none.
    """

    samples: tuple[np.ndarray, ...]
    fs_hz: tuple[float, ...]
    start_ns: tuple[int, ...]
    low_cut_hz: float
    high_cut_hz: float


def find_archives(sources: Sequence[Path | str]) -> list[Path]:
    """Archive files named by files, folders or glob patterns, sorted, each once.

    Raises:
        ValueError: nothing found, or a file that is no readable ASDF archive.
    """
    paths = sorted({path.resolve() for source in sources for path in _expand(str(source))})
    for path in paths:
        _check_archive(path)
    return paths


def index_archives(paths: Sequence[Path]) -> pd.DataFrame:
    """List the records of archives, one row for the three components of one sensor, event and processing.

    Columns: those of `flatfile.IDENTITY`, `data_type`, `source_file` and `E`, `N`, `Z`: the path of each
    component's dataset inside the file, missing where the component is. A name that is not ITACA's makes a
    record of its own without event.
    """
    rows = [row for path in paths for row in _channels(path)]
    table = pd.DataFrame(rows, columns=[*IDENTITY, "data_type", "source_file", "axis", "path"])
    same = ["source_file", *IDENTITY, "data_type"]
    # A second E of the same sensor and event opens another record (the pieces of a continuous recording).
    table["piece"] = table.groupby([*same, "axis"]).cumcount()
    index = table.pivot_table("path", [*same, "piece"], "axis", aggfunc="first").reset_index()
    return index.reindex(columns=[*IDENTITY, "data_type", "source_file", *COMPONENTS])


def read_traces(path: Path, keys: Sequence[str]) -> Traces:
    """Read the E, N and Z datasets `keys` of an archive, and the filter corners in `AuxiliaryData/Headers`.

    Raises:
        OSError: the file or a dataset is damaged.
        KeyError: a dataset lacks its sampling rate or start time.
    """
    with h5py.File(path, "r") as file:
        datasets = [file[key] for key in keys]
        corners = np.array([_corners(file, key) for key in keys])
        return Traces(
            samples=tuple(dataset[...].astype(np.float64) for dataset in datasets),
            fs_hz=tuple(float(dataset.attrs["sampling_rate"]) for dataset in datasets),
            start_ns=tuple(int(dataset.attrs["starttime"]) for dataset in datasets),
            low_cut_hz=float(np.max(corners[:, 0])),
            high_cut_hz=float(np.min(corners[:, 1])),
        )


def read_rate(path: Path, key: str) -> float:
    """Sampling rate of one dataset in Hz, NaN where it cannot be read (the record is rejected when prepared)."""
    try:
        with h5py.File(path, "r") as file:
            return float(file[key].attrs["sampling_rate"])
    except (OSError, KeyError):
        return float("nan")


def _expand(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        found = [file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES]
    else:
        found = [path] if path.exists() else [Path(name) for name in glob.glob(source)]
    if not found:
        raise ValueError(f"archive {source}: no such file, folder of {'/'.join(_SUFFIXES)} files or match; check it")
    return found


def _check_archive(path: Path) -> None:
    if not h5py.is_hdf5(path):
        raise ValueError(f"archive {path}: not an HDF5 file; ask the service for format=hdf5 and download it again")
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("Waveforms"), h5py.Group):
                raise ValueError(f"archive {path}: HDF5, but without the group Waveforms of ASDF; give an ASDF file")
    except OSError as error:
        raise ValueError(f"archive {path}: truncated or damaged ({error}); download it again") from None


def _channels(path: Path) -> Iterator[tuple[str, ...]]:
    with h5py.File(path, "r") as file:
        for station, group in file["Waveforms"].items():
            if not isinstance(group, h5py.Group):
                raise ValueError(f"archive {path}: Waveforms/{station} is no group of traces; download it again")
            names = [name for name in group if isinstance(name, str) and name != "StationXML"]
            verticals = {name.split("__")[0][:-1] for name in names if name.split("__")[0].endswith("Z")}
            for name in names:
                yield _channel(path, station, name, name.split("__")[0][:-1] in verticals)


def _channel(path: Path, station: str, name: str, beside_z: bool) -> tuple[str, ...]:
    match = _KEY.fullmatch(name)
    axes = _AXES_BESIDE_Z if beside_z else _AXES
    where = (
        str(path),
        axes.get(match["channel"][-1].upper(), "other") if match else "other",
        f"Waveforms/{station}/{name}",
    )
    if match is None:
        network, _, code = station.partition(".")
        return ("", network, code, "", name, "", "", *where)
    band, event = match["channel"][:2].upper(), match["event"].lower()
    place = (match["network"], match["station"], match["location"])
    return (event, *place, band, match["processing"] or "", match["data_type"] or "", *where)


def _corners(file: h5py.File, key: str) -> tuple[float, float]:
    _, station, name = key.split("/")
    header = file.get(f"AuxiliaryData/Headers/{station.replace('.', '_')}/{name.split('__')[-1]}")
    attributes = {} if header is None else header.attrs
    return _number(attributes.get("low_cut_frequency_hz")), _number(attributes.get("high_cut_frequency_hz"))


def _number(text: object) -> float:
    """A header's number, NaN where it is absent or, as the service writes, padded, empty or `None`."""
    text = text.decode() if isinstance(text, bytes) else str(text)
    try:
        return float(text.strip())
    except ValueError:
        return float("nan")
