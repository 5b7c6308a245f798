"""A search on a cluster of several machines that loses one of them, as spot machines are lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pandas as pd
import pytest

from search.line_log import reports_by_trial

SEARCH = Path(__file__).with_name("made_up.py")
TRIALS, EPOCHS, LIMIT_S = 4, 40, 300
# A head that runs no trials, and two machines with a pretended GPU each; one is lost at each line of input.
MACHINES = """
import sys
from ray.cluster_utils import Cluster

store = {"object_store_memory": 10**8}
head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, **store}
cluster = Cluster(initialize_head=True, head_node_args=head)
workers = [cluster.add_node(num_cpus=1, num_gpus=1, **store) for _ in range(2)]
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for _ in sys.stdin:
    cluster.remove_node(workers.pop(), allow_graceful=False)
cluster.shutdown()
"""


@pytest.fixture
def machines():
    """The process that holds the machines; its output begins with their address."""
    with subprocess.Popen([sys.executable, "-c", MACHINES], stdin=PIPE, stdout=PIPE, text=True) as process:
        yield process


@pytest.fixture
def search(machines, prepared, tmp_path):
    """The command, at work on that cluster."""
    arguments = ["--data", prepared, "--preset", "demo", "--results", tmp_path, "--name", "x"]
    arguments += ["--num-samples", TRIALS, "--max-epochs", EPOCHS]
    for setting in ("resources.gpus_per_trial=1", "scheduler.name=none", "finalists.count=0", "wandb.mode=disabled"):
        arguments += ["--set", setting]
    environment = {
        **os.environ,
        "RAY_ADDRESS": machines.stdout.readline().strip(),
        "PYTHONPATH": str(SEARCH.parents[1]),
    }
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, SEARCH, *map(str, arguments)], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    yield process
    process.kill()
    process.wait()


def wait_until_both_report(process, folder):
    """Until a trial on each of the two machines has reported twice."""
    while process.poll() is None and sum(len(reports) > 1 for reports in reports_by_trial(folder).values()) < 2:
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue


def processes(folder):
    """Of each trial, the processes that it has reported from."""
    for file in folder.glob("tune/*/result.json"):
        yield {json.loads(line)["pid"] for line in file.read_text().splitlines()}


@pytest.mark.all
def test_a_lost_machine_costs_no_trial(machines, search, tmp_path):
    folder = tmp_path / "x"
    wait_until_both_report(search, folder)
    before = reports_by_trial(folder)
    print(file=machines.stdin, flush=True)
    assert search.wait(LIMIT_S) == 0, (tmp_path / "output.txt").read_text()
    table = pd.read_csv(folder / "trials.csv")
    assert table["trial_id"].is_unique
    assert list(table["state"]) == ["complete"] * TRIALS
    after = reports_by_trial(folder)
    assert set(before) <= set(after) == set(table["trial_id"])
    assert sorted(map(len, processes(folder))) == [1] * (TRIALS - 1) + [2]
