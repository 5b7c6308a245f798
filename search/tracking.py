"""Weights & Biases, from the driver: one run a trial, grouped by search.

The driver, which outlives its trials, writes each report to a log in the result folder; a process of its own makes runs
of the log (`wandb_runs.py`). So nothing that W&B does, or fails to do, holds up the search or ends it.
"""

import multiprocessing
import netrc
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlparse

import wandb
from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.console import Console

from search.config import WandbConfig
from search.line_log import LOG, LineLog
from search.storage import Place
from search.trials import OUT_OF_TIME, trial_number, trial_rows
from search.wandb_runs import Mode, is_complete, write_runs

# How long the end of a search waits for W&B from one sign of progress to the next.
PATIENCE_S = 30.0
# The metrics of a trial are these and all whose name has a group; the rest of a result is Tune's, about itself.
UNGROUPED = (
    *("score", "best_score", "epoch", "samples", "generator_steps", "critic_steps"),
    *("parameters", "memory_gb", "seconds"),
)


def resolved_mode(mode: str) -> Mode:
    """`auto` is what the variable WANDB_MODE says, else `online` where an account is known here, else `offline`."""
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if has_account() else "offline")
    return cast(Mode, mode)


def has_account() -> bool:
    """Whether a key is in the environment, or a login of the service in a netrc file, as W&B looks for them.

    A netrc file that cannot be read holds none; W&B itself says so where it would need one.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    own = os.environ.get("WANDB_BASE_URL")
    services = [own] if own else [wandb.Settings().base_url, "https://api.wandb.ai"]
    hosts = [urlparse(service).netloc for service in services]
    files = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / ".netrc", Path.home() / "_netrc"]
    # Named, as Python is stricter with the one that it finds itself: it refuses what others may read.
    return any(_holds_login(file, hosts) for file in files if file.is_file())


def _holds_login(file: Path, hosts: Sequence[str]) -> bool:
    try:
        known = netrc.netrc(file)
        return any(known.authenticators(host) for host in hosts)
    except (netrc.NetrcParseError, OSError):
        return False


class Tracking(Callback):
    """Follows a search for Tune: logs each report, and has a process make runs of the log."""

    def __init__(self, config: WandbConfig, kept: Place, console: Console):
        self._kept, self._folder, self._console = kept, kept.here, console
        self._news: list[Trial] = []
        self._begun = False
        self._ended: set[str] = set()
        mode = resolved_mode(config.mode)
        self._trial_log = LineLog(self._folder / LOG)
        self._writer = None if mode == "disabled" else Writer(kept, mode)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Log a trial that starts, or goes on in a restored search."""
        self._log(trial, about=self._about(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Log one report."""
        self._log(trial, report=metrics_of(result))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Take note of a trial that ended; Tune gives it its state after that."""
        self._news.append(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Take note of a trial that failed."""
        self._news.append(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Log the trials that ended; at first all there are, for a killed driver may not have come to it."""
        self.settle(self._news if self._begun else trials)
        self._news, self._begun = [], True
        if self._writer:
            self._tell(self._writer.news())

    def settle(self, trials: Sequence[Trial], cut_off: str = OUT_OF_TIME) -> None:
        """Log how trials ended; Tune does not tell of those that it cuts off with the search, for the given reason."""
        for trial in trials:
            (row,) = trial_rows([trial], cut_off)
            if row.ended and row.trial_id not in self._ended:
                self._ended.add(row.trial_id)
                ending = {"state": row.state, "stop_reason": row.stop_reason}
                self._log(trial, about=self._about(trial), ending=ending)

    def close(self) -> None:
        """Wait for the runs to be whole, but not for a W&B that shows no progress; the user is told of what is left."""
        self._trial_log.close()
        if not self._writer:
            return
        with self._console.status("Finishing the W&B runs ..."):
            self._tell(self._writer.finish())
        left = sum(not is_complete(self._folder, trial_id) for trial_id in self._ended)
        if left:
            self._tell([f"W&B does not go on: {left} runs are not whole; --resume writes them from {LOG}."])

    def _about(self, trial: Trial) -> dict[str, Any]:
        """What is known of a trial from its start; its checkpoints are in one of two folders."""
        one_worker = Path(cast(str, trial.path))
        several = one_worker.with_name(trial.trial_id)
        checkpoints = [os.path.relpath(folder, self._kept.path) for folder in (one_worker, several)]
        return {"number": trial_number(trial), "parameters": trial.config, "checkpoints": checkpoints}

    def _log(self, trial: Trial, **content: Any) -> None:
        self._trial_log.write({"trial": trial.trial_id, **content})

    def _tell(self, texts: Sequence[str]) -> None:
        for text in texts:
            self._console.print(text, style="yellow", markup=False, highlight=False)


def metrics_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's own metrics, of all that Tune adds to them."""
    return {name: value for name, value in result.items() if name in UNGROUPED or "/" in name}


class Writer:
    """The process that makes runs of the log."""

    def __init__(self, kept: Place, mode: Mode):
        spawn = multiprocessing.get_context("spawn")
        self._link, theirs = spawn.Pipe()
        self._process = spawn.Process(target=write_runs, args=(kept, mode, theirs), name="wandb-runs", daemon=True)
        # The process inherits that Ctrl-C is not for it, but for this one, which then says what to do.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._process.start()
        signal.signal(signal.SIGINT, before)
        theirs.close()  # or the link would not end with the process

    def news(self) -> list[str]:
        """What the process has to say, without waiting for it."""
        return [text for text in self._heard(0) if text]

    def finish(self) -> list[str]:
        """Let the process come to the end of the log, as long as it makes progress; what it has to say."""
        try:
            with suppress(BrokenPipeError):  # it has ended already, and said why
                self._link.send(True)
            return [text for text in self._heard(PATIENCE_S) if text]
        finally:
            self._process.kill()
            self._process.join()

    def _heard(self, patience_s: float) -> Iterator[str]:
        """What the process says until it is silent for so long, or has ended."""
        with suppress(EOFError, ConnectionResetError):
            while self._link.poll(patience_s):
                yield self._link.recv()
