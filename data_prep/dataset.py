"""The prepared dataset: a folder of arrays, tables, a list of what was left out, and a manifest.

`train.npy`, `val.npy`, `test.npy` hold windows (N, C, T) in float32, C being E, N, Z, each z-scored over its T
samples; `train.parquet`, ... hold a row a window; `rejected.csv` a row a record left out; `manifest.json` the rest.
"""

import fcntl
import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.files import left_behind, sha256, write_json, write_npy, written_whole

FORMAT = 2
COMPONENTS = ("E", "N", "Z")
PARTS = ("train", "val", "test")
REPORT = "report.html"
FILES = ("rejected.csv", *(f"{part}.{suffix}" for part in sorted(PARTS) for suffix in ("npy", "parquet")))
_PACKAGES = ("h5py", "numpy", "pandas", "pyarrow", "scipy")
_CHUNK = 64


@dataclass(frozen=True)
class StoredWindows:
    """Windows (N, C, T) in float32 in a file, read when indexed: kept mapped, all of them would pile up in memory."""

    path: Path
    shape: tuple[int, ...]

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(np.memmap(self.path, np.float32, "r", shape=self.shape)).take(index, axis=0)


@dataclass(frozen=True)
class Part:
    """Windows of one part, (N, C, T) float32 mapped from disk, and their table, row by row."""

    waves: np.ndarray
    rows: pd.DataFrame


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset opened for reading."""

    path: Path
    manifest: Mapping[str, Any]
    train: Part
    val: Part
    test: Part

    @property
    def fs_hz(self) -> float:
        """Sampling rate of every window in Hz."""
        return float(self.manifest["fs_hz"])

    @property
    def samples(self) -> int:
        """Samples of every window."""
        return int(self.manifest["samples"])

    @property
    def usable_band_hz(self) -> tuple[float, float]:
        """Band in Hz that at least 95 % of the windows support."""
        return float(self.manifest["usable_low_hz"]), float(self.manifest["usable_high_hz"])


def open_dataset(path: Path, verify: bool = True) -> Dataset:
    """Open a prepared dataset, arrays memory-mapped; `verify` compares every file with its checksum.

    Raises:
        ValueError: no prepared dataset, one of another format, or a file missing or changed since.
    """
    manifest = read_manifest(path)
    for name, digest in manifest["files"].items():
        if not (path / name).is_file():
            raise ValueError(f"dataset {path}: {name} is missing; remove the folder and prepare it again")
        if verify and sha256(path / name) != digest:
            raise ValueError(
                f"dataset {path}: {name} differs from its checksum; remove the folder and prepare it again"
            )
    parts = {name: _open_part(path, name) for name in PARTS}
    return Dataset(path=path, manifest=manifest, **parts)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a dataset's manifest; `ValueError` where there is none or one of another format."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"dataset {path}: no manifest.json; give a folder made by data_prep/prepare.py") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"dataset {path}: manifest.json is damaged ({error}); prepare it again") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise ValueError(f"dataset {path}: format {found}, expected {FORMAT}; prepare it again")
    return dict(manifest)


def write_dataset(
    folder: Path,
    waves_NCT: np.ndarray | StoredWindows,
    rows: pd.DataFrame,
    part: pd.Series,
    rejected: pd.DataFrame,
    head: Mapping[str, Any],
) -> dict[str, Any]:
    """Write windows, their rows and parts and the rejected records into `folder`.

    `rows` and `part` share an index: the window's position in `waves_NCT`, not all of which need be in them. `head`
    opens the manifest, which is returned: settings, inputs, `fs_hz`, and what else is to be kept.
    """
    rejected.to_csv(folder / "rejected.csv", index=False)
    with ThreadPoolExecutor() as threads:
        list(threads.map(partial(_write_part, folder, waves_NCT, rows, part), PARTS))
        digests = dict(zip(FILES, threads.map(sha256, (folder / name for name in FILES)), strict=True))
    low_hz, high_hz = usable_band(rows)
    manifest = {
        "format": FORMAT,
        **head,
        "samples": int(waves_NCT.shape[2]),
        "components": list(COMPONENTS),
        "usable_low_hz": low_hz,
        "usable_high_hz": high_hz,
        "counts": _counts(rows, part, rejected),
        "files": digests,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def usable_band(rows: pd.DataFrame) -> tuple[float, float]:
    """Band in Hz that at least 95 % of the windows support.

    Not the strict common band: one record of a narrow one would take it from all. At most 2.5 % of the windows start
    above its lower end, and at most 2.5 % end below its upper one.
    """
    low = np.quantile(rows["usable_low_hz"], 0.975, method="higher")
    return float(low), float(np.quantile(rows["usable_high_hz"], 0.025, method="lower"))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that becomes `path` on success; on an error neither it nor a new parent is left behind.

    What a killed run left is removed, and a second run for the same folder is refused.

    Raises:
        ValueError: the folder cannot be created there, or another run is making it.
    """
    path = path.resolve()
    absent = [parent for parent in path.parents if not parent.exists()]
    try:
        _make(path.parent, path)
        with _alone(path), written_whole(path) as aside:
            _make(aside, path)
            yield aside
    except BaseException:
        for parent in absent:
            with suppress(OSError):  # never created, or no longer empty: not ours to remove
                parent.rmdir()
        raise


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, which ends with this process however that ends; remove what dead runs left."""
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path}: another process is making it; wait for it or choose another folder") from None
        for left in left_behind(path):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield
        finally:
            lock.unlink()


def _make(folder: Path, wanted: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{wanted}: cannot be created ({error.strerror}); choose another folder") from None


def _open_part(path: Path, name: str) -> Part:
    try:
        waves, rows = np.load(path / f"{name}.npy", mmap_mode="r"), pd.read_parquet(path / f"{name}.parquet")
    except ValueError as error:
        raise ValueError(f"dataset {path}: {name} cannot be read ({error}); prepare it again") from None
    return Part(waves, rows)


def _write_part(
    folder: Path, waves_NCT: np.ndarray | StoredWindows, rows: pd.DataFrame, part: pd.Series, name: str
) -> None:
    chosen = part.index[part == name]
    chunks = (waves_NCT[chosen[start : start + _CHUNK].to_numpy()] for start in range(0, len(chosen), _CHUNK))
    write_npy(folder / f"{name}.npy", (len(chosen), *waves_NCT.shape[1:]), chunks)
    rows.loc[chosen].reset_index(drop=True).to_parquet(folder / f"{name}.parquet")


def _counts(rows: pd.DataFrame, part: pd.Series, rejected: pd.DataFrame) -> dict[str, Any]:
    windows = {name: int((part == name).sum()) for name in PARTS}
    total = len(part) + len(rejected)
    labels, reasons = _tally(rows["label"]), _tally(rejected["kind"])
    return {"records": total, "windows": len(part), **windows, "labels": labels, "rejected": reasons}


def _tally(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}
