"""Generated waveforms as a NumPy array or miniSEED, and a table with a row a waveform beside either.

Every waveform is an event and a station of its own, named by its number. The table is also the flatfile that
`data_prep/prepare.py` wants beside an ASDF file (`asdf.py`): what nobody knows of a generated earthquake is blank.
Shapes: B batch, C component (E, N, Z), T sample.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import write_npy

NORMALISED, CM_S2 = UNITS = ("normalised", "cm/s2")
NETWORK, BAND = "XX", "HN"  # SEED's network for tests, and its accelerometers
START = datetime(2000, 1, 1, tzinfo=UTC)
# Station codes have five characters; these begin with a letter, so that no table takes one for a number.
FIRST_STATION, MAX_COUNT = 10 * 36**4, 26 * 36**4

Row = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """What the waveforms of a file have in common."""

    count: int
    components: str
    samples: int
    fs_hz: float
    label: str
    units: str
    seed: int

    def names(self, index: int) -> Row:
        """The part of a waveform's row that says what it is called; noise is of no event.

        Each starts in the whole minutes after those of the one before, so that none overlap.
        """
        minutes = index * (1 + int(self.samples / self.fs_hz // 60))
        return {
            "EVENT_ID": f"generated-{self.seed}-{index}" if self.label == "earthquake" else "",
            "EVENT_LATITUDE_DEGREE": "",
            "EVENT_LONGITUDE_DEGREE": "",
            "Ml": "",
            "NETWORK": NETWORK,
            "STATION_CODE": np.base_repr(FIRST_STATION + index, 36),
            "component": BAND,
            "start_time": f"{START + timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}",
        }


@dataclass(frozen=True)
class Batch:
    """Some waveforms (B, C, T) in float32, and a row each."""

    wave: np.ndarray
    rows: list[Row]

    def __iter__(self) -> Iterator[tuple[Row, np.ndarray]]:
        return zip(self.rows, self.wave, strict=True)


def write_array(file: Path, layout: Layout, batches: Iterable[Batch]) -> None:
    """Write float32 (N, C, T)."""
    shape = layout.count, len(layout.components), layout.samples
    write_npy(file, shape, (batch.wave for batch in batches))


def write_miniseed(file: Path, layout: Layout, batches: Iterable[Batch]) -> None:
    """Write a trace of float32 for each component."""
    from obspy import Stream, Trace, UTCDateTime  # takes a second, of every search too

    with file.open("wb") as stream:
        for batch in batches:
            for row, wave_CT in batch:
                header = {"network": row["NETWORK"], "station": row["STATION_CODE"], "sampling_rate": layout.fs_hz}
                header["starttime"] = UTCDateTime(row["start_time"])
                channels = zip(layout.components, wave_CT, strict=True)
                traces = [Trace(wave_T, header | {"channel": row["component"] + axis}) for axis, wave_T in channels]
                Stream(traces).write(stream, format="MSEED", encoding="FLOAT32")


def with_table(file: Path, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Pass batches on, and write their rows to a table."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        for number, batch in enumerate(batches):
            if number == 0:
                table.writerow(batch.rows[0])
            table.writerows(row.values() for row in batch.rows)
            yield batch
