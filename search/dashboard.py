"""Save a W&B workspace for searches: scores, parameters, losses, drift, gates, waveforms, and what trials use.

python search/dashboard.py ENTITY/PROJECT [--search NAME]
"""

from typing import TYPE_CHECKING

import wandb

from data_prep.command import Parser, run_command
from search.config import SearchConfig, read_config
from search.plan import PROJECT, SEARCH_FILE
from search.presets import preset
from search.space import Range

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

# A panel for each metric, by section; tracking logs them under these names.
SECTIONS = {
    "Losses": ("loss/critic_distance", "loss/penalty", "loss/generator"),
    "Drift: distance of each moment from the real one": (
        "drift/minimum",
        "drift/maximum",
        "drift/mean",
        "drift/log_std",
        "drift/skewness",
        "drift/log_kurtosis",
    ),
    "Gates": ("gate/normalisation", "gate/slow_motion", "gate/diversity", "gate/coverage", "gate/density"),
    "Parts of the score": (
        "fidelity/log_psd",
        "fidelity/envelope",
        "fidelity/band_envelope",
        "fidelity/duration",
        "fidelity/coupling",
        "fidelity/embedding",
        "fidelity/conditions",
        "fidelity/crest",
        "fidelity/response_spectrum",
    ),
    "Workers": ("worker/steps_per_s", "memory_gb", "worker/gpu_utilisation", "worker/wait_s", "seconds"),
}
LOGARITHMIC = ("score", "fidelity/")
BEST_SCORE = "best_score"
PICTURE = "waveforms"


def workspace(entity: str, project: str, config: SearchConfig, search: str | None = None) -> "Workspace":
    """The workspace of one search, or of all in a project, with the parameters that `config` searches; not saved yet.

    Raises:
        ValueError: the package wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces.expr import And, Metric
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; expected what `make search` installs: run it once") from error

    def line(metric: str) -> wr.LinePlot:
        return wr.LinePlot(title=metric, x="epoch", y=[metric], log_y=metric.startswith(LOGARITHMIC))

    columns = [
        wr.ParallelCoordinatesPlotColumn(wr.Config(key), log=isinstance(domain, Range) and domain.log)
        for key, domain in config.domains.items()
    ]
    score = wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(BEST_SCORE), log=True, inverted=True)
    trials = [
        wr.ScatterPlot(title="score by trial", x=wr.Config("trial"), y=wr.SummaryMetric(BEST_SCORE), log_y=True),
        line("score"),
        wr.ParallelCoordinatesPlot(title="parameters and score", columns=[*columns, score]),
    ]
    pictures = wr.MediaBrowser(title="generated beside real", media_keys=[PICTURE])
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"Search {search}" if search else "Searches",
        sections=[
            ws.Section(name="Trials", panels=trials, is_open=True),
            ws.Section(name="Waveforms", panels=[pictures], is_open=True),
            *(ws.Section(name=name, panels=[line(metric) for metric in panels]) for name, panels in SECTIONS.items()),
        ],
        runset_settings=ws.RunsetSettings(filters=And(Metric("Group") == search) if search else []),
    )


def save(target: str, search: str | None) -> None:
    """Save the workspace to the service; W&B prints where it is.

    Raises:
        ValueError: for a target that is none, without an account, or if the service refuses.
    """
    from search.tracking import has_account  # here, because Ray takes seconds to import

    entity, _, project = target.partition("/")
    if not entity or not project or "/" in project:
        raise ValueError(f"'{target}' is no project; expected ENTITY/PROJECT, such as my-team/seismogen-search")
    file = PROJECT / "results" / (search or "") / SEARCH_FILE
    made = workspace(entity, project, read_config(file) if file.is_file() else preset("itaca"), search)
    if not has_account():
        raise ValueError("no W&B account is known on this machine; log in first: wandb login")
    try:
        made.save()
    except wandb.Error as error:
        raise ValueError(f"W&B did not save the workspace to {target}: {error}") from error


def main() -> None:
    """The command line."""
    parser = Parser(description="Save a W&B workspace that shows searches.")
    parser.add_argument("target", metavar="ENTITY/PROJECT", help="where the runs are, such as my-team/seismogen-search")
    parser.add_argument("--search", metavar="NAME", help="show the trials of this search alone (results/NAME)")
    args = parser.parse_args()
    save(args.target, args.search)


if __name__ == "__main__":
    run_command(main)
