"""All state of a training out, all state in; what is not whole is refused.

A checkpoint is one file: a line `seismogen checkpoint FORMAT SHA256`, then what `torch.save` wrote, whose checksum the
line holds. One file, so that content and checksum agree however the process ends.
"""

import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainables.gan import Gan

FILE = "training.pt"
MAGIC = "seismogen checkpoint"
FORMAT = 1


def save_checkpoint(folder: Path, gan: Gan, best: dict[str, Any]) -> None:
    """Write a training's whole state, and what `best_epoch` gave for it, into a folder, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({**gan.state_dict(), "best": best}, buffer)
    content = buffer.getbuffer()
    aside = folder / f".{FILE}.partial"
    with aside.open("wb") as file:
        file.write(f"{MAGIC} {FORMAT} {hashlib.sha256(content).hexdigest()}\n".encode())
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the name without the bytes
    os.replace(aside, folder / FILE)


def load_checkpoint(folder: Path, filesystem: Any = None) -> dict[str, Any]:
    """Read a training's state; no code in the file is run.

    The folder is one of this machine, or of a file system of pyarrow.

    Raises:
        ValueError: for a file that is missing, of another format, not as it was written, or more than plain data.
    """
    content = _content(folder / FILE, filesystem)
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # the unpickler raises anything at all on what `torch.save` did not write
        raise ValueError(
            f"{folder / FILE} cannot be read ({type(error).__name__}); expected tensors and plain values alone: "
            "do not use it, and find out who wrote it"
        ) from None
    return state


def load_first(folders: Sequence[Path], filesystem: Any = None) -> tuple[dict[str, Any] | None, list[str]]:
    """The state in the first of the folders that holds a whole one, and what is wrong with those before it."""
    damage: list[str] = []
    for folder in folders:
        try:
            return load_checkpoint(folder, filesystem), damage
        except ValueError as error:
            damage.append(str(error))
    return None, damage


def best_epoch(best: dict[str, Any] | None, gan: Gan) -> dict[str, Any]:
    """The averaged generator and the reports up to the epoch with the lowest score: the last one, or `best` so far."""
    if best and best["history"][-1]["score"] <= gan.history[-1]["score"]:
        return best
    averaged = {name: value.clone() for name, value in gan.averaged.state_dict().items()}
    return {"averaged": averaged, "history": list(gan.history)}


def _content(file: Path, filesystem: Any) -> bytes:
    """What follows the first line, which is checked against it."""
    try:
        line, _, content = _read(file, filesystem).partition(b"\n")
    except FileNotFoundError:
        raise ValueError(
            f"{file} does not exist; expected a checkpoint: restore it from a copy or go on without it"
        ) from None
    header = re.fullmatch(rb"%b (\d+) ([0-9a-f]{64})" % MAGIC.encode(), line)
    if not header:
        raise ValueError(
            f"{file} begins with {line[:30]!r}; expected '{MAGIC} ...': restore it from a copy or go on without it"
        )
    if int(header[1]) != FORMAT:
        raise ValueError(f"{file} has format {int(header[1])}; expected {FORMAT}: go on with the version that wrote it")
    found, expected = hashlib.sha256(content).hexdigest(), header[2].decode()
    if found != expected:
        raise ValueError(
            f"{file} is damaged: SHA-256 of its content is {found:.12}..., expected {expected:.12}...: "
            "restore it from a copy or go on without it"
        )
    return content


def _read(file: Path, filesystem: Any) -> bytes:
    if filesystem is None:
        return file.read_bytes()
    with filesystem.open_input_file(file.as_posix()) as stream:
        return bytes(stream.readall())
