"""Generate waveforms with the best generator of a search.

python search/generate.py results/demo-1 --count 16 --out x.npy

Beside the file comes a table of the same name, x.csv, with a row a waveform. What a waveform is follows from the seed
and its number alone, however many come with it and on however many threads: random numbers are drawn in the order of
the waveforms, and a thread computes each by itself. Another kind of CPU adds in another order: a millionth of the peak.
"""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from data_prep.command import Parser, run_command
from data_prep.files import left_behind, written_whole
from search.export.load import Records, load_best, load_records
from search.waveforms.asdf import write_asdf
from search.waveforms.conditions import ASKED, Condition, conditions_of, told
from search.waveforms.formats import (
    CM_S2,
    MAX_COUNT,
    NORMALISED,
    UNITS,
    Batch,
    Layout,
    Row,
    with_table,
    write_array,
    write_miniseed,
)
from trainables.batches import LABELS
from trainables.config import MAX_SEED
from trainables.fixed import fix
from trainables.metrics import z_score
from trainables.networks import AnyGenerator

# Waveforms written together.
BATCH = 64
# Each takes some 20 MB for windows of 8000 samples.
MOST_THREADS = 16
FORMATS = {".npy": write_array, ".h5": write_asdf, ".mseed": write_miniseed}
# A flatfile's names for what a generator may be told of an earthquake.
FLATFILE = {"magnitude": "Mw", "distance_km": "epi_dist_km", "depth_km": "EVENT_DEPTH_KM"}


def write_waveforms(
    result: Path,
    count: int,
    out: Path,
    label: str = "earthquake",
    units: str | None = None,
    seed: int = 0,
    asked: Mapping[str, float] | None = None,
    progress: bool = False,
) -> None:
    """Generate `count` waveforms into a file whose ending names the format, and a table of them beside it.

    `units` None: normalised in .npy, cm/s² in the formats whose readers expect it. `asked` holds the `magnitude` and
    the `distance_km` that all waveforms are to have, if any.

    Raises:
        ValueError: for a bad count, an unknown ending, a folder without an export, or what that was not trained for.
    """
    table = out.with_suffix(".csv")
    _check(count, out, table, seed)
    generator, config = load_best(result)
    if label not in config["labels"]:
        raise ValueError(f"{result} was trained on {' and '.join(config['labels'])} alone; it cannot generate {label}")
    units = units or (NORMALISED if out.suffix == ".npy" else CM_S2)
    layout = Layout(count, config["model"]["components"], config["samples"], config["fs_hz"], label, units, seed)
    conditions = conditions_of(config) if label == "earthquake" else {}
    records = told(load_records(result, label, units == CM_S2), conditions, asked or {})
    with undivided_threads() as threads, terminal_bar(progress) as bar:
        batches = generated(generator, records, layout, conditions, threads)
        shown = bar.track(batches, -(-count // BATCH), description="generating")
        for left in (*left_behind(out), *left_behind(table)):  # by a run that was killed
            left.unlink()
        with written_whole(table) as rows, written_whole(out) as aside:
            FORMATS[out.suffix](aside, layout, with_table(rows, shown))


def _check(count: int, out: Path, table: Path, seed: int) -> None:
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"--count is {count}; expected 1 to {MAX_COUNT}")
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"--seed is {seed}; expected 0 to {MAX_SEED - 1}")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; expected the name of a file")
    if out.suffix not in FORMATS:
        raise ValueError(f"--out {out} ends in '{out.suffix}'; expected one of {', '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: folder {out.parent} does not exist; create it first")
    if table.is_dir() or (table.exists() and not out.exists()):
        raise ValueError(f"--out {out}: its table would replace {table}, which is another's; choose another name")


@contextmanager
def undivided_threads() -> Iterator[Executor]:
    """Threads that torch does not divide further: how it would divide the work decides the order of additions."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(count, MOST_THREADS), initializer=torch.set_num_threads, initargs=(1,)) as threads:
            yield threads
    finally:
        torch.set_num_threads(count)


def terminal_bar(shown: bool) -> Progress:
    """A progress bar, for a terminal alone."""
    console = Console(stderr=True)
    return Progress(console=console, disable=not (shown and console.is_terminal))


def generated(
    generator: AnyGenerator, records: Records, layout: Layout, conditions: Mapping[str, Condition], threads: Executor
) -> Iterator[Batch]:
    """Waveforms and their rows, a batch at a time.

    Label and conditions, and scales whose ratios are H/V, belong together: each waveform takes them all from one
    record.
    """
    latents, places = np.random.default_rng(layout.seed).spawn(2)
    fix(generator)
    waveforms = partial(_waveforms, generator)
    for start in range(0, layout.count, BATCH):
        size = min(BATCH, layout.count - start)
        record = records[torch.from_numpy(places.integers(len(records.number), size=size))]
        latent = torch.from_numpy(latents.standard_normal((size, generator.latent_dim), np.float32))
        wave = torch.cat(list(threads.map(waveforms, latent.split(1), record.label.split(1))))
        if layout.units == CM_S2:
            wave *= record.scale[:, :, None]
        rows = [_row(start + n, record[n : n + 1], layout, conditions) for n in range(size)]
        yield Batch(wave.numpy(), rows)


@torch.inference_mode()
def _waveforms(generator: AnyGenerator, latent_BZ: Tensor, label_BL: Tensor) -> Tensor:
    """Normalised waveforms (B, C, T)."""
    return z_score(generator(latent_BZ, label_BL))


def _row(index: int, record: Records, layout: Layout, conditions: Mapping[str, Condition]) -> Row:
    """What is known of a waveform that was made after one training record; blank where nothing is."""
    stds = zip(layout.components, record.scale[0].tolist(), strict=True)
    known = {name: condition.values(record.label).item() for name, condition in conditions.items()}
    return {
        "index": index,
        "label": layout.label,
        "seed": layout.seed,
        "units": layout.units,
        "training_record": record.number.item(),
        **{f"std_{axis.lower()}_cm_s2": f"{std:.9g}" if math.isfinite(std) else "" for axis, std in stds},
        **{column: f"{known[name]:.6g}" if name in known else "" for name, column in FLATFILE.items()},
        **layout.names(index),
    }


def main() -> None:
    """The command line."""
    parser = Parser(
        description="Generate waveforms with the best generator of a search, and a table (.csv) of them.",
        epilog="Example: python search/generate.py results/demo-1 --count 100 --out waveforms.h5 --magnitude 5",
    )
    parser.add_argument("result", type=Path, help="folder of a finished search, such as results/demo-1")
    parser.add_argument("--count", type=int, required=True, help="how many waveforms, of all components each")
    text = "file to write: .npy, float32 (count, C, T); .h5, ASDF; .mseed, miniSEED"
    parser.add_argument("--out", type=Path, required=True, help=text)
    parser.add_argument("--label", choices=sorted(LABELS), default="earthquake", help="default: earthquake")
    parser.add_argument("--seed", type=int, default=0, help="the same one gives the same waveforms (default: 0)")
    text = "cm/s2: scaled as one training record is (default: normalised in .npy, cm/s2 in other formats)"
    parser.add_argument("--units", choices=UNITS, help=text)
    for name, (option, text) in ASKED.items():
        parser.add_argument(option, dest=name, type=float, help=text, metavar=option.strip("-").upper())
    args = parser.parse_args()
    asked = {name: value for name in ASKED if (value := getattr(args, name)) is not None}
    write_waveforms(args.result, args.count, args.out, args.label, args.units, args.seed, asked, progress=True)
    print(f"{args.count} waveforms in {args.out}, a row of each in {args.out.with_suffix('.csv')}")


if __name__ == "__main__":
    run_command(main)
