"""Weights & Biases, from the driver: one run a trial, grouped by search.

A trial that is killed would lose an offline file of its own, so only the driver, which outlives its trials, writes.
"""

import netrc
import os
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlparse

import wandb
from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.console import Console

from search.config import WandbConfig

INIT_TIMEOUT_S = 30
# What Tune adds to a result about itself, of no use in a plot.
OWN_METRICS = ("score", "epoch", "samples", "generator_steps", "critic_steps", "seconds")
OWN_GROUPS = ("fidelity/", "gate/", "drift/", "loss/")


Mode = Literal["online", "offline", "disabled"]


def resolved_mode(mode: str) -> Mode:
    """`auto` is what the variable WANDB_MODE says, else `online` where an account is known here, else `offline`."""
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "online" if _has_account() else "offline")
    return cast(Mode, mode)


def _has_account() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    hosts = (urlparse(wandb.Settings().base_url).hostname, "api.wandb.ai")
    try:
        known = netrc.netrc()
    except FileNotFoundError:
        return False
    return any(known.authenticators(host) for host in hosts if host)


class Tracking(Callback):
    """Follows a search for Tune and logs each trial as a run of its own."""

    def __init__(self, config: WandbConfig, folder: Path, constants: dict[str, Any], console: Console):
        self._project, self._mode = config.project, resolved_mode(config.mode)
        self._folder, self._constants, self._console = folder, constants, console
        self._runs: dict[str, Any] = {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Open the trial's run; one of a restored trial goes on."""
        if trial.trial_id in self._runs:
            return
        try:
            self._runs[trial.trial_id] = self._open(trial)
        except wandb.Error as error:
            if self._mode != "online":
                raise
            self._console.print(f"[yellow]W&B cannot be reached[/] ({error}): going on offline.", highlight=False)
            self._mode = "offline"
            self._runs[trial.trial_id] = self._open(trial)

    def _open(self, trial: Trial) -> Any:
        return wandb.init(
            project=self._project,
            group=self._folder.name,
            name=f"{self._folder.name}-{trial.trial_id}",
            id=f"{self._folder.name}-{trial.trial_id}",
            config={**self._constants, **trial.config},
            dir=self._folder,
            mode=self._mode,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, x_disable_stats=True, init_timeout=INIT_TIMEOUT_S
            ),
        )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Log one report, an epoch a step."""
        metrics = {name: value for name, value in result.items() if name in OWN_METRICS or name.startswith(OWN_GROUPS)}
        self._runs[trial.trial_id].log(metrics, step=result["epoch"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close the run of a trial that ended, with the reason."""
        self._finish(trial, (trial.last_result or {}).get("stop_reason", ""), exit_code=0)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close the run of a trial that failed."""
        self._finish(trial, "error", exit_code=1)

    def close(self) -> None:
        """Close what an interrupted search has left open."""
        for run in self._runs.values():
            run.finish()
        self._runs.clear()

    def _finish(self, trial: Trial, reason: str, exit_code: int) -> None:
        run = self._runs.pop(trial.trial_id, None)
        if run is not None:
            run.summary["stop_reason"] = reason
            run.finish(exit_code=exit_code)
