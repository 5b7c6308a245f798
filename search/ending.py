"""How a search ends: the export, a picture of what it generates, and where everything is."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.tune.experiment import Trial
from rich.console import Console

from search.config import SearchConfig
from search.export.load import BEST
from search.export.write import export_best
from search.figure import draw_waveforms
from search.generate import write_waveforms
from search.plan import FINALISTS_FILE, GENERATED, PROJECT, TRIALS_FILE, Plan, shown_path, shown_place
from search.report import REPORT, write_report
from search.space import shown
from search.tracking import resolved_mode
from search.trials import score_text
from search.verdict import Verdict
from trainables.batches import LABELS, PreparedDataset
from trainables.fidelity import Band

FIGURE = "waveforms.png"
GENERATED_COUNT = 64


def say_how_to_resume(plan: Plan, console: Console) -> None:
    """Tell the command that goes on with an interrupted search."""
    command = _command("search/run.py", "--name", plan.name, "--results", shown_place(plan.results), "--resume")
    text = f"Interrupted; everything so far is kept. Go on with:\n  {command}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)  # the command in one piece, to be pasted


def finish(
    trials: Sequence[Trial],
    verdict: Verdict | None,
    config: SearchConfig,
    dataset: PreparedDataset,
    plan: Plan,
    console: Console,
) -> None:
    """Export the best of these trials, draw what it generates, write the report, and say where everything is."""
    folder = plan.folder
    metrics = export_best(trials, config.trial, dataset, folder, verdict)
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
    write_report(folder)
    _say_where_everything_is(metrics, verdict, config, plan, console)


def _say_where_everything_is(
    metrics: dict[str, Any], verdict: Verdict | None, config: SearchConfig, plan: Plan, console: Console
) -> None:
    where, trial_id = shown_path(plan.folder), metrics["trial_id"]
    parameters = ", ".join(f"{key.partition('.')[2]} {shown(value, 3)}" for key, value in metrics["parameters"].items())
    results = ("--results", shown_place(plan.results))
    longer = str(max(100, 2 * config.training.max_epochs))
    lines = [
        *(verdict.lines if verdict else []),
        f"Best: trial {trial_id}, seed {metrics['seed']}, score {score_text(metrics['validation']['score'])} "
        f"on validation, {score_text(metrics['test']['score'])} on the test part",
        f"  {parameters}" if parameters else "",
        f"  {where}/{REPORT}    what was found, to open in a browser",
        f"  {where}/{BEST}/          generator (also as ONNX), configuration, metrics, model card",
        f"  {where}/{FIGURE}  generated beside real waveforms",
        f"  {where}/{TRIALS_FILE}     every trial",
        f"  {where}/{FINALISTS_FILE}  every training of the finalists" if verdict else "",
        "Next:",
        "  " + _command("search/generate.py", where, "--count", "16", "--out", "waveforms.npy"),
        "  " + _command("search/run.py", "--trial", f"{where}:{trial_id}", *results, "--max-epochs", longer),
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
