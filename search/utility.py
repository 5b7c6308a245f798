"""Does it help? A detector of earthquakes is trained with and without generated records, and tested on real ones.

python search/utility.py results/demo-1                      prints a table and writes results/demo-1/utility.json
python search/utility.py results/itaca-1 --noise data/quiet  with the noise of another prepared dataset

Training and test are the same for all rows but for the earthquakes that the detector learns from. These are mixed with
noise at -5 to 15 dB: each real or generated record once, and augmented ones with other noise each time they are drawn.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor

from data_prep.command import Parser, run_command
from data_prep.files import write_json
from search.generate import terminal_bar, undivided_threads
from search.plan import shown_path
from search.utility_data import Examples, read_examples
from trainables.detector import (
    SNR_DB,
    STEPS,
    Draw,
    best_threshold,
    drawn,
    drawn_anew,
    log_kurtosis,
    mixed,
    quality,
    train_detector,
)

UTILITY = "utility.json"
SEEDS, MOST_SEEDS = 5, 100
# The learning curve begins with so many real records, and each point has so many times those of the one before.
FIRST, TIMES = 8, 4
# Test windows with an earthquake, about: each record is mixed with noise that often.
MIXTURES = 480
CONFIDENCE = 0.95
KURTOSIS, REAL, AUGMENTED = "log-kurtosis", "real", "real, augmented"
GENERATED, BOTH, ALONE = "real + generated", "both, augmented", "generated"
METHODS = (KURTOSIS, REAL, AUGMENTED, GENERATED, BOTH)
# What is to beat what.
PAIRS = ((GENERATED, REAL), (BOTH, AUGMENTED))
MEASURES = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "auc": "AUC"}
WINDOWS = ("train", "test", "generated", "noise", "held_noise")


class Case(NamedTuple):
    """One training: with so many real records, what else, and the seed of all that is random in it."""

    records: int
    method: str
    seed: int


class Estimate(NamedTuple):
    """A mean over seeds; that over all seeds is within `margin` of it with 95 % confidence (Student's t)."""

    mean: float
    margin: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """The estimate from one value a seed."""
        spread = statistics.stdev(values) / math.sqrt(len(values))
        return cls(statistics.mean(values), spread * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)))


def utility(result: Path, noise: Path | None = None, seeds: int = SEEDS, progress: bool = False) -> dict[str, Any]:
    """Train and test all detectors; returns what is written to `utility.json` in the result's folder.

    Raises:
        ValueError: for a bad number of seeds, and what `read_examples` raises.
    """
    if not 2 <= seeds <= MOST_SEEDS:
        raise ValueError(f"--seeds is {seeds}; expected 2 to {MOST_SEEDS}")
    examples = read_examples(result, noise)
    cases = [Case(*row, seed) for row in _rows(len(examples.train)) for seed in range(seeds)]
    with undivided_threads() as threads, terminal_bar(progress) as bar, _stopped_at_end() as stop:
        results = threads.map(partial(_tested, examples, stop), cases)
        found = list(bar.track(results, len(cases), description="training"))
    content = _content(examples, seeds, dict(zip(cases, found, strict=True)))
    write_json(result / UTILITY, content)
    return content


def _rows(total: int) -> list[tuple[int, str]]:
    """The rows of the table: how many real records, and the method."""
    sizes = [*_growing(total), total]
    return [(0, ALONE), *((size, method) for size in sizes for method in METHODS)]


def _growing(total: int) -> Iterator[int]:
    size = FIRST
    while size <= total / 2:
        yield size
        size *= TIMES


@contextmanager
def _stopped_at_end() -> Iterator[Event]:
    """What tells the trainings to end, so that nobody who has pressed Ctrl-C waits for them."""
    stop = Event()
    try:
        yield stop
    finally:
        stop.set()


def _tested(examples: Examples, stop: Event, case: Case) -> dict[str, float]:
    """The quality of one detector on the test part; records, test and first mixtures depend on the seed alone."""
    rng = torch.Generator().manual_seed(case.seed)
    real = examples.train[torch.randperm(len(examples.train), generator=rng)[: case.records]]
    repeats = math.ceil(MIXTURES / len(examples.test))
    tested = mixed(examples.test.repeat(repeats, 1, 1), examples.held_noise, rng)
    if case.method == KURTOSIS:
        feature = log_kurtosis
        threshold = best_threshold(feature(mixed(real, examples.noise, rng)), feature(examples.noise))
        return quality(feature(tested) - threshold, feature(examples.held_noise) - threshold)
    noise = _until(stop, drawn(examples.noise, rng))
    detect = train_detector(_sources(examples, case.method, real, rng), noise, case.seed)
    return quality(detect(tested), detect(examples.held_noise))


def _until(stop: Event, draw: Draw) -> Draw:
    """The same windows, until told to stop."""

    def draw_on(count: int) -> Tensor:
        if stop.is_set():
            raise CancelledError
        return draw(count)

    return draw_on


def _sources(examples: Examples, method: str, real: Tensor, rng: torch.Generator) -> list[Draw]:
    """Where a detector's earthquakes come from."""
    waves = [] if method == ALONE else [real]
    if method in (GENERATED, BOTH, ALONE):
        waves.append(examples.generated)
    if method in (AUGMENTED, BOTH):
        return [drawn_anew(wave, examples.noise, examples.fs_hz, examples.band_hz, rng) for wave in waves]
    return [drawn(mixed(wave, examples.noise, rng), rng) for wave in waves]


def _content(examples: Examples, seeds: int, found: Mapping[Case, dict[str, float]]) -> dict[str, Any]:
    """What `utility.json` holds."""
    rows = _rows(len(examples.train))
    gains = [_gain(size, pair, found, seeds) for pair in PAIRS for size in dict.fromkeys(size for size, _ in rows[1:])]
    unmixed = quality(log_kurtosis(examples.test), log_kurtosis(examples.held_noise))
    return {
        "seconds": examples.seconds,
        "fs_hz": examples.fs_hz,
        "band_hz": examples.band_hz,
        "snr_db": SNR_DB,
        "noise": examples.noise_source,
        "windows": {name: len(getattr(examples, name)) for name in WINDOWS},
        "steps": STEPS,
        "seeds": seeds,
        "unmixed_log_kurtosis_auc": unmixed["auc"],
        "rows": [_row(row, found, seeds) for row in rows],
        "gains": gains,
        "finding": " ".join(_finding(gains, *pair) for pair in PAIRS),
    }


def _row(row: tuple[int, str], found: Mapping[Case, dict[str, float]], seeds: int) -> dict[str, Any]:
    of_seed = [found[Case(*row, seed)] for seed in range(seeds)]
    measures = {name: Estimate.of([each[name] for each in of_seed])._asdict() for name in MEASURES}
    return {"real_records": row[0], "method": row[1], **measures}


def _gain(size: int, pair: tuple[str, str], found: Mapping[Case, dict[str, float]], seeds: int) -> dict[str, Any]:
    """What one method's accuracy is above another's with the same records, seed by seed."""
    ours, others = ([found[Case(size, name, seed)]["accuracy"] for seed in range(seeds)] for name in pair)
    gain = Estimate.of([one - other for one, other in zip(ours, others, strict=True)])
    return {"real_records": size, "method": pair[0], "over": pair[1], **gain._asdict()}


def _finding(gains: Sequence[dict[str, Any]], method: str, over: str) -> str:
    """With how many real records one method beats another by more than the interval, in a sentence."""
    compared = [gain for gain in gains if (gain["method"], gain["over"]) == (method, over)]
    better, worse = (
        [str(gain["real_records"]) for gain in compared if sign * gain["mean"] > gain["margin"]] for sign in (1, -1)
    )
    beaten = f"with {', '.join(better)} real records" if better else "with no number of real records"
    fallen = f", and falls short with {', '.join(worse)}" if worse else ""
    return f"'{method}' beats '{over}' in accuracy by more than the interval {beaten}{fallen}."


def shown(content: dict[str, Any]) -> Table:
    """The table as the terminal shows it, in per cent."""
    table = Table("real", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("learns from", no_wrap=True)
    for title in MEASURES.values():
        table.add_column(title, justify="right")
    for row in content["rows"]:
        table.add_row(str(row["real_records"]), row["method"], *cells(row), end_section=row["method"] in (ALONE, BOTH))
    return table


def cells(row: dict[str, Any]) -> list[str]:
    """The measures of a row in per cent, each with its margin."""
    return [f"{100 * row[name]['mean']:.1f} ±{100 * row[name]['margin']:.1f}" for name in MEASURES]


def main() -> None:
    """The command line."""
    parser = Parser(description="Find out whether generated records help a detector of earthquakes, beside real ones.")
    parser.add_argument("result", type=Path, help="folder of a finished search, such as results/demo-1")
    text = "prepared dataset to take windows of noise from, if the search's own has none"
    parser.add_argument("--noise", type=Path, metavar="DIR", help=text)
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, metavar="N", help=f"trainings of each row (default {SEEDS})"
    )
    args = parser.parse_args()
    content = utility(args.result, args.noise, args.seeds, progress=True)
    console = Console()
    console.print(shown(content))
    console.print(content["finding"], highlight=False)
    print(shown_path(args.result / UTILITY))


if __name__ == "__main__":
    run_command(main)
