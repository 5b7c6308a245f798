"""What a search does on a cluster whose machines come and go, and do not share a disk."""

import io

import pytest
from rich.console import Console

from search import cluster
from search.config import ResourcesConfig, SearchConfig
from search.storage import place

ONE_GPU = ResourcesConfig(cpus_per_trial=4, gpus_per_trial=1.0, memory_gb_per_trial=8.0)
SEARCH = SearchConfig(resources=ONE_GPU, num_samples=3)
WORKER = {"Alive": True, "NodeID": "b", "NodeManagerAddress": "10.0.0.2"}
WORKER["Resources"] = {"CPU": 8.0, "GPU": 1.0, "memory": 3e10}
HEAD = {"Alive": True, "NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 0.0, "memory": 1e10}}


@pytest.fixture
def asked(monkeypatch):
    """What is asked of a cluster whose machines come on demand; of its head alone, until one is added."""
    requests = []
    monkeypatch.setattr(cluster, "_grows", lambda: True)
    monkeypatch.setattr(cluster, "request_resources", lambda bundles: requests.append(bundles))
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"GPU": 1.0})
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [HEAD])
    return requests


def test_a_search_waits_for_the_first_machine_that_a_trial_fits_on(asked, monkeypatch):
    def come(_):
        monkeypatch.setattr(cluster.ray, "nodes", lambda: [HEAD, WORKER])

    monkeypatch.setattr(cluster.time, "sleep", come)
    printed = io.StringIO()
    assert cluster.fitting(SEARCH, Console(file=printed)) == ONE_GPU
    assert printed.getvalue() == "Waiting for a machine with 4 CPUs and 1 GPUs to come up ...\n"
    assert asked == [[{"CPU": 4, "GPU": 1.0}], []]


@pytest.mark.parametrize(("allowed", "asked_for"), [(2, 2), (4, 3), (0, 1)])
def test_all_machines_that_may_be_used_are_asked_for_at_once(asked, monkeypatch, tmp_path, allowed, asked_for):
    (tmp_path / "made").write_text(f"max_workers: {allowed}")
    monkeypatch.setattr(cluster, "RAY_UP_MARK", tmp_path / "made")
    monkeypatch.setattr(cluster.time, "sleep", lambda _: monkeypatch.setattr(cluster.ray, "nodes", lambda: [WORKER]))
    cluster.fitting(SEARCH, Console(file=io.StringIO()))
    assert asked == [[{"CPU": 4, "GPU": 1.0}] * asked_for, []]


def test_where_a_trial_fits_already_nothing_is_asked_for(asked, monkeypatch):
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [HEAD, WORKER])
    cluster.fitting(SEARCH, Console(file=io.StringIO()))
    assert asked == []


def test_if_no_machine_comes_it_says_where_to_look(asked, monkeypatch):
    monkeypatch.setattr(cluster, "MOST_WAIT_S", -1.0)
    with pytest.raises(ValueError, match=r"no machine with 4 CPUs and 1 GPUs came up .* see why in .*monitor"):
        cluster.fitting(SEARCH, Console(file=io.StringIO()))
    assert asked[-1] == []


def test_what_only_two_machines_together_have_is_refused(asked, monkeypatch):
    many_cpus = {**WORKER, "NodeID": "c", "Resources": {"CPU": 16.0, "memory": 6e10}}
    monkeypatch.setattr(cluster, "_grows", lambda: False)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [WORKER, many_cpus])
    greedy = ResourcesConfig(cpus_per_trial=12, gpus_per_trial=1.0, memory_gb_per_trial=8.0)
    with pytest.raises(ValueError, match="12 CPUs, 1 GPUs and 8 GB, which machines have, but none has all of them"):
        cluster.fitting(SearchConfig(resources=greedy), Console(file=io.StringIO()))


@pytest.mark.parametrize("seen", [True, False])
def test_a_folder_that_other_machines_do_not_see_is_refused(monkeypatch, tmp_path, seen):
    looked = []

    def unseen_on(node_id, file):
        looked.append((node_id, file.exists()))
        return "" if seen else "no such file"

    monkeypatch.setattr(cluster.ray, "nodes", lambda: [HEAD, WORKER, {**WORKER, "Alive": False, "NodeID": "c"}])
    monkeypatch.setattr(cluster, "_own_node", lambda: "a")
    monkeypatch.setattr(cluster, "_unseen_on", unseen_on)
    folder = tmp_path / "results"
    if seen:
        cluster.check_shared(place(folder))
    else:
        with pytest.raises(ValueError, match=r"\w+ is not seen on machine 10\.0\.0\.2 of the cluster \(no such"):
            cluster.check_shared(place(folder))
    assert looked == [("b", True)]
    assert list(folder.iterdir()) == []


def test_a_folder_comes_into_sight_or_does_not(cluster, tmp_path):
    import ray

    from search.cluster import _own_node, _unseen, _unseen_on

    assert _unseen_on(_own_node(), place(tmp_path)) == ""
    assert _unseen(place(tmp_path) / "missing", 0.0) == "no such file"
    assert len(ray.nodes()) == 1
