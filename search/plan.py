"""What a search is going to do, decided from the command line before anything is written."""

import argparse
import csv
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from search.config import SearchConfig, parse, read_config, with_settings
from search.presets import preset
from search.space import shown
from search.storage import MANIFEST, Place, copies, dataset_at, dataset_copy, is_url, place
from trainables.config import flat, with_values

PROJECT = Path(__file__).resolve().parents[1]
SEARCH_FILE = "search.json"
TRIALS_FILE = "trials.csv"
FINALISTS_FILE = "finalists.csv"
ANSWERS_FILE = "answers.json"
GENERATED = "generated.npy"
DEMO_DATA = "demo-data"
# What a resumed search has settled already.
SETTLED = ("data", "preset", "num_samples", "max_epochs", "max_hours", "seed", "config", "set", "trial")


@dataclass(frozen=True)
class Plan:
    """A search to run: its configuration, its data (None: the demo's, still to be made), and where its result goes.

    `results` is where all results are kept.
    """

    config: SearchConfig
    data: Place | None
    results: Place
    name: str
    resume: bool
    headline: str

    @property
    def kept(self) -> Place:
        """Where the result is kept."""
        return self.results / self.name

    @property
    def folder(self) -> Path:
        """The result, on this machine."""
        return self.kept.here

    @property
    def demo_data(self) -> Place:
        """Where the demo's data are, or will be."""
        return self.results / DEMO_DATA / "prepared"

    @property
    def prepared(self) -> Path | None:
        """The dataset on this machine, None before it is there: the demo's comes with the first demo."""
        data = (self.data or self.demo_data).here
        return data if (data / MANIFEST).is_file() else None


def make(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Plan:
    """Resolve the command line.

    Raises:
        ValueError: for anything that cannot be run, saying what to do instead.
    """
    results = place(arguments.results or environment.get("SEARCH_RESULTS") or PROJECT / "results")
    if arguments.resume:
        return _resumed(arguments, results)
    if arguments.trial and arguments.config:
        raise ValueError("--trial brings its own configuration; leave out --config")
    data = _data(arguments, environment)
    name = arguments.preset or ("itaca" if data else "demo")
    config = _config(arguments, name)
    # A trial's training anew is no search of its preset, so it is named after the trial.
    kind = f"trial-{arguments.trial.rpartition(':')[2]}" if arguments.trial else name
    result = _new_name(results, arguments.name, kind)
    source = arguments.config or arguments.trial or f"preset {name}"
    return Plan(config, data, results, result, False, _headline(data, f"{source}", config))


def _resumed(arguments: argparse.Namespace, results: Place) -> Plan:
    if not arguments.name:
        raise ValueError("--resume needs --name: which search of the results folder to go on with")
    _check_name(arguments.name)
    given = [name for name in SETTLED if getattr(arguments, name) not in (None, [])]
    if given:
        raise ValueError(f"--resume goes on with the search as it was; leave out --{given[0].replace('_', '-')}")
    file = results / arguments.name / SEARCH_FILE
    if not file.exists():
        raise ValueError(f"{file} does not exist; expected the search to resume, so check --name and --results")
    file.bring()
    name, _ = _earlier_data(file.here)
    data = dataset_at(name) if is_url(name) else place(name)
    headline = f"Resuming search {arguments.name} on {data}."
    return Plan(read_config(file.here), data, results, arguments.name, True, headline)


def _data(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Place | None:
    folder = arguments.data or environment.get("SEARCH_DATA")
    if arguments.trial and not arguments.data:
        folder, _ = _earlier_data(_trial_folder(arguments.trial) / SEARCH_FILE)
    if not folder or (not arguments.trial and arguments.preset == "demo" and not arguments.data):
        if arguments.preset not in (None, "demo"):
            preset(arguments.preset)
            raise ValueError(f"preset {arguments.preset} needs data; give --data DIR, made by data_prep/prepare.py")
        return None
    return dataset_at(folder)


def _config(arguments: argparse.Namespace, name: str) -> SearchConfig:
    config = preset(name)
    if arguments.config:
        config = read_config(arguments.config)
    if arguments.trial:
        config = _one_trial(arguments.trial)
    config = with_settings(config, arguments.set)
    if arguments.max_epochs is not None:
        config = replace(config, training=replace(config.training, max_epochs=arguments.max_epochs))
    given = {key: getattr(arguments, key) for key in ("num_samples", "max_hours", "seed")}
    earlier = [str(Path(result).resolve()) for result in config.warm_start]
    return replace(config, warm_start=earlier, **{key: value for key, value in given.items() if value is not None})


def _trial_folder(text: str) -> Path:
    folder = Path(text.rpartition(":")[0])
    for name in (TRIALS_FILE, SEARCH_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"--trial {text}: {folder / name} does not exist; expected RESULT:ID")
    return folder


def data_of(file: Path) -> Path:
    """The dataset that an earlier search ran on, on this machine."""
    name, digest = _earlier_data(file)
    return copies() / dataset_copy(digest) if is_url(name) else Path(name)


def _earlier_data(file: Path) -> tuple[str, str]:
    """The dataset that an earlier search ran on, as the user had named it, and the checksum of its manifest."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return str(kept["data"]), str(kept.get("dataset"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); expected what an earlier search wrote") from error


def _one_trial(text: str) -> SearchConfig:
    """The configuration of `RESULT:ID` with the parameters of that one trial fixed, without its search's limits."""
    folder, trial_id = _trial_folder(text), text.rpartition(":")[2]
    config = read_config(folder / SEARCH_FILE)
    with (folder / TRIALS_FILE).open(newline="", encoding="utf-8") as file:
        rows = {row.get("trial_id", ""): row for row in csv.DictReader(file)}
    if trial_id not in rows:
        raise ValueError(f"--trial {text}: no such trial in {folder / TRIALS_FILE}; known: {', '.join(rows)}")
    values = {key: parse(value) for key, value in rows[trial_id].items() if key in flat(config.trial)}
    alone = replace(config, space={}, baselines=[], num_samples=1, warm_start=[])
    return with_values(replace(alone, max_hours=0.0, max_cost=0.0, target_score=0.0), values)


def _new_name(results: Place, name: str | None, kind: str) -> str:
    if name is None:
        _check_name(kind)
        numbered = (f"{kind}-{number}" for number in count(1))
        return next(name for name in numbered if not _is_taken(results / name))
    _check_name(name)
    if _is_taken(results / name):
        raise ValueError(f"{results / name} exists already; choose another --name, or --resume to go on with it")
    return name


def _is_taken(kept: Place) -> bool:
    return kept.exists() or kept.here.exists()


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name) or name == DEMO_DATA:
        raise ValueError(f"--name {name!r}: expected the plain name of a folder: letters, digits, '_', '.', '-'")


def _headline(data: Place | None, source: str, config: SearchConfig) -> str:
    if data is None:
        return (
            f"No data given: running the demo, a miniature on made-up records with narrow networks "
            f"({config.model.base_channels} base channels, the paper has 16)."
        )
    narrow = f", narrowed to {config.model.base_channels} base channels" if config.model.base_channels < 16 else ""
    return f"Searching on {data} with {source}{narrow}."


def show(plan: Plan, console: Console) -> None:
    """Print the resolved configuration, the space and what each trial takes."""
    config = plan.config
    table = Table("parameter", "searched over", title="Space", title_justify="left")
    for key, domain in config.domains.items():
        table.add_row(key, escape(str(domain)))
    console.print(table)
    fixed = {key: value for key, value in flat(config).items() if key not in ("space", "baselines", *config.space)}
    table = Table("key", "value", title="Configuration (--set KEY=VALUE changes any)", title_justify="left")
    for key, value in fixed.items():
        table.add_row(key, escape(shown(value, 10)))
    console.print(table)
    if config.baselines:
        runs = [f"run {number + 1}" for number in range(len(config.baselines))]
        table = Table("parameter", *runs, title="Tried first", title_justify="left")
        for key in config.space:
            table.add_row(key, *[shown(point[key], 6) if key in point else "drawn" for point in config.baselines])
        console.print(table)
    resources = config.resources
    console.print(
        f"{config.num_samples} trials of at most {config.training.max_epochs} epochs, "
        f"each with {resources.cpus_per_trial} CPU and {resources.gpus_per_trial:g} GPU; "
        f"{resources.max_concurrent or 'as many as fit'} at once.\n"
        f"The result would be in {shown_place(plan.kept)}.",
        highlight=False,
        markup=False,
    )


def shown_place(kept: Place) -> str:
    """A URL, or a path as short as it can be typed from here."""
    return kept.name if kept.copy else shown_path(kept.here)


def shown_path(path: Path) -> str:
    """A path as short as it can be typed from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
