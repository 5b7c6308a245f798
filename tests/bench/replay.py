"""Compare this project's search with others by replaying recorded trainings of the demo, seed noise and all.

    python tests/bench/replay.py [--seeds 100] [--budget 25] [--jobs 2]

`record_curves.py` has recorded what configurations of the demo's space score by epoch, each with three seeds. Here a
proposal is answered by the nearest of them (in shares of each range), with one of its seeds drawn at random. A search
may come to a configuration again, as in a space without gaps it would come near it, and draws a seed again: the three
are taken for all the seeds there are, so that no training knows anything of another's noise. Four workers, each busy
for as long as the epochs take, until the time of 25 median full trainings is spent, as on LCBench.

What a search chooses is judged by the geometric mean over its seeds of the best score, which is the exported epoch's:
seeds change scores by factors. Regret is its natural logarithm over that of the best configuration: 0.7 is a score
twice as high. Ours chooses as the product does: within the same time the most promising race (`search/race.py`). The
others choose the configuration with the lowest score they saw.
"""

import argparse
import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, groupby, product
from multiprocessing import Pool
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy.stats import wilcoxon
from simulation import OURS, Course, Method, Parameters, Setting, simulate

from search.budget import seconds_needed
from search.config import SearchConfig
from search.finalists import Finalists, choose
from search.presets import preset
from search.race import Race
from search.space import Space
from search.trials import OUT_OF_TIME, TrialRow

FILE = Path(__file__).resolve().parents[1] / "golden" / "demo_curves.json"
SEEDS, WORKERS = 3, 4
WINDOWS = 480  # of the demo's dataset, to train


class Recorded:
    """The recorded configurations: what each comes to, and its trainings to be drawn from."""

    def __init__(self, file: Path, space: Space):
        groups = [list(group) for _, group in groupby(json.loads(file.read_text()), itemgetter("parameters"))]
        whole = [group for group in groups if len(group) == SEEDS]
        if len(whole) < 2:
            raise ValueError(f"{file} holds {len(whole)} configurations with {SEEDS} seeds each; record more")
        self.parameters: list[Parameters] = [group[0]["parameters"] for group in whole]
        self._space, self._courses = space, [_courses(group) for group in whole]
        self._shares = np.array([self._share(parameters) for parameters in self.parameters])
        scores = np.log([[course.score.min() for course in courses] for courses in self._courses]).mean(1)
        self.regrets = scores - scores.min()
        self.epochs = max(len(course.score) for courses in self._courses for course in courses)
        self.seconds = float(np.median([courses[0].seconds[0] * self.epochs for courses in self._courses]))

    def _share(self, parameters: Parameters) -> list[float]:
        return [domain.share(parameters[key]) for key, domain in self._space.items()]

    def nearest(self, parameters: Parameters) -> int:
        """The number of the configuration that answers a proposal."""
        return int(np.square(self._shares - self._share(parameters)).sum(1).argmin())

    def train(self, parameters: Parameters, rng: np.random.Generator) -> Course:
        """A training with a seed of its own."""
        return self._courses[self.nearest(parameters)][rng.integers(SEEDS)]


def _courses(curves: Sequence[dict[str, Any]]) -> list[Course]:
    """The trainings of a configuration.

    They were recorded while the machine did other things: each epoch is taken to last as long as the fastest of all.
    """
    epoch_s = min(min(curve["seconds"]) for curve in curves)
    courses = []
    for curve in curves:
        score = np.array([math.inf if score is None else score for score in curve["score"]])
        seconds = epoch_s * np.arange(1, len(score) + 1)
        courses.append(Course(score, seconds, np.array(curve["samples"]), np.array(curve["generator_steps"])))
    return courses


def regret(method: Method, recorded: Recorded, config: SearchConfig, seed: int) -> float:
    """Regret of what a search of `max_hours` chooses; its finalists, if any, take a part of the time."""
    rng = np.random.default_rng(seed)
    rows, now_s = search(method, recorded, config, rng)
    winner = min(rows, key=attrgetter("score")).trial_id
    if finalists := choose(rows, config, WORKERS):
        verdict = finalists.verdict(train_again(finalists, recorded, rng, now_s, config.max_hours * 3600))
        winner = verdict.winner if verdict else winner
    (chosen,) = (row for row in rows if row.trial_id == winner)
    return float(recorded.regrets[recorded.nearest(chosen.parameters)])


def search(
    method: Method, recorded: Recorded, config: SearchConfig, rng: np.random.Generator
) -> tuple[list[TrialRow], float]:
    """The trials when a search ends, and when that is: in time for the finalists."""
    rows: dict[str, TrialRow] = {}
    now_s, end_s = 0.0, config.max_hours * 3600
    for report in simulate(method, lambda parameters: recorded.train(parameters, rng), WORKERS):
        if report.time_s > end_s:
            return list(rows.values()), max(now_s, end_s)
        now_s = report.time_s
        parameters = recorded.parameters[recorded.nearest(report.parameters)]
        rows[report.trial] = row(report.trial, parameters, report.course, report.epoch)
        found = [(row.score, row.epoch_seconds) for row in rows.values()]
        end_s = config.max_hours * 3600 - seconds_needed(found, config, WORKERS)
    raise AssertionError("a search has no end of its own")


def train_again(
    finalists: Finalists, recorded: Recorded, rng: np.random.Generator, now_s: float, end_s: float
) -> list[TrialRow]:
    """The finalists' trainings, as their race proposes them; those that do not end in time are cut off."""
    race, names = Race(finalists), map(str, count())
    rows: list[TrialRow] = []
    running: list[tuple[float, str, TrialRow]] = []
    while True:
        while len(running) < WORKERS and isinstance(point := race.suggest(name := next(names)), dict):
            course = recorded.train(point, rng)
            heapq.heappush(running, (now_s + course.seconds[-1], name, row(name, point, course, len(course.score))))
        if not running or running[0][0] > end_s:
            return [*rows, *(replace(one, state="stopped", stop_reason=OUT_OF_TIME) for *_, one in running)]
        now_s, name, ended = heapq.heappop(running)
        rows.append(ended)
        race.on_trial_complete(name, {"score": ended.score, "stop_reason": ended.stop_reason})


def row(name: str, parameters: Parameters, course: Course, epoch: int) -> TrialRow:
    """What is known of a training at an epoch."""
    return TrialRow(
        trial_id=name,
        name=name,
        state="complete" if epoch == len(course.score) else "stopped",
        stop_reason="" if math.isfinite(course.score[epoch - 1]) else "diverged",
        epochs=epoch,
        samples=course.samples[epoch - 1],
        score=course.score[:epoch].min(),
        seconds=course.seconds[epoch - 1],
        epoch_seconds=course.seconds[0],
        parameters=parameters,
    )


def compare(regrets: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of the last line, from the regret of each run by method."""
    means = {name: float(values.mean()) for name, values in regrets.items()}
    best = min((name for name in means if name != OURS), key=means.__getitem__)
    p = wilcoxon(regrets[OURS], regrets[best], alternative="less").pvalue
    return {
        "regret": {name: round(mean, 4) for name, mean in means.items()},
        "vs_best_other": round(means[OURS] / means[best], 4),
        "p": float(f"{p:.2g}"),
        "best_other": best,
    }


def _run(job: tuple[str, int, float]) -> float:
    name, seed, budget = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = preset("demo")
    recorded = Recorded(FILE, config.domains)
    setting = Setting(config.domains, config.scheduler, recorded.epochs, WINDOWS)
    training = replace(config.training, max_epochs=recorded.epochs)
    config = replace(config, training=training, max_hours=budget * recorded.seconds / WORKERS / 3600)
    if name != OURS:
        config = replace(config, finalists=replace(config.finalists, count=0))
    return regret(setting.methods()[name](seed), recorded, config, seed)


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    config = preset("demo")
    recorded = Recorded(FILE, config.domains)
    print(f"{len(recorded.parameters)} configurations, regret of one at random {recorded.regrets.mean():.3f}")
    regrets = {}
    with Pool(options.jobs) as pool:
        for name in Setting(config.domains, config.scheduler, recorded.epochs, WINDOWS).methods():
            regrets[name] = np.array(
                pool.map(_run, product([name], range(options.seeds), [options.budget]), chunksize=1)
            )
            error = regrets[name].std(ddof=1) / math.sqrt(options.seeds)
            print(f"{name:30s} regret {regrets[name].mean():.3f} +- {error:.3f}", flush=True)
    print(json.dumps(compare(regrets)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="JSON, last line: mean regret by method, vs_best_other (ours / best other, < 1 is better), and p of a "
        "paired Wilcoxon test against best_other.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=100, help="runs of each method")
    parser.add_argument("--budget", type=float, default=25, help="time of a search, in median full trainings")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    return parser


if __name__ == "__main__":
    main()
