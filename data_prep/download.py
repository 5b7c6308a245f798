"""Download strong-motion records and their flatfile from the web services of ITACA or ESM.

    python data_prep/download.py --out data/itaca

One HDF5 (ASDF) file an event, beside `flatfile.csv`. The ledger `download.json` vouches for every file by its size,
its checksum and the request that brought it: the same command again skips what is whole and repeats the rest.
"""

import argparse
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import h5py
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from data_prep.command import Parser, run_command
from data_prep.files import written_whole
from data_prep.flatfile import MagnitudeRule, read_flatfile, with_magnitude
from data_prep.ledger import entry_of, own_folder, read_ledger, vouches, write_ledger
from data_prep.query import SERVICES, DownloadSettings
from data_prep.selection import select
from data_prep.web import AnswerError, Client, NoDataError, in_threads

PARALLEL = 4  # requests at once: what a public service bears from one user
_PREPARE_TOO = ("country", "min_magnitude", "max_depth_km", "magnitude")  # options that prepare.py shares
_SHOWN = 20  # failed events in the summary


@dataclass
class DownloadSummary:
    """What a download did: outcomes counted, reasons of the failed events, bytes received, and the whole set."""

    out: Path
    settings: DownloadSettings
    outcome: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    received: int = 0
    sizes: list[int] = field(default_factory=list)  # of all event files, of earlier selections too

    @property
    def events(self) -> int:
        """Events selected."""
        return self.outcome.total() + len(self.failed)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.outcome[name]} {name}" for name in ("downloaded", "there already", "without data"))
        shown = sorted(self.failed.items())[:_SHOWN]
        lines = [
            f"{self.events} events: {counts}, {len(self.failed)} failed; {decimal(self.received)} received",
            *(f"  {event}: {reason}" for event, reason in shown),
            *([f"  and {len(self.failed) - _SHOWN} more"] if len(self.failed) > _SHOWN else []),
            f"set: {len(self.sizes)} event files, {decimal(sum(self.sizes))}, in {self.out}{self._earlier()}",
        ]
        return "\n".join(lines if self.failed else [*lines, f"next: {self._next()}"])

    def _earlier(self) -> str:
        others = len(self.sizes) - self.outcome["downloaded"] - self.outcome["there already"]
        return f", {others} of them not of this selection" if others > 0 else ""

    def _next(self) -> str:
        given, default = asdict(self.settings), asdict(DownloadSettings())
        shared = [name for name in _PREPARE_TOO if given[name] != default[name]]
        options = [part for name in shared for part in (f"--{name.replace('_', '-')}", f"{given[name]}")]
        paths = [str(self.out), "--flatfile", str(self.out / "flatfile.csv"), "--out", "data/prepared"]
        return shlex.join(["python", "data_prep/prepare.py", *paths, *options])


def download(
    settings: DownloadSettings, out: Path, token: bytes | None = None, progress: bool = True
) -> DownloadSummary:
    """Bring flatfile and events into the folder `out`; what is there whole from the same requests stays.

    An event that fails is told in the summary and does not stop the others.

    Raises:
        ValueError: nothing selected, no usable flatfile, or a folder that cannot be made, written to or had alone.
    """
    with own_folder(out):
        ledger = read_ledger(out)
        with Console(stderr=True).status("asking for the flatfile"):
            events = _flatfile_events(settings, out, ledger)
        ledger["settings"] = asdict(settings)
        write_ledger(out, ledger)
        return _download_events(events, settings, out, ledger, Client(token), progress)


def main() -> None:
    """Command line."""
    options = vars(_parser().parse_args())
    out, token = options.pop("out"), options.pop("token", None)
    settings = DownloadSettings(**options | {"box": tuple(options.get("box", ()))})
    try:
        summary = download(settings, out, token and _read_token(token))
    except KeyboardInterrupt:
        print(f"what is whole stays in {out}; the same command goes on from there", file=sys.stderr)
        raise
    print(summary)
    if summary.failed:
        count = f"{len(summary.failed)} of {summary.events} events"
        raise ValueError(f"{count} could not be downloaded; give the same command again, it repeats only these")


def _parser() -> argparse.ArgumentParser:
    default = DownloadSettings()
    parser = Parser(
        description="Download strong-motion records, one HDF5 file an event, and their flatfile from ITACA or ESM.",
        epilog="The same command again goes on where it was interrupted; remove flatfile.csv to learn of new "
        "earthquakes. Example: python data_prep/download.py --out data/itaca --start 2009-01-01",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    silent = partial(add, default=argparse.SUPPRESS)
    silent("--out", type=Path, metavar="DIR", required=True, help="folder for the files")
    add("--service", default=default.service, metavar="|".join(SERVICES), help="whose records")
    silent("--url", metavar="BASE", help="address to ask instead of the service's own, such as a mirror's")
    add("--country", default=default.country, help="of the earthquake: two letters, or any")
    add("--min-magnitude", type=float, default=default.min_magnitude, help="keep larger; at 0 a blank one passes")
    add("--max-depth-km", type=float, default=default.max_depth_km, help="keep shallower; at 800 a blank one passes")
    add("--magnitude", choices=get_args(MagnitudeRule), default=default.magnitude, help="may Ml fill a blank Mw?")
    silent("--start", metavar="DATE", help="earliest earthquake: YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, UTC")
    silent("--end", metavar="DATE", help="latest earthquake; a day is meant to its end")
    silent("--box", type=float, nargs=4, metavar=("WEST", "SOUTH", "EAST", "NORTH"), help="epicentres within, degrees")
    add("--processing", default=default.processing, help="manual, automatic, converted only, or several with commas")
    silent("--token", type=Path, metavar="FILE", help="the service's signed message, for restricted data")
    return parser


def _read_token(path: Path) -> bytes:
    try:
        token = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"token {path}: cannot be read ({error.strerror}); give the service's signed message"
        ) from None
    if not token.strip():
        raise ValueError(f"token {path}: is empty; give the service's signed message")
    return token


def _flatfile_events(settings: DownloadSettings, out: Path, ledger: dict[str, Any]) -> list[str]:
    """Bring the flatfile, unless it is there whole; returns the events it selects."""
    url, path, client = settings.flatfile_url(), out / "flatfile.csv", Client()
    if vouches(ledger["flatfile"], client.label(url), path):
        return _selected(path, settings)
    with written_whole(path) as aside:
        try:
            client.fetch(url, aside, _no_table)
            events = _selected(aside, settings)
        except AnswerError as error:
            raise ValueError(f"flatfile: {error}; widen the selection, check {url} or try later") from None
        except ValueError as error:
            raise ValueError(str(error).replace(str(aside), f"from {url}")) from None
        ledger["flatfile"] = entry_of(client.label(url), path.name, aside)
    return events


def _no_table(path: Path) -> str | None:
    """What keeps a file from being a whole table: a page is none, and the last row of a cut one is too short."""
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \r\n")
        file.seek(0)
        header = file.readline()
        file.seek(max(file.tell(), path.stat().st_size - (1 << 20)))
        last = file.read().rstrip(b"\r\n").splitlines()[-1:]
    if start.startswith(b"<") or not start:
        return "no table"
    if not last:
        raise NoDataError("a table without rows")
    separator = max(b";,\t", key=header.count)
    return "a table cut short" if last[0].count(separator) < header.count(separator) else None


def _no_archive(path: Path) -> str | None:
    """What keeps a file from being a whole archive."""
    try:
        with h5py.File(path) as file:
            return None if isinstance(file.get("Waveforms"), h5py.Group) else "HDF5 without the group Waveforms"
    except (OSError, RuntimeError, KeyError):
        return "no whole HDF5 file"


def _selected(path: Path, settings: DownloadSettings) -> list[str]:
    """Events of the flatfile, by the rules of prepare.py."""
    table = with_magnitude(read_flatfile(path), settings.magnitude).assign(kind="", reason="")
    select(table, settings.country, settings.min_magnitude, settings.max_depth_km)
    chosen = table.loc[table["kind"] == "", "event_id"].dropna()
    events = sorted(set(chosen) - {""})
    if not events:
        reasons = ", ".join(f"{kind} {count}" for kind, count in table["kind"].value_counts().items())
        raise ValueError(f"none of {len(table)} records is selected ({reasons}); widen the selection")
    return events


def _download_events(
    events: Sequence[str], settings: DownloadSettings, out: Path, ledger: dict[str, Any], client: Client, progress: bool
) -> DownloadSummary:
    """Bring all events; the ledger follows each, so that a kill costs no more than what is under way."""
    summary, found = DownloadSummary(out, settings), ledger["events"]
    bring = partial(_bring, settings=settings, out=out, ledger=dict(found), client=client)
    with _bar(client, progress) as bar, closing(in_threads(bring, events, PARALLEL, client.stop)) as results:
        for event, result in bar.track(results, len(events)):
            if isinstance(result, AnswerError):
                summary.failed[event] = str(result)
                continue
            if isinstance(result, Exception):
                raise result
            summary.outcome[result[0]] += 1
            if found.get(event) != result[1]:
                found[event] = result[1]
                write_ledger(out, ledger)
    summary.received, summary.sizes = client.received, [path.stat().st_size for path in out.glob("*.h5")]
    return summary


def _bring(
    event: str, settings: DownloadSettings, out: Path, ledger: dict[str, Any], client: Client
) -> tuple[str, dict[str, Any]]:
    """One event's file, unless it is there whole: the outcome and the entry for the ledger."""
    if not re.fullmatch(r"[^*?,]+", event):
        raise AnswerError("the service would take this id for a pattern")
    url, path, entry = settings.event_url(event), out / f"{quote(event, safe='')}.h5", ledger.get(event)
    if vouches(entry, client.label(url), path):
        return "without data" if "no data" in ledger[event] else "there already", ledger[event]
    try:
        with written_whole(path) as aside:
            client.fetch(url, aside, _no_archive)
            entry = entry_of(client.label(url), path.name, aside)
    except NoDataError as error:
        path.unlink(missing_ok=True)  # brought by another request
        return "without data", {"request": client.label(url), "no data": str(error)}
    return "downloaded", entry


class _Received(ProgressColumn):
    """Bytes received by a client, and their rate."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def render(self, task: Task) -> Text:
        received = self._client.received
        return Text(f"{decimal(received)}, {decimal(round(received / (task.elapsed or 1)))}/s")


def _bar(client: Client, shown: bool) -> Progress:
    columns = (TextColumn("downloading"), BarColumn(), MofNCompleteColumn(), _Received(client), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not shown)


if __name__ == "__main__":
    run_command(main)
