"""The best configuration of a search as a folder that needs nothing of the search: `best/`."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ray.tune.analysis import ExperimentAnalysis
from ray.tune.experiment import Trial
from safetensors.torch import save_file

from data_prep.files import sha256, write_json, write_text, written_whole
from search.exported import BEST, CARD, CONFIG, FORMAT, METRICS, SCALES, WEIGHTS, fingerprint
from search.trials import trial_rows
from trainables.batches import PreparedDataset
from trainables.checkpoint import load_checkpoint
from trainables.config import TrialConfig, with_values
from trainables.fidelity import describe
from trainables.judge import Judge
from trainables.networks import AnyGenerator, make_generator


def best_state(analysis: ExperimentAnalysis) -> tuple[Trial, dict[str, Any]]:
    """The trial with the lowest score, and the training's state at the epoch that reached it.

    Raises:
        ValueError: if no trial has reported a finite score.
    """
    kept = [
        (result.metrics["score"], trial, result.checkpoint)
        for trial in analysis.trials
        for result in _checkpoints(trial)
        if math.isfinite(result.metrics["score"])
    ]
    if not kept:
        raise ValueError(f"no trial has finished an epoch with a finite score: nothing to export{_why(analysis)}")
    _, trial, checkpoint = min(kept, key=lambda candidate: candidate[0])
    with checkpoint.as_directory() as folder:
        return trial, load_checkpoint(Path(folder))


def _checkpoints(trial: Trial) -> list[Any]:
    """The checkpoints that Tune has kept of a trial, with the metrics reported beside them."""
    manager: Any = trial.run_metadata.checkpoint_manager
    return list(manager.best_checkpoint_results)


def _why(analysis: ExperimentAnalysis) -> str:
    """The last line of the first trial's error, or its reason to stop."""
    for trial in analysis.trials:
        if trial.error_file:
            return f"; trial {trial.trial_id}: {Path(trial.error_file).read_text().strip().splitlines()[-1]}"
    reasons = [row.stop_reason for row in trial_rows(analysis.trials) if row.stop_reason]
    return f"; {reasons[0]}" if reasons else ""


def export_best(
    analysis: ExperimentAnalysis, base: TrialConfig, dataset: PreparedDataset, result: Path
) -> dict[str, Any]:
    """Write `best/` below a result folder, replacing an earlier one; returns what `metrics.json` holds.

    The test part of the dataset is opened here, once, for the chosen generator alone.
    """
    trial, state = best_state(analysis)
    config = with_values(base, trial.config)
    generator = make_generator(config.model, dataset.samples)
    generator.load_state_dict(state["averaged"])
    metrics = {
        "trial_id": trial.trial_id,
        "parameters": trial.config,
        "validation": state["history"][-1],
        "test": _test_scores(config, dataset, generator),
    }
    with written_whole(result / BEST) as aside:
        aside.mkdir()
        _write(aside, config, dataset, generator, metrics, result.name)
        _remove_earlier(result / BEST)
    return metrics


def _test_scores(config: TrialConfig, dataset: PreparedDataset, generator: AnyGenerator) -> dict[str, Any]:
    judge = Judge(config, dataset, *(dataset.part(name, config.model) for name in ("train", "test")))
    return {**judge.score(generator), **describe(judge.fidelity)}


def _write(
    folder: Path,
    config: TrialConfig,
    dataset: PreparedDataset,
    generator: AnyGenerator,
    metrics: dict[str, Any],
    name: str,
) -> None:
    weights = {key: value.contiguous() for key, value in generator.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    write_json(folder / METRICS, metrics)
    save_file(_scales(dataset), folder / SCALES)
    shape = {"samples": dataset.samples, "fs_hz": dataset.fs_hz, "labels": dataset.labels}
    content = {"format": FORMAT, **shape, **asdict(config), "sha256": None}
    checksums = {name: sha256(folder / name) for name in (WEIGHTS, SCALES)} | {CONFIG: fingerprint(content)}
    write_json(folder / CONFIG, {**content, "sha256": checksums})
    write_text(folder / CARD, _card(name, dataset, metrics))


def _scales(dataset: PreparedDataset) -> dict[str, torch.Tensor]:
    """Standard deviations of the training windows in cm/s² (N, 3) by label: what normalising took away."""
    columns = [f"std_{component}_cm_s2" for component in "enz"]
    rows = pd.read_parquet(dataset.folder / "train.parquet", columns=["label", *columns]).dropna()
    return {
        str(label): torch.tensor(some[columns].to_numpy(np.float32)).contiguous()
        for label, some in rows.groupby("label")
    }


def _card(name: str, dataset: PreparedDataset, metrics: dict[str, Any]) -> str:
    validation, test = metrics["validation"]["score"], metrics["test"]["score"]
    trust = (
        ""
        if metrics["test"]["resolvable"]
        else ("\nToo few windows or events to resolve the score: differences of this size may be chance.\n")
    )
    parameters = "\n".join(f"| `{key}` | {value:.4g} |" for key, value in sorted(metrics["parameters"].items()))
    return f"""# Generator of search `{name}`, trial {metrics["trial_id"]}

Three-component accelerograms (E, N, Z), {dataset.samples} samples at {dataset.fs_hz:g} Hz, each normalised to mean 0
and standard deviation 1; `scales.safetensors` holds the standard deviations of the training records in cm/s².

| score (1 = as close as real data to themselves) | value |
|---|---|
| validation | {validation:.2f} |
| test | {test:.2f} |
{trust}
| parameter | value |
|---|---|
{parameters}

Generate: `python search/generate.py results/{name} --count 16 --out waveforms.npy`
"""


def _remove_earlier(folder: Path) -> None:
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
