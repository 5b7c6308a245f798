"""Search for the hyperparameters of the best generator.

python search/run.py                                    a demo of a few minutes, on any machine
python search/run.py --data DIR                         the full search on a prepared dataset
python search/run.py --data DIR --dry-run               what that would do
"""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from data_prep.command import Parser, run_command
from search import plan


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; every default is decided in `plan.py`."""
    parser = Parser(
        description="Search for the hyperparameters of the best generator of strong-motion records.",
        epilog="Without --data, and without the variable SEARCH_DATA, a demo runs: nothing needed, a few minutes.",
    )
    parser.add_argument("--data", help="folder written by data_prep/prepare.py, or its URL: s3://bucket/folder")
    parser.add_argument("--preset", help="demo or itaca; itaca wherever there are data")
    parser.add_argument("--name", help="name of the result; by default the preset and the next free number")
    parser.add_argument("--results", help="folder or URL of all results (default: $SEARCH_RESULTS, or results/)")
    parser.add_argument("--num-samples", type=int, help="how many configurations to try")
    parser.add_argument("--max-epochs", type=int, help="epochs a configuration is trained for, at most")
    parser.add_argument("--max-hours", type=float, help="end the search after this time and export the best so far")
    parser.add_argument("--seed", type=int, help="seed of proposals and training")
    parser.add_argument("--config", type=Path, help="start from this JSON, such as an earlier result's search.json")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of the configuration or the space; repeatable. Fix a value: model.base_channels=8; search a "
        "range or choices: training.n_critic=[1,5], model.architecture=[seismogen,gated]; give a list its items: "
        "model.conditions=[magnitude,depth]",
    )
    parser.add_argument("--trial", metavar="RESULT:ID", help="train one configuration of an earlier result again")
    parser.add_argument("--resume", action="store_true", help="go on with the interrupted search --name")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")
    return parser.parse_args(arguments)


def main() -> None:
    """The command line."""
    arguments = parse_arguments()
    console = Console(soft_wrap=not sys.stdout.isatty())
    planned = plan.make(arguments, os.environ)
    console.print(planned.headline, highlight=False, markup=False)
    if arguments.dry_run:
        plan.show(planned, console)
        if planned.prepared:
            from search import probe  # here, because torch takes seconds to import

            probe.say_how_long(planned.config, planned.prepared, console)
        return
    from search import session  # here, because Ray and torch take seconds to import

    if not session.run(planned, console):
        sys.exit(130)


if __name__ == "__main__":
    run_command(main)
