"""Time `data_prep/prepare.py` against a plain pyasdf loop and against merely reading the archive with h5py.

    python tests/bench/prepare.py [--records 1000]

Builds an archive of made-up records (three components, 60 s, every fourth at 100 Hz and the others at 200 Hz), stored
as the web services store them, and goes through it in three ways within one run:

- ours: `prepare()` as a whole: checks, index, checksums, windows, split, dataset;
- plain (`plain_prepare.py`): pyasdf's access trace by trace; obspy's detrend, resampling, filter and AR-AIC picker;
  numpy's for the rest of the same work: checks, rejected records with reasons, near-duplicates, split, checksums.
  Told apart are the loop without that rest, and with obspy's STA/LTA in the picker's stead besides: faster, but
  further from our onsets on real records (62 % within a second; AR-AIC 76 %);
- read: every trace decompressed with h5py, one process, file by file, nothing else.

Every file is read once before the first of them, so that none waits for a disk. The last line is JSON.
"""

# Workers of `prepare()` import this module again, as they would import the command: obspy and pyasdf, which they do
# not need, are imported by the function that does.

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import psutil
from made_up import RECORDS_A_FILE, Archive, first, make_archive
from plain_prepare import loop, pick_ar_aic, pick_sta_lta, whole

from data_prep import prepare as command
from data_prep.prepare import prepare
from data_prep.record import PrepareSettings

ITACA_RECORDS = 40_900


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    if options.records < 3 * RECORDS_A_FILE or options.workers < 1 or options.rounds < 1:
        sys.exit(f"error: at least {3 * RECORDS_A_FILE} records, 1 worker and 1 round expected")
    with tempfile.TemporaryDirectory(prefix="bench-prepare-") as folder:
        archive = make_archive(Path(folder), options.records)
        print(json.dumps(benchmark(archive, Path(folder), options.workers, options.rounds)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time the preparation of an archive against a plain pyasdf loop and against reading it with h5py.",
        epilog="JSON, last line: vs_pyasdf (plain, doing the same work, / ours) and share_of_h5py_read (read / ours), "
        "larger is better; peak_rss_mb, of all processes together; "
        f"itaca_minutes, what {ITACA_RECORDS} such records would take.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--records", type=int, default=1000, metavar="N", help="three-component records to make up")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes of ours, as the command's")
    add("--rounds", type=int, default=3, metavar="N", help="take turns N times; the best time of each counts")
    return parser


def benchmark(archive: Archive, out: Path, workers: int, rounds: int) -> dict[str, float]:
    """Let the contestants take turns and print their times; returns the figures of the last line."""
    half = first(archive, (len(archive.files) + 1) // 2)
    tenth = first(archive, max(1, len(archive.files) // 10))
    megabytes = sum(len(path.read_bytes()) for path in archive.files) / 1e6
    print(f"archive: {archive.records} records in {len(archive.files)} files, {megabytes:.0f} MB")
    peak_mb, command_s, windows = run_command(archive, out / "command", workers)
    print(f"the command: {windows} windows in {command_s:.2f} s, at most {peak_mb:.0f} MB (PSS of all its processes)")
    contestants: dict[str, Callable[[], object]] = {
        "h5py, read only": partial(read, archive),
        f"ours, workers: {workers}": partial(ours, archive, out, workers),
        f"  of {half.records} records": partial(ours, half, out, workers),
        f"pyasdf, {tenth.records} records": partial(whole, tenth, out / "plain", pick_ar_aic),
        "  windows only": partial(loop, tenth, out / "windows", pick_ar_aic),
        "  and STA/LTA": partial(loop, tenth, out / "windows", pick_sta_lta),
        "ours in one process": partial(ours, archive, out, 1),
    }
    read_s, ours_s, half_s, *tenths_s, _ = take_turns(contestants, rounds)
    plain_s, loop_s, sta_lta_s = (seconds * archive.records / tenth.records for seconds in tenths_s)
    # What does not grow with the records; the rest is no less than decompressing them takes.
    fixed_s = max(0.0, min(2 * half_s - ours_s, ours_s - read_s / workers))
    record_s = (ours_s - fixed_s) / archive.records
    print(
        f"pyasdf, all records: {plain_s:.1f} s by proportion; windows only {loop_s:.1f} s (ours is "
        f"{loop_s / ours_s:.1f} times faster), with STA/LTA {sta_lta_s:.1f} s ({sta_lta_s / ours_s:.1f} times); "
        f"ours: {fixed_s:.2f} s + {record_s * 1e3:.2f} ms a record"
    )
    figures = {
        "vs_pyasdf": plain_s / ours_s,
        "share_of_h5py_read": read_s / ours_s,
        "peak_rss_mb": peak_mb,
        "itaca_minutes": (fixed_s + record_s * ITACA_RECORDS) / 60,
    }
    return {name: round(value, 3) for name, value in figures.items()}


def take_turns(contestants: dict[str, Callable[[], object]], rounds: int) -> list[float]:
    """Best wall time of each in seconds, all of them run in every round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            times[name].append(time.perf_counter() - start)
    for name, values in times.items():
        print(f"{name:20s} best {min(values):6.2f} s of " + ", ".join(f"{value:.2f}" for value in values))
    return [min(values) for values in times.values()]


def ours(archive: Archive, out: Path, workers: int) -> None:
    """Prepare the archive in this process, with its pool of workers."""
    with tempfile.TemporaryDirectory(dir=out) as folder:
        prepare(
            archive.files,
            archive.flatfile,
            Path(folder) / "dataset",
            PrepareSettings(),
            workers=workers,
            progress=False,
        )


def run_command(archive: Archive, out: Path, workers: int) -> tuple[float, float, int]:
    """Run the command in a process of its own: highest PSS of it and its workers in MB, wall time, windows made."""
    files = [str(path) for path in archive.files]
    options = ["--flatfile", str(archive.flatfile), "--out", str(out), "--workers", str(workers)]
    start, peak = time.perf_counter(), 0
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen([sys.executable, command.__file__, *files, *options], stdout=said, stderr=said) as child,
    ):
        while child.poll() is None:
            peak = max(peak, _pss(psutil.Process(child.pid)))
            time.sleep(0.02)
        if child.returncode:
            said.seek(0)
            sys.exit(f"error: the command ended with status {child.returncode}: {said.read().decode()}")
    windows = json.loads((out / "manifest.json").read_text())["counts"]["windows"]
    return peak / 1e6, time.perf_counter() - start, windows


def _pss(process: psutil.Process) -> int:
    """Bytes in use by a process and its children, what they share counted once; 0 of those just ended."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def read(archive: Archive) -> None:
    """Decompress every trace."""
    for path in archive.files:
        with h5py.File(path, "r") as file:
            for station in file["Waveforms"].values():
                for name in station:
                    if name != "StationXML":
                        station[name][...]


if __name__ == "__main__":
    main()
