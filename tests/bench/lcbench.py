"""Compare this project's search with others on LCBench: 17 tasks, learning curves of 52 epochs, in simulated time.

    python tests/bench/lcbench.py --data ../shared/data/lcbench [--seeds 10] [--tasks 3945,7593] [--jobs 2]

The searcher and the scheduler are those that search/run.py uses; four workers, each busy for as long as the surrogate
says that its epochs take, until the time of 25 median full trainings is spent. Regret is that of the lowest validation
error seen, in units of what the median of 20,000 random full trainings is above the best of them. Needs onnxruntime.
"""

import argparse
import json
from collections.abc import Sequence
from functools import cache
from itertools import product
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import optuna
from scipy.stats import rankdata, wilcoxon
from simulation import OURS, Course, Method, Parameters, Setting, simulate

from search.config import SchedulerConfig
from search.space import Range

# Those to develop on.
TASKS = (
    "3945 7593 34539 126025 126026 126029 146212 167104 167149 167152 167161 167168 167181 167184 167185 167190 167200"
)
SCALES = Path(__file__).resolve().parents[1] / "golden" / "lcbench_scales.json"
SPACE = {
    "batch_size": Range(16, 512, log=True),
    "learning_rate": Range(1e-4, 1e-1, log=True),
    "momentum": Range(0.1, 0.99),
    "weight_decay": Range(1e-5, 0.1),
    "num_layers": Range(1, 5),
    "max_units": Range(64, 1024, log=True),
    "max_dropout": Range(0.0, 1.0),
}
EPOCHS, WORKERS, BUDGET, RANDOM = 52, 4, 25, 20_000
METHODS = Setting(SPACE, SchedulerConfig(grace_epochs=3, reduction_factor=3), EPOCHS, windows=1).methods()


class Task:
    """One task of the surrogate: validation error and seconds so far, by epoch."""

    def __init__(self, data: Path, name: str):
        self._number, self.name = json.loads((data / "encoding.json").read_text())["OpenML_task_id"][name], name
        self._session = _session(data)
        self.best, self.median, self.seconds = self._scale()

    def curves(self, trials: Sequence[Parameters]) -> tuple[np.ndarray, np.ndarray]:
        """Errors and cumulative seconds, (trials, epochs)."""
        values = np.array([[trial[key] for key in SPACE] for trial in trials], np.float32)
        epoch = np.tile(np.arange(1, EPOCHS + 1, dtype=np.float32), len(trials))[:, None]
        inputs = np.hstack([epoch, np.repeat(values, EPOCHS, 0)])
        task = np.full((len(inputs), 1), self._number, np.int32)
        (out,) = self._session.run(None, {"x_cat": task, "x_cont": inputs})
        out = out.reshape(len(trials), EPOCHS, -1).astype(float)
        return 1 - out[..., 1] / 100, np.maximum.accumulate(np.maximum(out[..., 0], 1e-3), 1)

    def train(self, parameters: Parameters) -> Course:
        """A full training; samples and generator steps are its epochs."""
        (errors,), (seconds,) = self.curves([parameters])
        done = np.arange(1, EPOCHS + 1)
        return Course(errors, seconds, done, done)

    def _scale(self) -> tuple[float, float, float]:
        """Lowest and median error of random full trainings, and their median seconds; kept, for they take a while."""
        known = json.loads(SCALES.read_text()) if SCALES.is_file() else {}
        if self.name not in known:
            rng, errors, seconds = np.random.default_rng(1), [], []
            for _ in range(RANDOM // 1000):
                error, time = self.curves([random_parameters(rng) for _ in range(1000)])
                errors += list(error.min(1))
                seconds += list(time[:, -1])
            known[self.name] = [float(f"{x:.6g}") for x in (min(errors), np.median(errors), np.median(seconds))]
            SCALES.write_text(json.dumps(known, indent=1) + "\n")
        best, median, full = known[self.name]
        return best, median, full


@cache
def _session(data: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data / "model.onnx", options, providers=["CPUExecutionProvider"])


def random_parameters(rng: np.random.Generator) -> Parameters:
    """Drawn evenly from the space."""
    return {key: domain.at(rng.random()) for key, domain in SPACE.items()}


def regrets_of(method: Method, task: Task) -> tuple[float, float]:
    """Normalised regret of a search at a quarter of its time and at its end."""
    end_s = BUDGET * task.seconds / WORKERS
    lowest, at_quarter = np.inf, np.inf
    for report in simulate(method, task.train, WORKERS):
        if report.time_s > end_s:
            break
        lowest = min(lowest, report.course.score[report.epoch - 1])
        if report.time_s <= end_s / 4:
            at_quarter = lowest
    return (at_quarter - task.best) / (task.median - task.best), (lowest - task.best) / (task.median - task.best)


def _run(job: tuple[Path, str, str, int]) -> tuple[float, float]:
    data, name, method, seed = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A seed of its own for each task: with one for all, the same first proposals would decide about all tasks.
    at_quarter, at_end = regrets_of(METHODS[method](1000 * int(name) + seed), Task(data, name))
    return min(at_quarter, 10.0), at_end  # nothing may have been reported by then


def compare(regrets: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of the last line, from regrets (tasks x seeds, quarter and full) by method."""
    means = {name: regret.mean(0) for name, regret in regrets.items()}
    ranks = rankdata(np.array(list(regrets.values())), axis=0).mean(1)
    others = np.min([mean for name, mean in means.items() if name != OURS], 0)
    figures = {
        "regret": {name: _figures(mean) for name, mean in means.items()},
        "rank": {name: _figures(rank) for name, rank in zip(means, ranks, strict=True)},
        "vs_best_other": _figures(means[OURS] / others),
    }
    best = min((name for name in means if name != OURS), key=lambda name: means[name][1])
    p = wilcoxon(regrets[OURS][:, 1], regrets[best][:, 1], alternative="less").pvalue
    return {**figures, "p_full": float(f"{p:.2g}"), "best_other": best}


def _figures(pair: np.ndarray) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(("quarter", "full"), pair, strict=True)}


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    tasks, methods = options.tasks.split(","), options.methods.split(";") if options.methods else list(METHODS)
    for name in tasks:
        Task(options.data, name)  # its scale is kept for all
    regrets = {}
    with Pool(options.jobs) as pool:
        for method in methods:
            jobs = [(options.data, task, method, seed) for task, seed in product(tasks, range(options.seeds))]
            regrets[method] = np.array(pool.map(_run, jobs, chunksize=1))
            quarter, full = regrets[method].mean(0)
            print(f"{method:30s} quarter {quarter:.3f}   full {full:.3f}", flush=True)
    if OURS in methods and len(methods) > 1:
        print(json.dumps(compare(regrets)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="JSON, last line: regret and rank by method and vs_best_other (ours / best other, < 1 is better), each "
        "at a quarter of the budget and at its end; p_full of a paired Wilcoxon test against best_other.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data/lcbench"), metavar="DIR", help="the surrogate's folder")
    add("--tasks", default=TASKS.replace(" ", ","), help="OpenML task numbers, with commas")
    add("--seeds", type=int, default=10, help="runs of each method on each task")
    add("--jobs", type=int, default=2, help="runs at once")
    add("--methods", help="of those below, with semicolons; all if left out: " + "; ".join(METHODS))
    return parser


if __name__ == "__main__":
    main()
