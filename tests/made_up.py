"""Made-up trials, which report what is planted instead of training; and, as a command, a search of them.

    python tests/made_up.py [arguments of search/run.py]

They have all the rest of real ones: the search's own stop rules, scores that follow from their parameters, checkpoints
that they go on from.
"""

import json
import signal
import tempfile
import time
from pathlib import Path

from ray import tune

from data_prep.command import run_command

EPOCH_S = 0.1  # of a trial of the command: a kill shall find some running
EPOCH_FILE = "epoch.json"


class AtReport(tune.Callback):
    """Does something at one of a search's reports, counted from 1."""

    def __init__(self, number, act):
        self._number, self._act, self._seen = number, act, 0

    def on_trial_result(self, iteration, trials, trial, result, **info):
        self._seen += 1
        if self._seen == self._number:
            self._act()


def ctrl_c():
    """Press Ctrl-C, as Tune sees it."""
    signal.raise_signal(signal.SIGINT)


def report(epoch, last, score, **planted):
    """One report of the `last` that there are to be."""
    counts = {"epoch": epoch, "samples": 30 * epoch, "generator_steps": epoch, "seconds": EPOCH_S}
    told = {"last_epoch": epoch == last, "stop_reason": "", "warning": "", "score": score, "best_score": score}
    return {**counts, **told, **planted}


def send(metrics):
    """Report to Tune beside a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, EPOCH_FILE).write_text(json.dumps(metrics["epoch"]))
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def last_epoch_sent():
    """The epoch to go on from."""
    checkpoint = tune.get_checkpoint()
    file = Path(checkpoint.path, EPOCH_FILE) if checkpoint else None
    return json.loads(file.read_text()) if file and file.is_file() else 0


def run_trial(parameters, *, base, **_):
    """In place of `trainables.trainable.run_trial`: scores fall from epoch to epoch, in small networks the lowest."""
    last = base.training.max_epochs
    for epoch in range(last_epoch_sent() + 1, last + 1):
        time.sleep(EPOCH_S)
        send(report(epoch, last, parameters["model.latent_dim"] / epoch))


def main():
    from search import run, session, tuner

    tuner.run_trial = run_trial
    session.finish = lambda *_: None  # there is no generator to export
    run.main()


if __name__ == "__main__":
    run_command(main)
