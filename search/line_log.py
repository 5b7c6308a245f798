"""Logs of a line an event, on the disk at once; `trials.jsonl` has every report of every trial.

A log of thousands of trials has parts, `trials.jsonl`, `trials.1.jsonl` and so on: whoever keeps a copy of it sends its
last part alone.

Tune stages its logs and copies them now and then, and W&B keeps back the tail of its files; after a kill both lack the
last reports. `trials.jsonl` has them: W&B runs, the rungs and Optuna's study are made again of it.
"""

import json
import os
from collections.abc import Iterator, Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any, BinaryIO

LOG = "trials.jsonl"
# A part is sent to a bucket as often as a trial starts or ends: no more bytes than take as long as a request does.
PART_BYTES = 2**20


def part(path: Path, number: int) -> Path:
    """The file of a part of a log, counted from 0; the first has the log's own name."""
    return path.with_suffix(f".{number}{path.suffix}") if number else path


def parts(path: Path) -> Iterator[Path]:
    """The files of a log that are there, oldest first."""
    return takewhile(Path.is_file, (part(path, number) for number in count()))


class LineLog:
    """A log to append to. Each line goes to the file at once, as a whole to one part."""

    def __init__(self, path: Path):
        self._path, self._part = path, max(0, sum(1 for _ in parts(path)) - 1)
        self._open()

    def _open(self) -> None:
        self._file = part(self._path, self._part).open("a+b", buffering=0)
        self._end_line()

    def _end_line(self) -> None:
        """A kill may have cut off the last line."""
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read() != b"\n":
                self._file.write(b"\n")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OSError: if the disk is full; a part of the line may be in the log, ended when that is next opened.
        """
        if self._file.tell() >= PART_BYTES:
            self._file.close()
            self._part += 1
            self._open()
        rest = json.dumps(line, default=float).encode() + b"\n"
        while rest:  # a disk that is about to be full takes a part and says nothing
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LogReader:
    """Reads a log as it grows."""

    def __init__(self, path: Path):
        self._path = path
        self._part, self._file = 0, path.open("rb")

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def news(self) -> Iterator[dict[str, Any]]:
        """The lines that have come since; none that a kill or a full disk has cut off: its report is made again."""
        more = True
        while more:
            # Asked first: a part gets no more lines once there is a next one.
            more = part(self._path, self._part + 1).is_file()
            yield from _whole_lines(self._file)
            if more:
                self._go_to(self._part + 1)

    def rewind(self) -> None:
        """Go back to the first line."""
        self._go_to(0)

    def _go_to(self, number: int) -> None:
        self._file.close()
        self._part, self._file = number, part(self._path, number).open("rb")


def _whole_lines(log: BinaryIO) -> Iterator[dict[str, Any]]:
    while (line := log.readline()).endswith(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:  # cut off, or zeros that a power cut has left
            continue
    log.seek(-len(line), os.SEEK_CUR)


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a log; none where there is no such file."""
    if path.is_file():
        with LogReader(path) as log:
            yield from log.news()


def reports_by_trial(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The reports of each trial by its id, an epoch once, in order: a restored trial repeats some."""
    reports: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines_of(folder / LOG):
        if "report" in line:
            reports.setdefault(line["trial"], {})[line["report"]["epoch"]] = line["report"]
    return {trial_id: [by_epoch[epoch] for epoch in sorted(by_epoch)] for trial_id, by_epoch in reports.items()}
