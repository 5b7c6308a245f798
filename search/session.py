"""One search from data to export, as the command line runs it."""

import errno
import fcntl
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from ray.tune import Callback
from ray.tune.analysis import ExperimentAnalysis
from ray.tune.experiment import Trial
from rich.console import Console

from data_prep.dataset import open_dataset
from data_prep.demo import write_demo_archive
from data_prep.files import sha256, write_json
from data_prep.prepare import prepare
from data_prep.record import PrepareSettings
from search.answers import answers, histories, what_matters, worth
from search.budget import TimeLimit, ended_by, left_s, limit_hours
from search.cluster import check_seen, check_shared, expected_at_once, fitting, start_ray, trials_at_once
from search.config import SearchConfig, resolved
from search.ending import finish, say_how_to_resume
from search.finalists import CHOICE_FILE, choose_once
from search.objectives import told
from search.optuna_search import check_new
from search.packing import pack
from search.plan import ANSWERS_FILE, FINALISTS_FILE, SEARCH_FILE, TRIALS_FILE, Plan, shown_path
from search.progress import Progress
from search.race import Race
from search.storage import LATEST_RUN, MANIFEST, Changes, Place, dataset_at, on_this_machine
from search.tracking import Tracking
from search.trials import trial_rows, write_trials
from search.tune_state import Sent, has_state
from search.tuner import run_finalists, run_search
from search.turn import Turn
from search.verdict import Verdict
from trainables.batches import PreparedDataset
from trainables.config import with_values
from trainables.fidelity import MIN_EVENTS, MIN_WINDOWS
from trainables.precision import check_precision
from trainables.score import VERSION
from trainables.training import check_fit

DEMO_SETTINGS = PrepareSettings(country="any", min_magnitude=0.0, fs_hz=50.0, window_s=20.48)
FINALISTS = "finalists"


def run(plan: Plan, console: Console) -> bool:
    """Run a search to its export; False if it was interrupted and can be resumed."""
    with Turn(plan.kept, console) as turn:
        return _run(plan, turn, console)


def _run(plan: Plan, turn: Turn, console: Console) -> bool:
    start_s = time.monotonic()
    prepared = plan.data or _demo_data(plan, console)
    data = on_this_machine(prepared)
    open_dataset(data)  # verifies every checksum
    dataset = PreparedDataset.open(data)
    dataset.verify()
    _check_fit_of_space(plan.config, dataset)
    _say_what_is_judged(dataset, console)
    if plan.resume:
        with _alone(plan.folder):
            plan.kept.bring_search()
        _check_resumable(plan.folder, data)
    for earlier in plan.config.warm_start:
        _check_comparable(Path(earlier), data)
    start_ray(plan.config.resources, console)
    config = replace(plan.config, resources=fitting(plan.config, console))
    check_device(config)
    check_shared(plan.results)
    check_seen(prepared / MANIFEST)
    config = replace(config, resources=pack(config, partial(on_this_machine, prepared), console))
    trials_at_once(config)  # or an error, before anything is written
    if not plan.resume:
        if plan.kept.copy and (plan.kept / SEARCH_FILE).exists():
            raise ValueError(f"{plan.kept} was created by another machine just now; choose another --name")
        check_new(plan.name)
        _create(plan.folder, plan.config, prepared)  # as asked: on another machine trials may take other resources
    changes = Changes(plan.kept)
    sent = Sent(changes, turn)
    with _alone(plan.folder):
        try:
            changes.send()
            analysis, finished = _search(config, plan, prepared, sent, console)
            if finished:
                rows = trial_rows(analysis.trials, ended_by(config, analysis.trials))
                write_trials(rows, plan.folder / TRIALS_FILE)
                _answer(analysis, config, plan.folder, console)
                trials, verdict = _finalists(analysis.trials, config, plan, prepared, sent, console, start_s)
                finish(trials, verdict, config, dataset, plan, console)
                changes.send(left_out=(LATEST_RUN,))
                if plan.kept.copy:
                    console.print(f"All of it is in {plan.kept}, too.", highlight=False, markup=False, soft_wrap=True)
                return True
        except KeyboardInterrupt:
            pass  # told in the same words wherever it comes
        except OSError:  # a full disk, a bucket or a database that does not answer
            say_how_to_resume(plan, console)
            raise
        changes.send()
    say_how_to_resume(plan, console)
    return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process away from the same search; the lock goes with this process, however it ends."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"search {folder.name} is running already; wait for it, or stop it first") from None
        yield


def _check_resumable(folder: Path, data: Path) -> None:
    _check_comparable(folder, data)
    if (folder / TRIALS_FILE).is_file() and not has_state(folder):
        raise ValueError(f"{folder / 'tune'} is missing, so there is nothing to go on from; start another search")


def _check_comparable(folder: Path, data: Path) -> None:
    """Refuse a search of other data, or one scored by another formula: its scores are not comparable."""
    if not (folder / SEARCH_FILE).is_file():
        raise ValueError(f"warm_start: {folder / SEARCH_FILE} does not exist; expected the result of an earlier search")
    kept = json.loads((folder / SEARCH_FILE).read_text(encoding="utf-8"))
    if kept.get("dataset") != sha256(data / "manifest.json"):
        raise ValueError(f"{data} is not the dataset that search {folder.name} began on; start another search")
    if (version := kept.get("score_version")) != VERSION:
        raise ValueError(
            f"search {folder.name} was scored by formula {version or 1}, expected {VERSION}: its scores are not "
            "comparable; start another search"
        )


def _demo_data(plan: Plan, console: Console) -> Place:
    """The prepared demo dataset, written the first time it is asked for."""
    folder = plan.demo_data.here.parent
    folder.mkdir(parents=True, exist_ok=True)
    with console.status("Writing the demo archive ..."):
        archive = write_demo_archive(folder / "archive")
    summary = prepare(archive.files, archive.flatfile, folder / "prepared", DEMO_SETTINGS, progress=False)
    if summary.made:
        console.print(
            f"Demo archive: {archive.n_sound} records by the stochastic method (Boore 2003) and {len(archive.planted)} "
            f"planted flaws, in {shown_path(folder)}.",
            highlight=False,
        )
    Changes(plan.demo_data).send()
    return dataset_at(plan.demo_data)


def _check_fit_of_space(config: SearchConfig, dataset: PreparedDataset) -> None:
    """Refuse what would fail in every trial, or in those at one end of the space, before any is started."""
    lowest = with_values(config.trial, {key: domain.ends[0] for key, domain in config.domains.items()})
    check_fit(lowest, dataset)
    for key, domain in config.domains.items():
        for value in domain.ends[1:]:
            check_fit(with_values(lowest, {key: value}), dataset)


def check_device(config: SearchConfig) -> None:
    """Refuse what needs a GPU where trials have none."""
    check_precision(config.training, torch.device("cuda" if config.resources.gpus_per_trial else "cpu"))


def _say_what_is_judged(dataset: PreparedDataset, console: Console) -> None:
    counts = {name: dataset.count(name) for name in ("train", "val", "test")}
    console.print(
        f"Windows: {counts['train']} to train, {counts['val']} to validate, {counts['test']} to test, "
        f"{dataset.samples} samples at {dataset.fs_hz:g} Hz. "
        "Score: lower is better; 1 = as close to real records as they are to each other.",
        highlight=False,
    )
    validation = dataset.part("val")
    if validation.earthquakes < MIN_WINDOWS or validation.events < MIN_EVENTS:
        console.print(
            f"[yellow]Score not resolvable:[/] {validation.earthquakes} validation windows of {validation.events} "
            f"earthquakes; {MIN_WINDOWS} of {MIN_EVENTS} are needed to tell close configurations apart.",
            highlight=False,
        )


def _create(folder: Path, config: SearchConfig, data: Place) -> None:
    """The result folder and its `search.json` at once: one without the other could neither be resumed nor begun."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as aside:
        begun = Path(aside, folder.name)
        begun.mkdir()
        digest = sha256(on_this_machine(data) / MANIFEST)
        about = {"data": str(data), "dataset": digest, "score_version": VERSION}
        write_json(begun / SEARCH_FILE, resolved(config, about))
        try:
            begun.rename(folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise ValueError(f"{folder} was created by another search just now; choose another --name") from None


def _search(
    config: SearchConfig, plan: Plan, data: Place, sent: Sent, console: Console
) -> tuple[ExperimentAnalysis, bool]:
    if math.isfinite(hours := limit_hours(config)) and min(config.finalists.count, config.num_samples) > 1:
        console.print(f"Of {hours:.3g} hours up to half is kept for the finalists.", highlight=False)
    progress = Progress(console, plan.folder / TRIALS_FILE, config.num_samples, config.training.max_epochs)
    resume = plan.resume and has_state(plan.folder)

    def train(callbacks: list[Callback]) -> tuple[ExperimentAnalysis, bool]:
        return run_search(config, data, plan.kept, [*callbacks, sent], resume)

    return _followed(config, plan.kept, console, progress, train)


def _followed(
    config: SearchConfig,
    kept: Place,
    console: Console,
    progress: Progress,
    train: Callable[[list[Callback]], tuple[ExperimentAnalysis, bool]],
) -> tuple[ExperimentAnalysis, bool]:
    """Train with the terminal and W&B following."""
    with closing(Tracking(config.wandb, kept, console)) as tracking, progress:
        analysis, finished = train([progress, tracking])
        if finished:
            progress.show(analysis.trials)
            tracking.settle(analysis.trials, ended_by(config, analysis.trials))
    return analysis, finished


def _answer(analysis: ExperimentAnalysis, config: SearchConfig, folder: Path, console: Console) -> None:
    """Write what the search has found out about its parameters, and tell what is clear."""
    rows, second = trial_rows(analysis.trials), config.second_objective
    reports = histories(folder, rows)
    found = answers(rows, reports, config.domains, second)
    write_json(folder / ANSWERS_FILE, found)
    if line := what_matters(found):
        console.print(line, highlight=False, markup=False)
    if found.get("front"):
        console.print(told(found["front"], worth(rows, reports, second), second), highlight=False, markup=False)


def _finalists(
    trials: Sequence[Trial],
    config: SearchConfig,
    plan: Plan,
    data: Place,
    sent: Sent,
    console: Console,
    start_s: float,
) -> tuple[Sequence[Trial], Verdict | None]:
    """Train the best configurations again; the trials to export the best of, and what was found.

    Raises:
        KeyboardInterrupt: for Ctrl-C.
    """
    rows = trial_rows(trials)
    at_once = expected_at_once(config)
    finalists = choose_once(rows, config, at_once, plan.folder / CHOICE_FILE)
    if finalists is None:
        return trials, None
    file, below = plan.folder / FINALISTS_FILE, plan.kept / FINALISTS
    race = Race(finalists)
    console.print(f"Finalists: {race}.", highlight=False)
    limit = TimeLimit(left_s(rows, config, at_once, time.monotonic() - start_s), at_once)
    progress = Progress(console, file, race.trainings, config.training.max_epochs, finalists.rows, finalists.write)

    def train(callbacks: list[Callback]) -> tuple[ExperimentAnalysis, bool]:
        return run_finalists(config, data, below, [*callbacks, sent], has_state(below.here), race, limit)

    # Nothing but time ends these.
    timed = replace(config, max_cost=0.0, target_score=0.0)
    analysis, finished = _followed(timed, plan.kept, console, progress, train)
    if not finished:
        raise KeyboardInterrupt
    trained = finalists.rows(analysis.trials)
    finalists.write(trained, file)
    verdict = finalists.verdict(trained)
    if verdict is None:
        console.print("[yellow]No finalist came to its end in time:[/] the best trial of the search is taken.")
        return trials, None
    return finalists.trained_as(verdict.winner, [*trials, *analysis.trials]), verdict
