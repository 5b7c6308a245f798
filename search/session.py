"""One search from data to export, as the command line runs it."""

import fcntl
import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.tune.analysis import ExperimentAnalysis
from rich.console import Console

from data_prep.dataset import open_dataset
from data_prep.demo import write_demo_archive
from data_prep.files import sha256, write_json
from data_prep.prepare import prepare
from data_prep.record import PrepareSettings
from search.config import ResourcesConfig, SearchConfig, resolved
from search.export import export_best
from search.exported import BEST
from search.figure import draw_waveforms
from search.generate import write_waveforms
from search.plan import DEMO_DATA, PROJECT, SEARCH_FILE, TRIALS_FILE, Plan, shown_path
from search.progress import Progress
from search.space import shown
from search.tracking import Tracking, resolved_mode
from search.trials import score_text, trial_rows, write_trials
from search.tuner import has_state, run_search, start_ray, trials_at_once
from trainables.batches import LABELS, PreparedDataset
from trainables.config import flat, with_values
from trainables.fidelity import MIN_EVENTS, MIN_WINDOWS, Band
from trainables.training import check_fit

DEMO_SETTINGS = PrepareSettings(country="any", min_magnitude=0.0, fs_hz=50.0, window_s=20.48)
FIGURE = "waveforms.png"
GENERATED = "generated.npy"
GENERATED_COUNT = 64


def run(plan: Plan, console: Console) -> bool:
    """Run a search to its export; False if it was interrupted and can be resumed."""
    data = plan.data or _demo_data(plan.folder.parent, console)
    open_dataset(data)  # verifies every checksum
    dataset = PreparedDataset.open(data)
    dataset.verify()
    _check_fit_of_space(plan.config, dataset)
    _say_what_is_judged(dataset, console)
    if plan.resume:
        _check_resumable(plan.folder, data)
    start_ray(dashboard=plan.config.resources.workers_per_trial > 1)
    config = replace(plan.config, resources=_fitting(plan.config.resources, console))
    trials_at_once(config)  # or an error, before anything is written
    if not plan.resume:
        _create(plan.folder, config, data)
    with _alone(plan.folder):
        try:
            analysis, finished = _search(config, plan, data, console)
            if finished:
                write_trials(trial_rows(analysis.trials), plan.folder / TRIALS_FILE)
                _finish(analysis, config, dataset, plan.folder, console)
                return True
        except KeyboardInterrupt:
            pass  # told in the same words wherever it comes
    _say_how_to_resume(plan.folder, console)
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
    kept = json.loads((folder / SEARCH_FILE).read_text(encoding="utf-8"))
    if kept.get("dataset") != sha256(data / "manifest.json"):
        raise ValueError(f"{data} is not the dataset that search {folder.name} began on; start another search")
    if (folder / TRIALS_FILE).is_file() and not has_state(folder):
        raise ValueError(f"{folder / 'tune'} is missing, so there is nothing to go on from; start another search")


def _demo_data(results: Path, console: Console) -> Path:
    """The prepared demo dataset, written the first time it is asked for."""
    folder = results / DEMO_DATA
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
    return folder / "prepared"


def _check_fit_of_space(config: SearchConfig, dataset: PreparedDataset) -> None:
    """Refuse what would fail in every trial, or in those at one end of the space, before any is started."""
    lowest = with_values(config.trial, {key: domain.ends[0] for key, domain in config.domains.items()})
    check_fit(lowest, dataset)
    for key, domain in config.domains.items():
        for value in domain.ends[1:]:
            check_fit(with_values(lowest, {key: value}), dataset)


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


def _fitting(resources: ResourcesConfig, console: Console) -> ResourcesConfig:
    """What a trial takes on the cluster there is: without any GPU, trials run on CPUs, and the user is told."""
    there = ray.cluster_resources()
    if resources.gpus_per_trial and not there.get("GPU"):
        console.print("[yellow]No GPU found:[/] trials run on the CPU, many times slower.", highlight=False)
        resources = replace(resources, gpus_per_trial=0.0, cpus_per_trial=resources.workers_per_trial)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, asked in (("CPU", resources.cpus_per_trial), ("GPU", resources.gpus_per_trial)):
        most = max(node.get(name, 0) for node in nodes)
        if asked > most and resources.workers_per_trial == 1:
            key = f"resources.{name.lower()}s_per_trial"
            raise ValueError(
                f"{key} is {asked:g}, but no machine has more than {most:g}; choose fewer with --set {key}=N"
            )
    return resources


def _create(folder: Path, config: SearchConfig, data: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ValueError(f"{folder} was created by another search just now; choose another --name") from None
    write_json(folder / SEARCH_FILE, resolved(config, {"data": str(data), "dataset": sha256(data / "manifest.json")}))


def _search(config: SearchConfig, plan: Plan, data: Path, console: Console) -> tuple[ExperimentAnalysis, bool]:
    progress = Progress(console, plan.folder / TRIALS_FILE, config.num_samples, config.training.max_epochs)
    with closing(Tracking(config.wandb, plan.folder, flat(config.trial), console)) as tracking, progress:
        analysis, finished = run_search(
            config, data, plan.folder, [progress, tracking], plan.resume and has_state(plan.folder)
        )
        if finished:
            progress.show(analysis.trials)
    return analysis, finished


def _say_how_to_resume(folder: Path, console: Console) -> None:
    command = _command("search/run.py", "--name", folder.name, "--results", shown_path(folder.parent), "--resume")
    console.print(f"Interrupted; everything so far is kept. Go on with:\n  {command}", highlight=False, markup=False)


def _finish(
    analysis: ExperimentAnalysis, config: SearchConfig, dataset: PreparedDataset, folder: Path, console: Console
) -> None:
    metrics = export_best(analysis, config.trial, dataset, folder)
    write_waveforms(folder, GENERATED_COUNT, folder / GENERATED, seed=config.seed)
    score, validation = metrics["validation"]["score"], dataset.part("val", config.model)
    draw_waveforms(
        validation.wave[validation.label[:, 0] == LABELS["earthquake"]],
        torch.from_numpy(np.load(folder / GENERATED)),
        config.model.components,
        Band(dataset.fs_hz, *dataset.usable_band_hz),
        f"{folder.name}, trial {metrics['trial_id']}, score {score_text(score)} (1 = as close as real to real)",
        folder / FIGURE,
    )
    _say_where_everything_is(metrics, config, folder, console)


def _say_where_everything_is(metrics: dict[str, Any], config: SearchConfig, folder: Path, console: Console) -> None:
    where, trial_id = shown_path(folder), metrics["trial_id"]
    parameters = ", ".join(f"{key.partition('.')[2]} {shown(value, 3)}" for key, value in metrics["parameters"].items())
    results = ("--results", shown_path(folder.parent))
    lines = [
        f"Best: trial {trial_id}, score {score_text(metrics['validation']['score'])} on validation, "
        f"{score_text(metrics['test']['score'])} on the test part",
        f"  {parameters}" if parameters else "",
        f"  {where}/{BEST}/          generator, configuration, metrics, README",
        f"  {where}/{FIGURE}  generated beside real waveforms",
        f"  {where}/{TRIALS_FILE}     every trial",
        "Next:",
        "  " + _command("search/generate.py", where, "--count", "16", "--out", "waveforms.npy"),
        "  " + _command("search/run.py", "--trial", f"{where}:{trial_id}", *results, "--max-epochs", "100"),
    ]
    if resolved_mode(config.wandb.mode) == "offline":
        lines.append(f"  {_python()} -m wandb sync {shlex.quote(where)}/wandb/offline-run-*   (with a W&B account)")
    console.print("\n".join(line for line in lines if line), highlight=False, markup=False, soft_wrap=True)


def _command(script: str, *arguments: str) -> str:
    """A command of the project as it can be pasted into the shell the user is in."""
    return f"{_python()} {shlex.join([shown_path(PROJECT / script), *arguments])}"


def _python() -> str:
    """How to call this Python from the user's shell."""
    return "python" if shutil.which("python") == sys.executable else shlex.quote(shown_path(Path(sys.executable)))
