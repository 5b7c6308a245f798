"""Measure what a search of thousands of trials asks of its driver and of its storage, with trials that take no time.

    python tests/bench/scale.py [--trials 1000] [--reports 3] [--s3] [--at-once 500]
    python tests/bench/scale.py --proposals 10000 --at-once 500

All but the training is the search's own: searcher, scheduler, callbacks, progress, log, storage. When 100, 1,000, 5,000
and so on have ended, of a trial since nine tenths of these had (with `--at-once` they are simulated, in no process):

- `ms`: by phase, milliseconds of processor time of the driver's main thread. `loop` is all the rest of it, which is
  Tune's event loop, `driver` that of all threads; `clock` is time by the clock.
- `rss_mb`: the driver's resident memory.
- `state_saves`, `state_s`: how often Tune has saved its state, and what the last five times took on average.

At the end also:

- `kb_per_trial`: the driver's resident memory by ended trials, least-squares slope.
- `files_kb`: size of each file that grows, for each trial.
- with `--s3`: `requests` to a pretended S3 and `sent_kb`, by kind of file, for each trial.

With `--proposals`, seconds of processor time of one proposal, by the number of ended trials, with so many running.

The last line is JSON.
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
from counting_s3 import counting_s3
from demo_data import make_demo_data
from overhead import METRICS
from ray import tune
from ray.tune.execution import tune_controller
from ray.tune.execution.tune_controller import TuneController
from ray.tune.logger import JsonLoggerCallback
from rich.console import Console
from simulated_actors import SimulatedActors

from search import cluster, session, tuner
from search.config import ResourcesConfig, SearchConfig
from search.line_log import LOG, parts
from search.optuna_search import OptunaSearch
from search.presets import preset
from search.progress import Progress
from search.samplers import make_sampler
from search.schedulers import Asha, rung_epochs
from search.storage import Changes, Place, place
from search.tracking import Tracking
from search.tune_state import Sent, TrialsKept
from search.turn import Turn
from trainables.config import TrialConfig, with_values

PART = re.compile(r"(\.\d+)?\.jsonl$")
CALLED = ("on_trial_start", "on_trial_result", "on_trial_complete", "on_step_end")
PHASES: dict[str, tuple[type, tuple[str, ...]]] = {
    "proposal": (OptunaSearch, ("suggest",)),
    "study": (OptunaSearch, ("on_trial_result", "on_trial_complete")),
    "scheduler": (Asha, ("on_trial_result", "on_trial_complete")),
    "kept lines": (TrialsKept, CALLED),
    "sending": (Sent, (*CALLED, "get_state")),
    "Tune's state": (TuneController, ("checkpoint",)),
    "progress": (Progress, CALLED),
    "log": (Tracking, CALLED),
    "result.json": (JsonLoggerCallback, ("log_trial_start", "log_trial_result", "log_trial_end")),
}
SIZES = (100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass
class Clock(tune.Callback):
    """What each phase has taken by the end of each trial, what is within another counted there alone."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    within: list[float] = field(default_factory=lambda: [0.0])
    at_end: list[dict[str, float]] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    saves: list[float] = field(default_factory=list)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tune calls this when a trial has ended."""
        rest = time.thread_time() - sum(self.seconds.values())
        whole = {"clock": time.monotonic(), "driver": time.process_time(), "loop": rest}
        self.at_end.append({**self.seconds, **whole})
        self.rss.append(psutil.Process().memory_info().rss)
        if len(self.at_end) in SIZES:
            print(json.dumps(self.figures()), flush=True)

    def figures(self) -> dict[str, Any]:
        """Of the last tenth of the trials that have ended."""
        count = len(self.at_end)
        since, last = self.at_end[-count // 10], self.at_end[-1]
        spent = {name: (last[name] - since.get(name, 0.0)) * 1000 / (count // 10) for name in last}
        return {
            "ended": count,
            "ms": {name: _short(value) for name, value in spent.items()},
            "rss_mb": _short(self.rss[-1] / 2**20),
            "state_saves": len(self.saves),
            "state_s": _short(float(np.mean(self.saves[-5:]))),
        }

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the phases."""
        kept = [(owner, name, getattr(owner, name)) for owner, names in PHASES.values() for name in names]
        for phase, (owner, names) in PHASES.items():
            for name in names:
                setattr(owner, name, self._timed(phase, getattr(owner, name)))
        saved = TuneController.save_to_dir
        TuneController.save_to_dir = self._noted(saved)  # type: ignore[method-assign]
        yield
        TuneController.save_to_dir = saved  # type: ignore[method-assign]
        for owner, name, method in kept:
            setattr(owner, name, method)

    def _timed(self, phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **more: Any) -> Any:
            start_s = time.thread_time()
            self.within.append(0.0)
            try:
                return method(*arguments, **more)
            finally:
                took_s = time.thread_time() - start_s
                self.seconds[phase] += took_s - self.within.pop()
                self.within[-1] += took_s

        return timed

    def _noted(self, save: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: Any) -> None:
            start_s = time.thread_time()
            save(*arguments)
            self.saves.append(time.thread_time() - start_s)

        return noted


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of the search (default: 1000)")
    parser.add_argument("--reports", type=int, default=3, help="of a trial that is not stopped early (default: 3)")
    parser.add_argument("--s3", action="store_true", help="results in a pretended S3, whose requests are counted")
    parser.add_argument("--proposals", type=int, default=0, metavar="N", help="time proposals alone, up to N trials")
    parser.add_argument("--at-once", type=int, default=0, help="trials at once, simulated; with --proposals running")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch
        if options.proposals:
            found: dict[str, Any] = proposals(options.proposals, options.at_once)
        else:
            cluster.start_ray(ResourcesConfig(), Console())
            if options.at_once:
                simulate(options.at_once, options.reports)
            with counting_s3("mine") if options.s3 else nullcontext() as counts:
                found = measured(options.trials, options.reports, options.at_once, Path(scratch), counts)
    print(json.dumps(found))


def measured(count: int, reports: int, at_once: int, scratch: Path, counts: Any) -> dict[str, Any]:
    """All figures of a search of so many trials."""
    values: dict[str, Any] = {"training.max_epochs": reports, "scheduler.grace_epochs": 1, "wandb.mode": "disabled"}
    if at_once:
        # Proposals are timed apart.
        values |= {"resources.max_concurrent": at_once, "sampler": "random"}
    config = replace(with_values(preset("demo"), values), num_samples=count)
    kept = place("s3://mine/results" if counts else scratch / "results") / "x"
    clock = search(config, make_demo_data(scratch), kept, scratch)
    found: dict[str, Any] = {
        **clock.figures(),
        "reports_per_trial": sum(log.read_bytes().count(b'"report"') for log in parts(kept.here / LOG)) / count,
        "kb_per_trial": _short(np.polyfit(np.arange(len(clock.rss)), clock.rss, 1)[0] / 1024),
        "files_kb": {name: _short(size / 1024 / count) for name, size in sizes(kept.here).items()},
    }
    if counts:
        requests, sent = counts()
        found["requests"] = {kind: _short(number / count) for kind, number in sorted(requests.items())}
        found["sent_kb"] = {kind: _short(number / 1024 / count) for kind, number in sorted(sent.items()) if number}
    return found


def search(config: SearchConfig, data: Path, kept: Place, scratch: Path) -> Clock:
    """Our search as the command runs it, but for the training."""
    clock, folder, console = Clock(), kept.here, Console(file=(scratch / "console.txt").open("w"))
    folder.mkdir(parents=True)
    progress = Progress(console, folder / "trials.csv", config.num_samples, config.training.max_epochs)

    def train(callbacks: list[tune.Callback]) -> Any:
        sent = Sent(Changes(kept), Turn(kept, console))
        return tuner.run_search(config, data, kept, [clock, *callbacks, sent], resume=False)

    tuner.run_trial = instant_trial  # type: ignore[attr-defined]
    with clock.watching():
        session._followed(config, place(folder), console, progress, train)
    return clock


def report(parameters: dict[str, Any], epoch: int, last: int) -> dict[str, Any]:
    """As many metrics as a training reports."""
    score = (1 + parameters["training.penalty_weight"]) / epoch
    metrics = {"score": score, "best_score": score, "epoch": epoch, "samples": 480 * epoch, "warning": ""}
    counts = {"generator_steps": 200 * epoch, "critic_steps": 400 * epoch, "parameters": 810_000, "memory_gb": 1.5}
    return {**METRICS, **metrics, **counts, "last_epoch": epoch == last, "stop_reason": "", "seconds": 0.01}


def instant_trial(parameters: dict[str, Any], *, base: TrialConfig, **_: Any) -> None:
    """A trial that reports at once, each time with a checkpoint."""
    last = base.training.max_epochs
    for epoch in range(1, last + 1):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "training.pt").touch()
            tune.report(report(parameters, epoch, last), checkpoint=tune.Checkpoint.from_directory(folder))


def simulate(at_once: int, last: int) -> None:
    """Have trials run in no process, so many at once."""

    def train(parameters: dict[str, Any], epoch: int) -> dict[str, Any] | None:
        return report(parameters, epoch, last) if epoch <= last else None

    SimulatedActors.train, SimulatedActors.at_once = staticmethod(train), at_once
    tune_controller.RayActorManager = SimulatedActors  # type: ignore[assignment,attr-defined]


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files of a search, parts of one file together; not those of single trials."""
    found: dict[str, int] = defaultdict(int)
    for file in (*folder.glob("*.*"), *folder.glob("tune/*.*")):
        if file.is_file():
            name = "experiment_state.json" if file.name.startswith("experiment_state") else file.name
            found[PART.sub("", name)] += file.stat().st_size
    return dict(found)


def proposals(most: int, at_once: int) -> dict[str, Any]:
    """Seconds of a proposal by the number of ended trials, of which one in three came to each further rung."""
    config = preset("itaca")
    space, epochs = config.domains, config.training.max_epochs
    rungs = rung_epochs(config.scheduler, epochs)

    def sampler(drawn: int) -> Any:
        return make_sampler("curves", space, rungs, epochs, 0, drawn)

    searcher = OptunaSearch(space, sampler, optuna.storages.InMemoryStorage(), "s")
    rng, ended, took = np.random.default_rng(0), 0, {}
    for running in range(at_once):
        _tell(searcher, f"r{running}", _draw(space, rng), rungs[:1], rng, running=True)
    for size in [size for size in SIZES if 500 <= size <= most]:
        while ended < size:
            reached = 1 + int(min(rng.geometric(2 / 3) - 1, len(rungs)))
            _tell(searcher, f"t{ended}", _draw(space, rng), [*rungs, epochs][:reached], rng)
            ended += 1
        searcher.suggest(f"warm{size}")
        start_s = time.thread_time()
        for number in range(10):
            searcher.suggest(f"p{size}-{number}")
        took[size] = _short((time.thread_time() - start_s) / 10)
        print(f"{size} trials: {took[size]:.3f} s a proposal", flush=True)
    return {"proposal_s": took, "at_once": at_once}


def _draw(space: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {key: domain.at(rng.random()) for key, domain in space.items()}


def _tell(
    searcher: Any, name: str, parameters: Any, epochs: list[int], rng: np.random.Generator, running: bool = False
) -> None:
    """A trial that reported at these epochs."""
    trial = optuna.trial.create_trial(
        params=parameters,
        distributions=searcher._distributions,
        intermediate_values={epoch: float(rng.normal()) for epoch in epochs},
        state=optuna.trial.TrialState.RUNNING if running else optuna.trial.TrialState.PRUNED,
        user_attrs={"tune_trial_id": name},
    )
    searcher._study.add_trial(trial)


def _short(value: float) -> float:
    return float(f"{value:.3g}")


if __name__ == "__main__":
    main()
