"""Record what configurations drawn from the demo's space score by epoch, each with several seeds, never stopped early.

    python tests/bench/record_curves.py [--configurations 80] [--seeds 3] [--jobs 2]

Writes tests/golden/demo_curves.json, which `replay.py` replays; some 30 s of one core a curve. What an interrupted run
has recorded is kept and not run again.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from itertools import product
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_data import make_demo_data

from data_prep.files import written_whole
from search.presets import preset
from search.space import Range, Space
from trainables.batches import PreparedDataset
from trainables.config import with_values
from trainables.gan import Gan
from trainables.training import train

FILE = Path(__file__).resolve().parents[1] / "golden" / "demo_curves.json"
KEPT = ("score", "samples", "generator_steps", "seconds")

Curve = dict[str, Any]


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    curves: list[Curve] = json.loads(FILE.read_text()) if FILE.is_file() else []
    known = [(curve["parameters"], curve["seed"]) for curve in curves]
    wanted = list(product(configurations(preset("demo").domains, options.configurations), range(options.seeds)))
    missing = [job for job in wanted if job not in known]
    with tempfile.TemporaryDirectory(prefix="bench-curves-") as folder:
        data = options.data or make_demo_data(Path(folder))
        with Pool(options.jobs) as pool:
            for curve in pool.imap_unordered(_record, [(data, *job) for job in missing]):
                curves.append(curve)
                _write(curves)
                print(f"{len(curves)}/{len(wanted)}: {curve['parameters']}, score {curve['score'][-1]}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="prepared dataset; the demo's if left out")
    add("--configurations", type=int, default=80)
    add("--seeds", type=int, default=3, help="trainings of each configuration")
    add("--jobs", type=int, default=2, help="trainings at once, each on one thread")
    return parser


def configurations(space: Space, count: int) -> Iterator[dict[str, Any]]:
    """Drawn evenly from a space of ranges; the first so many are the same whatever the count."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {key: _draw(domain, rng.random()) for key, domain in space.items() if isinstance(domain, Range)}


def _draw(domain: Range, share: float) -> float:
    whole = isinstance(domain.low, int)
    low, high = (domain.low - 0.5, domain.high + 0.5) if whole else (domain.low, domain.high)
    value = low * (high / low) ** share if domain.log else low + (high - low) * share
    return round(value) if whole else float(f"{value:.4g}")


def _record(job: tuple[Path, dict[str, Any], int]) -> Curve:
    """One training's course, to four digits; None where a training diverged."""
    data, parameters, seed = job
    torch.set_num_threads(1)
    reports: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any], gan: Gan) -> None:
        reports.append(metrics)

    config = with_values(preset("demo").trial, {**parameters, "seed": seed})
    train(config, PreparedDataset.open(data), report, lambda history: None)
    return {"parameters": parameters, "seed": seed, **{key: [_rounded(r[key]) for r in reports] for key in KEPT}}


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _write(curves: list[Curve]) -> None:
    curves.sort(key=lambda curve: (json.dumps(curve["parameters"]), curve["seed"]))
    with written_whole(FILE) as aside:
        aside.write_text("[\n" + ",\n".join(json.dumps(curve, separators=(",", ":")) for curve in curves) + "\n]\n")


if __name__ == "__main__":
    main()
