"""Time what a dead W&B costs a search: reports untracked, to a service that refuses, and to one that is silent.

    python tests/bench/wandb_outage.py [--reports 400] [--every 0.1]

Reports are made at a steady pace, as Tune makes them, without any training. Last line: JSON with the seconds of all
three to their end, `refused` and `silent` over untracked (1 means that W&B costs nothing), the most milliseconds that
tracking ever held up a report, and whether every step is in the offline runs.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_prep.files import write_json
from search.config import WandbConfig, resolved
from search.presets import preset
from search.storage import place
from search.tracking import Tracking
from tests.wandb_fakes import Offline, running_service

CLOSED_PORT = "http://127.0.0.1:9"
EPOCHS = 20


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=400, help=f"how many, {EPOCHS} a trial")
    parser.add_argument("--every", type=float, default=0.1, help="seconds from one to the next")
    args = parser.parse_args()
    os.environ.update(WANDB_API_KEY="0" * 40, WANDB_BASE_URL=CLOSED_PORT)
    runs = {"untracked": search("disabled", args), "refused": search("online", args)}
    with running_service() as service:
        service.answering.clear()
        os.environ["WANDB_BASE_URL"] = service.url
        runs["silent"] = search("online", args)
    print("\n".join(f"{name}: {run}" for name, run in runs.items()))
    seconds = {name: run["seconds"] for name, run in runs.items()}
    tracked = [runs["refused"], runs["silent"]]
    result = {
        "seconds": seconds,
        **{name: round(seconds[name] / seconds["untracked"], 4) for name in ("refused", "silent")},
        "most_ms": max(run["most_ms"] for run in tracked),
        "whole": all(run["whole"] for run in tracked),
    }
    print(json.dumps(result))


def search(mode: str, args: argparse.Namespace) -> dict[str, float | bool]:
    """One search of made-up reports, to the end of its tracking."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "search")
        folder.mkdir()
        write_json(folder / "search.json", resolved(preset("demo"), {"data": parent}))
        start = time.perf_counter()
        tracking, held_s = Tracking(WandbConfig(mode), place(folder), Console(file=io.StringIO())), 0.0
        for number in range(args.reports // EPOCHS):
            held_s = max(held_s, one_trial(tracking, folder, number, args.every))
        ended = time.perf_counter()
        tracking.close()
        now = time.perf_counter()
        return {
            "seconds": round(now - start, 2),
            "close_s": round(now - ended, 2),
            "most_ms": round(held_s * 1000, 1),
            "whole": mode == "disabled" or is_whole(folder, args.reports // EPOCHS),
        }


def one_trial(tracking: Tracking, folder: Path, number: int, every_s: float) -> float:
    """Report a trial's epochs at their pace; the most seconds that a report was held up."""
    trial: Any = SimpleNamespace(
        trial_id=f"t{number}",
        path=str(folder / "tune" / f"t{number}"),
        experiment_tag=f"{number + 1}_",
        config={},
        status="RUNNING",
        last_result={},
        metric_analysis={},
    )
    held_s = 0.0
    tracking.on_trial_start(0, [trial], trial)
    for epoch in range(1, EPOCHS + 1):
        time.sleep(every_s)
        start = time.perf_counter()
        trial.last_result = {"epoch": epoch, "score": 1 / epoch, "last_epoch": epoch == EPOCHS}
        tracking.on_trial_result(0, [trial], trial, trial.last_result)
        tracking.on_step_end(0, [trial])
        held_s = max(held_s, time.perf_counter() - start)
    trial.status = "TERMINATED"
    tracking.on_trial_complete(0, [trial], trial)
    tracking.on_step_end(0, [trial])
    return held_s


def is_whole(folder: Path, trials: int) -> bool:
    """Whether each trial has one offline run with all its steps."""
    files = list(folder.glob("wandb/offline-run-*/*.wandb"))
    return len(files) == trials and all(Offline(file).steps == list(range(1, EPOCHS + 1)) for file in files)


if __name__ == "__main__":
    main()
