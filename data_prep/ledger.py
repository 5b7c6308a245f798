"""The folder of a download: one download at a time, no half files, and a ledger that vouches for what is there."""

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data_prep.files import sha256, write_json

_NAME = "download.json"


@contextmanager
def own_folder(out: Path) -> Iterator[None]:
    """Make `out`, keep other downloads from it, and leave no half files, nor a new folder with nothing in it.

    Raises:
        ValueError: it cannot be made, written to, or had alone.
    """
    new = not out.exists()
    with _locked(out):
        try:
            _sweep(out)  # a killed download could not do it itself
            yield
        except OSError as error:
            trouble = error.strerror or error
            raise ValueError(f"out {out}: {trouble}; mend that and give the same command again") from None
        finally:
            _sweep(out)
            if new:
                with suppress(OSError):  # not empty, as it should be
                    out.rmdir()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"out {out}: cannot be created ({error.strerror}); choose another folder") from None
    try:
        with suppress(OSError):  # some network file systems lock no folders: there the user has to take care
            _lock(handle, out)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, out: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"out {out}: another download is writing there; wait for it or choose another") from None


def _sweep(out: Path) -> None:
    """Remove what `written_whole` had begun."""
    for path in out.glob(".*.????????.partial.*"):
        path.unlink(missing_ok=True)


def read_ledger(out: Path) -> dict[str, Any]:
    """The ledger, empty where there is none or where it is damaged; `vouches` judges its single entries."""
    path = out / _NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": None, "flatfile": content["flatfile"], "events": dict(content["events"])}
    except (ValueError, KeyError, TypeError):
        print(f"{path} is damaged: every file is asked for again", file=sys.stderr)
    except FileNotFoundError:
        pass
    return {"settings": None, "flatfile": None, "events": {}}


def vouches(entry: Any, request: str, path: Path) -> bool:
    """Does this entry of the ledger say that `request` brought what is at `path`, to the byte, or that it has none?"""
    match entry:
        case {"request": asked, "no data": str()}:
            return bool(asked == request)
        case {"request": asked, "bytes": size, "sha256": digest}:
            there = asked == request and path.is_file() and path.stat().st_size == size
            return there and sha256(path) == digest
    return False


def write_ledger(out: Path, ledger: dict[str, Any]) -> None:
    """Write the ledger, whole or not at all."""
    write_json(out / _NAME, ledger)


def entry_of(request: str, name: str, path: Path) -> dict[str, Any]:
    """The entry of the file `name`, which is still at `path`, as `request` brought it."""
    return {"request": request, "file": name, "bytes": path.stat().st_size, "sha256": sha256(path)}
