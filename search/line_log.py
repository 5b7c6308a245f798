"""Logs of a line an event, on the disk at once; `trials.jsonl` has every report of every trial.

Tune stages its logs and copies them now and then, and W&B keeps back the tail of its files; after a kill both lack the
last reports. `trials.jsonl` has them: W&B runs, the rungs and Optuna's study are made again of it.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

LOG = "trials.jsonl"


class LineLog:
    """A log to append to. Each line goes to the file at once."""

    def __init__(self, path: Path):
        self._file = path.open("a+b", buffering=0)
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
        rest = json.dumps(line, default=float).encode() + b"\n"
        while rest:  # a disk that is about to be full takes a part and says nothing
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def whole_lines(log: BinaryIO) -> Iterator[dict[str, Any]]:
    """The lines that have come since, but for one cut off by a kill or a full disk: its report is made again."""
    while (line := log.readline()).endswith(b"\n"):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
    log.seek(-len(line), os.SEEK_CUR)


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a log; none where there is no such file."""
    if path.is_file():
        with path.open("rb") as log:
            yield from whole_lines(log)


def reports_by_trial(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The reports of each trial by its id, an epoch once, in order: a restored trial repeats some."""
    reports: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines_of(folder / LOG):
        if "report" in line:
            reports.setdefault(line["trial"], {})[line["report"]["epoch"]] = line["report"]
    return {trial_id: [by_epoch[epoch] for epoch in sorted(by_epoch)] for trial_id, by_epoch in reports.items()}
