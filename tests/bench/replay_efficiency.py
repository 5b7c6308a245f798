"""When a search has what random search without early stopping ends with, by replay of the demo's trainings.

    python tests/bench/replay_efficiency.py [--seeds 100] [--budget 25] [--workers 4] [--jobs 2]

The two figures are those of `search_efficiency.py`, which trains; here they are of hundreds of pairs of searches in
simulated time (`replay.py`), of this project's and of the others that `simulation.py` knows, and of one that tries
nothing but the best configuration: sooner than that none can be. All draw from the demo's space, without the trial set
by hand and without finalists, for the time of `--budget` median full trainings.

The last line is JSON: medians over the seeds, by search; printed with half of the seeds' figures.
"""

import argparse
import json
import math
from multiprocessing import Pool
from typing import Any

import numpy as np
import optuna
from replay import FILE, WINDOWS, Recorded
from search_efficiency import RANDOM, figures, medians
from simulation import Method, Parameters, Setting, simulate

from search.presets import preset

OTHER_SEEDS = 10_000


class Knowing:
    """A search that knows the best configuration and tries nothing else."""

    def __init__(self, best: Parameters):
        self._best, self._trials = best, 0

    def propose(self) -> tuple[str, Parameters]:
        self._trials += 1
        return str(self._trials), self._best

    def report(self, name: str, result: dict[str, Any]) -> bool:
        return bool(result["done"])


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    jobs = [(seed, options.budget, options.workers) for seed in range(options.seeds)]
    with Pool(options.jobs) as pool:
        found = pool.map(compare, jobs, chunksize=1)
    print(json.dumps(medians(found, within=(0.25, 0.75))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", type=int, default=100, help="pairs of searches")
    add("--budget", type=float, default=25.0, help="full trainings that a search has the time of")
    add("--workers", type=int, default=4, help="trials at once")
    add("--jobs", type=int, default=2, help="processes")
    return parser


def compare(job: tuple[int, float, int]) -> dict[str, dict[str, float]]:
    """By search the two figures beside random search, for one seed."""
    seed, budget, workers = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = preset("demo")
    recorded = Recorded(FILE, config.domains)
    methods = Setting(config.domains, config.scheduler, recorded.epochs, WINDOWS).methods()
    end_s = budget * recorded.seconds / workers

    def found(method: Method, stream: int) -> list[tuple[float, float]]:
        return improvements(method, recorded, workers, end_s, np.random.default_rng([seed, stream]))

    random = found(methods[RANDOM](seed + OTHER_SEEDS), 1)
    searches = {name: make(seed) for name, make in methods.items()}
    searches["the best from the start"] = Knowing(recorded.parameters[int(recorded.regrets.argmin())])
    return {name: figures(found(method, 0), random, end_s) for name, method in searches.items()}


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
