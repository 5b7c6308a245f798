"""The process that writes a search's W&B runs: it reads the search's log of reports, and only it waits for W&B.

The log is the truth. A run whose folder is marked complete is passed over; any other is written from the log's first
line on: what was cut off in a kill, whole anew; what the service holds already, from its next step on.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import wandb
from pyarrow.fs import FileSelector

from search.config import read_config
from search.figure import draw_waveforms
from search.line_log import LOG, LogReader
from search.plan import SEARCH_FILE, data_of
from search.storage import Place
from trainables.batches import LABELS, PreparedDataset
from trainables.checkpoint import FILE, load_first
from trainables.config import TrialConfig, with_values
from trainables.fidelity import Band
from trainables.judge import generate
from trainables.networks import make_generator

Mode = Literal["online", "offline", "disabled"]
COMPLETE = "complete"
PICTURE = "waveforms"
PICTURED = 64
POLL_S = 0.5
# How long a service may keep a run waiting, at its start and at its end, before all goes on offline.
INIT_TIMEOUT_S, FINISH_TIMEOUT_S = 15.0, 10.0
# Trials come first where there are too few cores for all.
NICENESS = 10


def write_runs(kept: Place, mode: Mode, link: Connection) -> None:
    """Write the runs of the search that is kept there as its log grows, until told that the search has ended.

    The driver is at the other end of `link`. What is worth telling the user goes to it, and an empty text at each sign
    of progress. Troubles with the service are answered by starting again offline, from the log's first line. The link
    is closed when the runs are whole: W&B's own statistics may keep the process for 20 s after that.
    """
    os.nice(NICENESS)
    logging.raiseExceptions = False  # W&B's own log may find the disk full, which is told in one line
    os.environ["WANDB_SILENT"] = "true"
    torch.set_num_threads(1)
    with link:
        try:
            with (kept.here / LOG).open("rb") as first, LogReader(kept.here / LOG) as log:
                fcntl.flock(first, fcntl.LOCK_EX)  # that of a killed driver may not have noticed yet
                make_runs(log, kept, mode, Driver(link))
        except (EOFError, BrokenPipeError):
            return  # the driver was killed; the search resumed writes everything
        except Exception as error:  # told in one line, and the search goes on
            link.send(f"W&B: {type(error).__name__}: {error}")


class Driver:
    """The process that runs the search, at the other end of the link."""

    def __init__(self, link: Connection):
        self._link, self.ended = link, False

    def tell(self, text: str) -> None:
        """Say something to the user, or, empty, give a sign of progress."""
        self._link.send(text)

    def wait(self) -> None:
        """Wait a little, or until the search has ended.

        Raises:
            EOFError: the driver was killed.
        """
        if not self.ended and self._link.poll(POLL_S):
            self.ended = self._link.recv()


def make_runs(log: LogReader, kept: Place, mode: Mode, driver: Driver) -> None:
    """Make runs of the log: at first in the mode asked for, and if that is online and fails, offline."""
    try:
        Runs(kept, mode, driver).follow(log)
    except Exception as error:  # of the service, or of W&B's own process, which may fail in many ways
        if mode != "online":
            raise
        reason = str(error).partition("\n")[0]
        driver.tell(f"W&B fails online ({reason}): going on offline, to be sent later with `wandb sync`")
        with suppress(ConnectionError):
            wandb.teardown()
        log.rewind()
        Runs(kept, "offline", driver).follow(log)


def is_complete(folder: Path, trial_id: str) -> bool:
    """Whether a trial that ended has its whole run."""
    return any((run / COMPLETE).is_file() for run in _folders(folder, trial_id))


def _folders(folder: Path, trial_id: str) -> list[Path]:
    return list((folder / "wandb").glob(f"*run-*-{_run_id(folder, trial_id)}"))


def _run_id(folder: Path, trial_id: str) -> str:
    return f"{folder.name}-{trial_id}"


@dataclass
class _Open:
    """A run being written, and the last step it holds."""

    run: Any
    config: TrialConfig
    checkpoints: list[Place]
    step: int


class Runs:
    """The runs of a search that are open."""

    def __init__(self, kept: Place, mode: Mode, driver: Driver):
        self._kept, self._folder, self._mode, self._driver = kept, kept.here, mode, driver
        self._config = read_config(self._folder / SEARCH_FILE)
        self._open: dict[str, _Open] = {}
        self._parameters: dict[str, dict[str, Any]] = {}

    def follow(self, log: LogReader) -> None:
        """Take the lines of a log as they come, until the search has ended."""
        more = True
        while more:
            self._driver.wait()
            more = not self._driver.ended
            for line in log.news():
                self.take(line)
        self._close()

    def take(self, line: dict[str, Any]) -> None:
        """Take one line of the log: a trial started, reported or ended. What a run holds already changes nothing."""
        trial_id = line["trial"]
        if "about" in line and trial_id not in self._parameters:
            self._parameters[trial_id] = line["about"]["parameters"]
            if not is_complete(self._folder, trial_id):
                self._open[trial_id] = self._begin(trial_id, **line["about"])
        if trial_id not in self._open:
            return
        if "report" in line:
            self._report(self._open[trial_id], line["report"])
        if "ending" in line:
            self._end(trial_id, **line["ending"])

    def _close(self) -> None:
        """Finish the runs of trials that have not ended; they go on when the search is resumed."""
        for trial_id, held in self._open.items():
            self._finish(held, trial_id, "interrupted", "")
        wandb.teardown()

    def _begin(self, trial_id: str, number: int, parameters: dict[str, Any], checkpoints: list[str]) -> _Open:
        config, run_id = with_values(self._config.trial, parameters), _run_id(self._folder, trial_id)
        lineage = {"search": self._folder.name, "trial": number, **self._origin(parameters)}
        for cut_off in _folders(self._folder, trial_id):
            shutil.rmtree(cut_off)
        run = wandb.init(
            project=self._config.wandb.project,
            group=self._folder.name,
            name=run_id,
            id=run_id,
            config={**asdict(self._config), **asdict(config), **lineage},
            dir=self._folder,
            mode=self._mode,
            resume="allow",
            reinit="create_new",
            settings=_settings(),
        )
        self._driver.tell("")
        return _Open(run, config, [self._kept / name for name in checkpoints], run.starting_step - 1)

    def _origin(self, parameters: Mapping[str, Any]) -> dict[str, str]:
        """Where a trial's parameters come from: those of an earlier one with another seed are trained again."""
        without_seed = {key: value for key, value in parameters.items() if key != "seed"}
        if without_seed != parameters:
            source = next((name for name, earlier in self._parameters.items() if earlier == without_seed), None)
            return {"origin": "trained again", **({"trained_again_from": source} if source else {})}
        known = any(point.items() <= parameters.items() for point in self._config.baselines)
        return {"origin": "baseline" if known else "proposed"}

    def _report(self, held: _Open, report: dict[str, Any]) -> None:
        """Log a report, an epoch a step; after a restore some come again."""
        if report["epoch"] > held.step:
            held.step = report["epoch"]
            held.run.log(report, step=held.step)

    def _end(self, trial_id: str, state: str, stop_reason: str) -> None:
        held = self._open[trial_id]
        self._log_picture(held, trial_id)
        self._finish(held, trial_id, state, stop_reason)
        del self._open[trial_id]
        for folder in _folders(self._folder, trial_id):
            (folder / COMPLETE).touch()

    def _finish(self, held: _Open, trial_id: str, state: str, stop_reason: str) -> None:
        held.run.summary.update({"state": state, "stop_reason": stop_reason})
        held.run.finish(exit_code=int(state == "failed"))
        self._driver.tell("")

    def _log_picture(self, held: _Open, trial_id: str) -> None:
        state, damage = load_first(newest_first(held.checkpoints), self._kept.filesystem)
        for text in damage:
            self._driver.tell(f"Trial {trial_id}: {text}")
        if state is None:
            return
        title = f"{_run_id(self._folder, trial_id)}, score {state['best']['history'][-1]['score']:.4g}"
        with TemporaryDirectory() as folder:
            file = Path(folder, f"{PICTURE}.png")
            draw_generator(state["best"]["averaged"], held.config, data_of(self._folder / SEARCH_FILE), title, file)
            held.run.log({PICTURE: wandb.Image(str(file))})


def _settings() -> wandb.Settings:
    """No word on the terminal, nothing about this machine, no wait without an end."""
    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
    )


def newest_first(folders: list[Place]) -> list[Path]:
    """The checkpoints in a trial's folders."""
    files = [
        Path(info.path)
        for folder in folders
        for info in folder.filesystem.get_file_info(FileSelector(folder.path, allow_not_found=True, recursive=True))
    ]
    found = {file.parent for file in files if file.name == FILE and file.parent.name.startswith("checkpoint_")}
    return sorted(found, reverse=True)


def draw_generator(weights: dict[str, Any], config: TrialConfig, data: Path, title: str, file: Path) -> None:
    """Write a picture of what a trial's generator makes, beside the validation windows whose labels it is told."""
    dataset = PreparedDataset.open(data)
    generator = make_generator(config.model, dataset.samples)
    generator.load_state_dict(weights)
    val = dataset.part("val", config.model)
    rows = (val.label[:, 0] == LABELS["earthquake"]).nonzero()[:PICTURED, 0]
    latent = torch.randn(len(rows), config.model.latent_dim, generator=torch.Generator().manual_seed(config.seed))
    band = Band(dataset.fs_hz, *dataset.usable_band_hz)
    fake = generate(generator, latent, val.label[rows])
    draw_waveforms(val.wave[rows], fake, config.model.components, band, title, file)
