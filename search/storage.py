"""Where results and data are kept: in a folder, or on any file system of pyarrow, such as a bucket (`s3://`, `gs://`).

What is kept in a bucket has a copy on this machine, where all but Tune works. What changes there goes to the bucket,
each file as one object, whole or not at all, and a search is resumed from the bucket alone. Tune itself keeps its
state and the checkpoints there. Credentials are left to pyarrow: the environment, or the instance's profile.
"""

import fcntl
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pyarrow.fs import (
    AwsDefaultS3RetryStrategy,
    FileInfo,
    FileSelector,
    FileSystem,
    FileType,
    LocalFileSystem,
    S3FileSystem,
    copy_files,
)

from data_prep.files import written_whole

EXPERIMENT = "tune"
MANIFEST = "manifest.json"
# Runs and study are made again of the log when a search is resumed, so they are sent at its end; a link stays here.
RUNS, LATEST_RUN, JOURNAL = "wandb", "latest-run", "optuna.journal"
LOGS = "jsonl"
# With pauses of 25 ms, 50 ms, ... between them S3 may be away for 100 s.
S3_ATTEMPTS = 12


class PatientS3(S3FileSystem):  # type: ignore[misc]  # pyarrow has no types
    """S3 that is asked many times before a request fails, also by processes it is sent to: there, pyarrow forgets.

    A small file is one request, not three.
    """

    def __init__(self, **options: Any):
        more = {"allow_delayed_open": True, "retry_strategy": AwsDefaultS3RetryStrategy(S3_ATTEMPTS)}
        super().__init__(**options | more)

    def __reduce__(self) -> tuple[Callable[..., "PatientS3"], tuple[dict[str, Any]]]:
        return _patient, super().__reduce__()[1]


def _patient(options: dict[str, Any]) -> PatientS3:
    return PatientS3(**options)


@dataclass(frozen=True)
class Place:
    """A folder or file as the user names it, and as pyarrow does; `copy`, if it has one, is its path in `copies()`."""

    name: str
    filesystem: FileSystem
    path: str
    copy: str = ""

    def __str__(self) -> str:
        return self.name

    def __truediv__(self, name: str) -> "Place":
        """What lies below."""
        path = f"{self.path}/{name}"
        if not self.copy:
            return Place(path, self.filesystem, path)
        url = urlsplit(self.name)
        below = url._replace(path=f"{url.path.rstrip('/')}/{name}").geturl()
        return Place(below, self.filesystem, path, f"{self.copy}/{name}")

    @property
    def here(self) -> Path:
        """Itself or its copy, on whatever machine this is asked."""
        return copies() / self.copy if self.copy else Path(self.path)

    def exists(self) -> bool:
        """Whether there is a file, or a folder, of a bucket one with something in it."""
        return bool(self.filesystem.get_file_info(self.path).type != FileType.NotFound)

    def read(self) -> bytes:
        """What is in a file; `FileNotFoundError` if there is none."""
        with self.filesystem.open_input_file(self.path) as file:
            return bytes(file.readall())

    def write(self, content: bytes) -> None:
        """Replace a file; that of a bucket whole or not at all."""
        with self.filesystem.open_output_stream(self.path) as file:
            file.write(content)

    def send(self) -> None:
        """Copy a file from here to where it is kept."""
        if self.copy:
            self.write(self.here.read_bytes())

    def bring(self) -> None:
        """Copy a file from where it is kept to here."""
        if self.copy:
            self.here.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self.here) as aside:
                copy_files(self.path, str(aside), self.filesystem, LocalFileSystem())

    def bring_search(self) -> None:
        """Make the copy of a search as it is kept, but for its trials' own files and its runs."""
        if self.copy:
            for file in _files(LocalFileSystem(), str(self.here)):
                Path(file.path).unlink()
            for file in _files(self.filesystem, self.path):
                (self / os.path.relpath(file.path, self.path)).bring()


def is_url(name: str) -> bool:
    """Whether it names no folder of this machine by its path."""
    return "://" in name


def place(name: str | Path | Place) -> Place:
    """A folder by its path or URL.

    Raises:
        ValueError: for a URL that pyarrow cannot read, or one with a password.
    """
    if isinstance(name, Place):
        return name
    text = str(name)
    if not is_url(text):
        folder = str(Path(text).resolve())
        return Place(folder, LocalFileSystem(), folder)
    if re.match(r"[^:]+://[^@?]*:[^@?]*@", text):  # not by `urlsplit`: a key of AWS's may hold a slash
        raise ValueError(f"a URL of {text.partition('://')[0]}:// has a password; expected it in the environment alone")
    try:
        filesystem, path = FileSystem.from_uri(text)
    except ValueError as error:
        raise ValueError(f"{text}: {error}; expected a folder, or a URL such as s3://bucket/folder") from None
    if isinstance(filesystem, LocalFileSystem):
        return Place(path, filesystem, path)
    if isinstance(filesystem, S3FileSystem):
        filesystem = _patient(*filesystem.__reduce__()[1])
    return Place(text, filesystem, path.rstrip("/"), f"results/{filesystem.type_name}/{path.rstrip('/')}")


def copies() -> Path:
    """The folder of all copies on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seismogen"


def _files(filesystem: FileSystem, path: str, left_out: Container[str] = (RUNS,)) -> Iterator[FileInfo]:
    """The files of a search, but for those of single trials, which are Tune's, and hidden ones."""
    for info in filesystem.get_file_info(FileSelector(path, allow_not_found=True)):
        if info.base_name.startswith(".") or info.base_name in left_out:
            continue
        if info.type == FileType.File:
            yield info
        elif os.path.basename(path) != EXPERIMENT:
            yield from _files(filesystem, info.path, left_out)


class Change(NamedTuple):
    """A file that is not yet kept as it is here: its path here, its name where it is kept, its time and size."""

    path: str
    name: str
    state: tuple[int, int]
    content: bytes


class Changes:
    """What has changed here since it was last sent to where it is kept."""

    def __init__(self, kept: Place):
        self._kept = kept
        self._sent: dict[str, tuple[int, int]] = {}

    def send(self, left_out: Container[str] = (RUNS,)) -> None:
        """Send what has changed in the copy of a search; logs first, which all else follows from."""
        self._send(sorted(self._here(left_out), key=_order))

    def send_logs(self) -> None:
        """Send what has been added to the logs; not even looked at is what follows from them."""
        self._send(sorted((file for file in self._here((RUNS,)) if file.extension == LOGS), key=_order))

    def _here(self, left_out: Container[str]) -> Iterator[FileInfo]:
        return _files(LocalFileSystem(), str(self._kept.here), left_out) if self._kept.copy else iter(())

    def _send(self, files: Iterable[FileInfo]) -> None:
        self.send_these(self.among(files, str(self._kept.here)))

    def among(self, files: Iterable[FileInfo], folder: str) -> Iterator[Change]:
        """Those of the files in a folder that have changed."""
        for file in files:
            state = (file.mtime_ns, file.size)
            if self._sent.get(file.path) != state:
                yield Change(file.path, os.path.relpath(file.path, folder), state, Path(file.path).read_bytes())

    def send_these(self, changes: Iterable[Change]) -> None:
        """Send changes."""
        for change in changes:
            (self._kept / change.name).write(change.content)
            self._sent[change.path] = change.state


def _order(file: FileInfo) -> tuple[bool, int, str]:
    """Logs first, their parts in order; reports before the ends of trials, which count on them."""
    return file.extension != LOGS, len(file.base_name), file.base_name


def dataset_at(name: str | Path | Place) -> Place:
    """A prepared dataset by its path or URL; its copies have the manifest's checksum for a name.

    Raises:
        ValueError: if there is no manifest.
    """
    found = place(name)
    try:
        manifest = (found / MANIFEST).read()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"dataset {found}: no {MANIFEST}; give a folder made by data_prep/prepare.py") from None
    copy = dataset_copy(sha256(manifest).hexdigest()) if found.copy else ""
    return Place(found.name, found.filesystem, found.path, copy)


def dataset_copy(digest: str) -> str:
    """Path below `copies()` of the dataset whose manifest has this checksum."""
    return f"data/{digest}"


def on_this_machine(prepared: Place) -> Path:
    """The folder of a prepared dataset on this machine, brought and verified by whoever asks first.

    Raises:
        ValueError: if a file differs from its checksum.
    """
    folder = prepared.here
    if not prepared.copy:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _bring_dataset(prepared, folder)
    return folder


def _bring_dataset(prepared: Place, folder: Path) -> None:
    from data_prep.dataset import open_dataset  # here, because pandas takes a second to import

    with written_whole(folder) as aside:
        aside.mkdir()
        copy_files(prepared.path, str(aside), prepared.filesystem, LocalFileSystem())
        open_dataset(aside)
        if sha256((aside / MANIFEST).read_bytes()).hexdigest() != folder.name:
            raise ValueError(f"dataset {prepared} has been prepared again meanwhile; start another search")
