"""The best configuration of a search as a folder that needs nothing of the search: `best/`."""

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from sysconfig import get_platform
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import ray.train
import torch
from ray.tune.experiment import Trial
from safetensors.torch import save
from torch import Tensor

from data_prep.files import sha256, write_json, write_text, written_whole
from search.export.card import model_card
from search.export.load import (
    BEST,
    CARD,
    CONFIG,
    DATASET,
    ENVIRONMENT,
    FORMAT,
    METRICS,
    PROGRAM,
    RECORDS,
    WEIGHTS,
    write_sums,
)
from search.export.program import write_program
from search.finalists import SEED
from search.trials import trial_rows
from search.verdict import Verdict
from trainables.batches import PreparedDataset
from trainables.checkpoint import load_first
from trainables.config import ModelConfig, TrialConfig, with_values
from trainables.fidelity import Band, describe
from trainables.finalist_metrics import closer_look
from trainables.judge import Judge
from trainables.networks import AnyGenerator, make_generator

# What Ray Train keeps of a run, from its first checkpoint on.
SNAPSHOT = "checkpoint_manager_snapshot.json"


def best_state(trials: Sequence[Trial]) -> tuple[Trial, dict[str, Any]]:
    """The trial with the lowest score; its averaged generator and its reports, up to the epoch that reached it.

    A damaged checkpoint is told of on stderr, and the next best one taken.

    Raises:
        ValueError: if no trial has reported a finite score, or no checkpoint is whole.
    """
    kept = [
        (result.metrics["best_score"], trial, result.checkpoint)
        for trial in trials
        for result in reversed(_checkpoints(trial))
        if math.isfinite(result.metrics["best_score"])
    ]
    if not kept:
        raise ValueError(f"no trial has finished an epoch with a finite score: nothing to export{_why(trials)}")
    kept.sort(key=lambda candidate: candidate[0])
    checkpoints = [checkpoint for *_, checkpoint in kept]
    state, damage = load_first([Path(one.path) for one in checkpoints], checkpoints[0].filesystem)
    print(*damage, sep="\n", end="\n" if damage else "", file=sys.stderr)
    if state is None:
        raise ValueError("no checkpoint of this search is whole: nothing to export; start another search")
    return kept[len(damage)][1], state["best"]


class _Kept(NamedTuple):
    """A checkpoint and the metrics reported beside it."""

    checkpoint: Any
    metrics: dict[str, Any]


def _checkpoints(trial: Trial) -> list[Any]:
    """The checkpoints that are kept of a trial: by Tune, or by the Ray Train run of its several workers."""
    storage: Any = trial.storage
    run, filesystem = f"{trial.remote_experiment_path}/{trial.trial_id}", storage.storage_filesystem
    if not filesystem.get_file_info(f"{run}/{SNAPSHOT}").is_file:
        manager: Any = trial.run_metadata.checkpoint_manager
        return list(manager.best_checkpoint_results)
    # Ray Train's JSON has no infinity: it comes back as None.
    kept = ray.train.Result.from_path(run, storage_filesystem=filesystem).best_checkpoints or []
    return [_Kept(checkpoint, metrics) for checkpoint, metrics in kept if metrics["best_score"] is not None]


def _why(trials: Sequence[Trial]) -> str:
    """The last line of the first trial's error, or its reason to stop."""
    for trial in trials:
        if trial.error_file:
            return f"; trial {trial.trial_id}: {Path(trial.error_file).read_text().strip().splitlines()[-1]}"
    reasons = [row.stop_reason for row in trial_rows(trials) if row.stop_reason]
    return f"; {reasons[0]}" if reasons else ""


def export_best(
    trials: Sequence[Trial], base: TrialConfig, dataset: PreparedDataset, result: Path, verdict: Verdict | None = None
) -> dict[str, Any]:
    """Write `best/` below a result folder, replacing an earlier one; returns what `metrics.json` holds.

    Of the trials, those of the finalists' winner where there is a verdict, the one with the lowest score is taken.
    The test part of the dataset is opened here, once, for the chosen generator alone.
    """
    trial, state = best_state(trials)
    config = with_values(base, trial.config)
    generator = make_generator(config.model, dataset.samples)
    generator.load_state_dict(state["averaged"])
    metrics = {
        "trial_id": verdict.winner if verdict else trial.trial_id,
        "seed": config.seed,
        "parameters": {key: value for key, value in trial.config.items() if key != SEED},
        "validation": state["history"][-1],
        "test": _test_scores(config, dataset, generator),
        **({"finalists": verdict.content()} if verdict else {}),
    }
    with written_whole(result / BEST) as aside:
        aside.mkdir()
        _write(aside, config, dataset, generator, metrics)
        write_text(aside / CARD, model_card(result.name, dataset, config.model, metrics, verdict))
        write_sums(aside)
        _remove_earlier(result / BEST)
    return metrics


def _test_scores(config: TrialConfig, dataset: PreparedDataset, generator: AnyGenerator) -> dict[str, Any]:
    train, test = (dataset.part(name, config.model) for name in ("train", "test"))
    judge = Judge(config, dataset, train, test)
    fake, band = judge.generate(generator), Band(dataset.fs_hz, *dataset.usable_band_hz)
    looked = closer_look(train.wave, test.wave, fake, band, config.seed)
    return {**judge.judged(fake), **looked, **describe(judge.fidelity)}


def _write(
    folder: Path,
    config: TrialConfig,
    dataset: PreparedDataset,
    generator: AnyGenerator,
    metrics: dict[str, Any],
) -> None:
    records = _records(dataset, config.model)
    weights = {key: value.contiguous() for key, value in generator.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(weights))  # `save_file` would keep it from all other users
    (folder / RECORDS).write_bytes(save(records))
    write_program(generator, config.model, folder / PROGRAM)
    shape = {"samples": dataset.samples, "fs_hz": dataset.fs_hz, "labels": dataset.labels}
    standards = _standards(dataset, config.model)
    write_json(folder / CONFIG, {"format": FORMAT, **shape, "standards": standards, **asdict(config)})
    write_json(folder / METRICS, metrics)
    write_json(folder / DATASET, _data(dataset, config.model, records))
    write_json(folder / ENVIRONMENT, _environment())


def _records(dataset: PreparedDataset, model: ModelConfig) -> dict[str, Tensor]:
    """Of the training records of each label: label and conditions (N, L), and the scales of the same records (N, C).

    The scales are the standard deviations in cm/s² that normalising took away, NaN for a record of unknown unit.
    """
    rows = pd.read_parquet(dataset.folder / "train.parquet")
    label = dataset.label(rows, model.conditions)
    columns = [f"std_{component.lower()}_cm_s2" for component in model.components]
    scale = torch.tensor(rows[columns].to_numpy(np.float32))
    records: dict[str, Tensor] = {}
    for name in dataset.labels:
        chosen = torch.tensor(rows["label"] == name)
        records |= {f"{name}.label": label[chosen], f"{name}.scale": scale[chosen]}
    return records


def _standards(dataset: PreparedDataset, model: ModelConfig) -> dict[str, dict[str, float]]:
    """Mean and standard deviation that a condition was standardised with, to tell the generator of any other value."""
    standards = dataset.standards(model.conditions)
    return {name: {"mean": mean, "std": std} for name, (mean, std) in standards.items()}


def _data(dataset: PreparedDataset, model: ModelConfig, records: dict[str, Tensor]) -> dict[str, Any]:
    """What the generator learned from: the dataset's fingerprint and manifest, and how its scales are distributed."""
    scales = {name: _scales(records[f"{name}.scale"], model.components) for name in dataset.labels}
    return {"fingerprint": sha256(dataset.folder / "manifest.json"), "manifest": dataset.manifest, "scales": scales}


def _scales(scale_NC: Tensor, components: str) -> dict[str, Any]:
    """Of the records of known unit, quantiles of each component's scale in cm/s²."""
    known = scale_NC[scale_NC.isfinite().all(1)]
    counts = {"records": len(scale_NC), "of_known_unit": len(known)}
    if not len(known):
        return counts
    quantiles = {f"{share:.0%}": known.quantile(share, dim=0).tolist() for share in (0, 0.16, 0.5, 0.84, 1)}
    by_component = {name: dict(zip(components, values, strict=True)) for name, values in quantiles.items()}
    return {**counts, "quantiles_cm_s2": by_component}


def _environment() -> dict[str, str]:
    """What the generator was exported with; no name of a machine or a person."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    versions = {name: version(name) for name in ("torch", "ray", "optuna", "numpy")}
    return {"python": python_version(), **versions, "platform": get_platform(), "device": device}


def _remove_earlier(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
