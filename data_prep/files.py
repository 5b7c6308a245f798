"""Files written whole or not at all, and their checksums."""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` that takes its place on success and vanishes on any error.

    The block may create a file or a folder at the temporary path. An existing file is replaced; an existing
    folder is not (`OSError`).
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)


def left_behind(path: Path) -> list[Path]:
    """The temporary neighbours of `path` that `written_whole` had no time to remove."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.partial{re.escape(path.suffix)}")
    return [neighbour for neighbour in path.parent.iterdir() if name.fullmatch(neighbour.name)]


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all; NaN and infinity are refused (`ValueError`)."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_npy(path: Path, shape: tuple[int, ...], batches: Iterable[np.ndarray]) -> None:
    """Write a float32 array batch by batch along its first axis.

    Not through a memory map: where the disk is full that ends the process instead of raising `OSError`.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for batch in batches:
            file.write(np.ascontiguousarray(batch, np.float32).data)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
