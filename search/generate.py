"""Generate waveforms with the best generator of a search.

python search/generate.py results/demo-1 --count 16 --out x.npy
"""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from data_prep.command import Parser, run_command
from data_prep.files import write_npy, written_whole
from search.exported import load_best, load_records
from trainables.batches import LABELS
from trainables.config import MAX_SEED
from trainables.metrics import z_score

BATCH = 64
MAX_COUNT = 10**8
UNITS = ("normalised", "cm/s2")


@torch.no_grad()
def generated(result: Path, count: int, label: str, units: str, seed: int) -> Iterator[Tensor]:
    """Waveforms (B, C, T) a batch at a time: z-scored, or scaled as one training record's components were, in cm/s².

    Conditions, and scales whose ratios are H/V, belong together: each waveform takes them all from one record.

    Raises:
        ValueError: if the generator was not trained on that label, or not on records of known unit.
    """
    generator, config = load_best(result)
    if label not in config["labels"]:
        raise ValueError(f"{result} was trained on {' and '.join(config['labels'])} alone; it cannot generate {label}")
    scaled = units == "cm/s2"
    records = load_records(result, label, scaled)
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        latent = torch.randn(size, generator.latent_dim, generator=rng)
        record = torch.randint(len(records.label), (size,), generator=rng)
        wave = z_score(generator(latent, records.label[record]))
        yield wave * records.scale[record, :, None] if scaled else wave


def write_array(batches: Iterator[Tensor], count: int, file: Path) -> None:
    """Write float32 (count, C, T) without ever holding it all."""
    first = next(batches)
    with written_whole(file) as aside:
        write_npy(aside, (count, *first.shape[1:]), (batch.numpy() for batch in chain([first], batches)))


WRITERS: dict[str, Callable[[Iterator[Tensor], int, Path], None]] = {".npy": write_array}


def write_waveforms(
    result: Path, count: int, out: Path, label: str = "earthquake", units: str = "normalised", seed: int = 0
) -> None:
    """Generate `count` waveforms into a file whose ending names the format.

    Raises:
        ValueError: for a bad count, an unknown ending, or a folder without an export.
    """
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"--count is {count}; expected 1 to {MAX_COUNT}")
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"--seed is {seed}; expected 0 to {MAX_SEED - 1}")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; expected the name of a file")
    if out.suffix not in WRITERS:
        raise ValueError(f"--out {out} ends in '{out.suffix}'; expected one of {', '.join(WRITERS)}")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: folder {out.parent} does not exist; create it first")
    WRITERS[out.suffix](generated(result, count, label, units, seed), count, out)


def main() -> None:
    """The command line."""
    parser = Parser(description="Generate waveforms with the best generator of a search.")
    parser.add_argument("result", type=Path, help="folder of a finished search, such as results/demo-1")
    parser.add_argument("--count", type=int, required=True, help="how many waveforms, of all components each")
    parser.add_argument("--out", type=Path, required=True, help="file to write: .npy, float32 (count, C, T)")
    parser.add_argument("--label", choices=sorted(LABELS), default="earthquake")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--units", choices=UNITS, default=UNITS[0], help="cm/s2 scales as training records are")
    args = parser.parse_args()
    write_waveforms(args.result, args.count, args.out, args.label, args.units, args.seed)
    print(f"{args.count} waveforms in {args.out}")


if __name__ == "__main__":
    run_command(main)
