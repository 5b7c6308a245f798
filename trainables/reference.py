"""What generated windows are held against, measured once a dataset and kept beside it.

It depends on the dataset and on how is judged, never on a trial. For a large dataset measuring takes minutes, so the
first trial leaves a file in the dataset's folder and the others read it; where the folder cannot be written to, each
process measures once. Shapes: N window, C component, T sample, D feature.
"""

import hashlib
import json
import os
import uuid
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables import metrics
from trainables.batches import PreparedDataset, Windows

# The text of what measures is its version: a number would sooner or later not be raised.
CODE = ("distances.py", "embedding.py", "fidelity.py", "metrics.py", "reference.py")
# Windows looked at together, which bounds memory.
CHUNK = 32
# Z-scored records agree in mean and std to rounding, which is no unit to measure a drift by.
DRIFT_UNIT_FLOOR = 0.02

# The last one, by its file and device. No more, as a large dataset's take memory.
_last: dict[tuple[Path, torch.device], "Reference"] = {}


@dataclass(frozen=True)
class Reference:
    """Features (N, D) of the real windows by name, and what of them is compared with; all else are plain numbers.

    `floors`: quantiles of each distance between halves of real windows; `event_disjoint`: floors between windows of
    different earthquakes over floors between any; `places`: coverage and density of halves by halves; `drift`: real
    mean of each moment, and its unit; `thesis`: statistics over all samples.
    """

    features: dict[str, Tensor]
    floors: dict[str, dict[str, float]]
    event_disjoint: dict[str, float]
    places: dict[str, float]
    drift: dict[str, list[float]]
    thesis: dict[str, float]


NUMBERS = [field.name for field in fields(Reference) if field.name != "features"]


def kept(file: Path, device: torch.device, measure: Callable[[], Reference]) -> Reference:
    """What a file or this process keeps; else measured, and kept for the next. The numbers are the same either way."""
    if (file, device) not in _last:
        found = _read(file, device)
        if found is None:
            found = measure()
            _write(file, found)
        _last.clear()
        _last[file, device] = found
    return _last[file, device]


def file_beside(dataset: PreparedDataset, judged: Windows, *how: Any) -> Path:
    """The file that keeps what belongs to these windows of a dataset, judged like this by this code."""
    wave = judged.wave
    about = [dataset.manifest, how, wave.device.type, str(wave.dtype), torch.__version__]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in CODE:
        digest.update(Path(__file__).with_name(name).read_bytes())
    for part in (*wave.split(CHUNK), judged.event, judged.label):
        digest.update(part.cpu().contiguous().numpy())
    return dataset.folder / f"judge-{digest.hexdigest()[:16]}.npz"


def drift_reference(train_NCT: Tensor, count: int) -> dict[str, list[float]]:
    """Real mean of each moment and its unit: the spread of such a mean over draws of `count` training windows."""
    chunks = [metrics.moments(chunk) for chunk in train_NCT.split(CHUNK)]
    reference = {}
    for name in chunks[0]:
        std, mean = torch.std_mean(torch.cat([chunk[name] for chunk in chunks]).mean(1), correction=0)
        reference[name] = [float(mean), max(float(std) / count**0.5, DRIFT_UNIT_FLOOR)]
    return reference


def _read(file: Path, device: torch.device) -> Reference | None:
    """None where there is no such file, or one that is not whole, which the zip's checksums tell."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            numbers = json.loads(str(found["numbers"]))
            features = {name: torch.tensor(found[name], device=device) for name in found.files if name != "numbers"}
            return Reference(features, **numbers)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _write(file: Path, reference: Reference) -> None:
    """Write whole or not at all; a folder that takes no file is none to be told of."""
    numbers = json.dumps({name: getattr(reference, name) for name in NUMBERS})
    features: dict[str, Any] = {name: feature.cpu().numpy() for name, feature in reference.features.items()}
    aside = file.with_name(f".{file.stem}.{uuid.uuid4().hex[:8]}.partial")
    with suppress(OSError):
        try:
            with aside.open("xb") as stream:
                np.savez(stream, numbers=np.array(numbers), **features)
            os.replace(aside, file)
        finally:
            aside.unlink(missing_ok=True)
