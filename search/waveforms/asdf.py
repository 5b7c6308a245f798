"""Generated waveforms as an ASDF file, which pyasdf and our own preparation read.

Straight to HDF5, as `data_prep/archive.py` reads it: pyasdf writes all events again with every one that is added.
Format: https://asdf-definition.readthedocs.io; keys and headers are those of ITACA's archives.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numpy as np

from data_prep.flatfile import archive_event
from search.waveforms.formats import CM_S2, Batch, Layout, Row

QUAKEML_START = """<?xml version='1.0' encoding='utf-8'?>
<q:quakeml xmlns:q="http://quakeml.org/xmlns/quakeml/1.2" xmlns="http://quakeml.org/xmlns/bed/1.2">
<eventParameters publicID="smi:local/generated">
"""
QUAKEML_END = "</eventParameters>\n</q:quakeml>\n"
CHUNK_BYTES = 2**16


def write_asdf(file: Path, layout: Layout, batches: Iterable[Batch]) -> None:
    """Write an event, a station and a trace for each component of every waveform, all of them in float32."""
    with h5py.File(file, "w") as asdf:
        asdf.attrs["file_format"], asdf.attrs["file_format_version"] = np.bytes_("ASDF"), np.bytes_("1.0.3")
        asdf.create_group("Provenance")
        events = asdf.create_dataset("QuakeML", (0,), np.int8, maxshape=(None,), chunks=(CHUNK_BYTES,))
        _append(events, QUAKEML_START)
        for batch in batches:
            _append(events, "".join(_quakeml(row) for row in batch.rows if row["EVENT_ID"]))
            for row, wave_CT in batch:
                _write_record(asdf, layout, row, wave_CT)
        _append(events, QUAKEML_END)


def _write_record(asdf: h5py.File, layout: Layout, row: Row, wave_CT: np.ndarray) -> None:
    network, station, event = row["NETWORK"], row["STATION_CODE"], row["EVENT_ID"]
    traces = asdf.create_group(f"Waveforms/{network}.{station}")
    headers = asdf.create_group(f"AuxiliaryData/Headers/{network}_{station}")
    # Only what is in its unit is called an acceleration.
    kind, unit = ("_acc", "cm/s^2") if layout.units == CM_S2 else ("", layout.units)
    start, period = datetime.fromisoformat(row["start_time"]), _times(row, layout)
    for axis, wave_T in zip(layout.components, wave_CT, strict=True):
        channel = row["component"] + axis
        tag = f"{channel.lower()}_{archive_event(event) or layout.label}{kind}"
        trace = traces.create_dataset(f"{network}.{station}..{channel}__{period}__{tag}", data=wave_T)
        trace.attrs["starttime"] = np.int64(start.timestamp()) * 1_000_000_000
        trace.attrs["sampling_rate"] = layout.fs_hz
        if event:
            trace.attrs["event_id"] = np.bytes_(_resource(row))
        headers.create_dataset(tag, data=np.zeros(1, np.int8)).attrs["units"] = unit


def _times(row: Row, layout: Layout) -> str:
    """First and last sample, as keys have them."""
    start = datetime.fromisoformat(row["start_time"])
    end = start + timedelta(seconds=(layout.samples - 1) / layout.fs_hz)
    return f"{start:%Y-%m-%dT%H:%M:%S}__{end:%Y-%m-%dT%H:%M:%S}"


def _resource(row: Row) -> str:
    return f"smi:local/{row['EVENT_ID']}"


def _quakeml(row: Row) -> str:
    """An earthquake without a place, and with a magnitude if its generator was told one."""
    event, magnitude = _resource(row), ""
    if row["Mw"]:
        magnitude = f'<magnitude publicID="{event}/magnitude"><mag><value>{row["Mw"]}</value></mag></magnitude>'
    return f'<event publicID="{event}"><type>earthquake</type>{magnitude}</event>\n'


def _append(series: h5py.Dataset, text: str) -> None:
    content = np.frombuffer(text.encode(), np.int8)
    series.resize(len(series) + len(content), axis=0)
    series[len(series) - len(content) :] = content
