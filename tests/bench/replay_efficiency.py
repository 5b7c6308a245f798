"""When this search has what random search without early stopping ends with, by replay of the demo's trainings.

    python tests/bench/replay_efficiency.py [--seeds 100] [--budget 25] [--workers 4] [--jobs 2]

Its two figures are those of `search_efficiency.py`, which trains; here they are of hundreds of pairs of searches in
simulated time (`replay.py`). Both draw from the demo's space, without the trial set by hand and without finalists, for
the time of `--budget` median full trainings.

The last line is JSON: medians over the seeds.
"""

import argparse
import json
import math
from multiprocessing import Pool

import numpy as np
import optuna
from replay import FILE, WINDOWS, Recorded
from search_efficiency import figures
from simulation import OURS, Method, Setting, simulate

from search.presets import preset

RANDOM = "random, no pruning"


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    jobs = [(seed, options.budget, options.workers) for seed in range(options.seeds)]
    with Pool(options.jobs) as pool:
        pairs = pool.map(compare, jobs, chunksize=1)
    found = {name: [pair[name] for pair in pairs] for name in pairs[0]}
    for name, values in found.items():
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        print(f"{name}: median {middle:.3f} (half of the pairs {low:.3f} to {high:.3f})")
    print(json.dumps({name: round(float(np.median(values)), 4) for name, values in found.items()}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", type=int, default=100, help="pairs of searches")
    add("--budget", type=float, default=25.0, help="full trainings that a search has the time of")
    add("--workers", type=int, default=4, help="trials at once")
    add("--jobs", type=int, default=2, help="processes")
    return parser


def compare(job: tuple[int, float, int]) -> dict[str, float]:
    """The two figures of one pair of searches."""
    seed, budget, workers = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = preset("demo")
    recorded = Recorded(FILE, config.domains)
    methods = Setting(config.domains, config.scheduler, recorded.epochs, WINDOWS).methods()
    end_s = budget * recorded.seconds / workers
    ours, random = (
        improvements(methods[name](seed), recorded, workers, end_s, np.random.default_rng([seed, stream]))
        for stream, name in enumerate((OURS, RANDOM))
    )
    return figures(ours, random, end_s)


def improvements(
    method: Method, recorded: Recorded, workers: int, end_s: float, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """When a search has a better score than before, and that score."""
    found: list[tuple[float, float]] = []
    for report in simulate(method, lambda parameters: recorded.train(parameters, rng), workers):
        if report.time_s > end_s:
            break
        score = float(report.course.score[report.epoch - 1])
        if score < (found[-1][1] if found else math.inf):
            found.append((report.time_s, score))
    return found


if __name__ == "__main__":
    main()
