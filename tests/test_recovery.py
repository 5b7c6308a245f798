"""A trial whose process fails goes on from its last checkpoint, and alone if it had no memory beside others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainables import trainable

# A cluster with a pretended GPU, of its own: that of the other tests has none.
SEARCH = """
import json, sys
from pathlib import Path
import ray, torch
from search import tuner
from search.config import ResourcesConfig, SearchConfig
from tests.made_up import last_epoch_sent, report, send
from trainables.trainable import own_gpus

def run_trial(parameters, *, gpus, **_):
    for epoch in range(last_epoch_sent() + 1, 4):
        if epoch == 2 and own_gpus(gpus) < 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        send(report(epoch, 3, 1.0, gpus=own_gpus(gpus)))

quiet = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 10**8}
ray.init(address="local", num_cpus=2, num_gpus=1, **quiet)
tuner.run_trial = run_trial
resources = ResourcesConfig(gpus_per_trial=0.5, memory_gb_per_trial=0.1)
config = SearchConfig(resources=resources, space={}, num_samples=2)
tuner.run_search(config, Path(sys.argv[1]), Path(sys.argv[2]), [], resume=False)
"""


@pytest.mark.slow
@pytest.mark.all
def test_a_trial_without_memory_beside_another_goes_on_alone(prepared, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", SEARCH, prepared, tmp_path]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    files = list(tmp_path.glob("tune/*/result.json"))
    assert len(files) == 2
    for file in files:
        reports = [json.loads(line) for line in file.read_text().splitlines()]
        assert [(report["epoch"], report["gpus"]) for report in reports] == [(1, 0.5), (2, 1.0), (3, 1.0)]


@pytest.mark.parametrize("shared", [True, False])
def test_only_beside_others_is_no_memory_no_answer(monkeypatch, shared):
    reported = []
    session = type("Session", (), {"report": lambda self, metrics, checkpoint: reported.append(metrics)})
    monkeypatch.setattr(trainable, "_session", session)
    monkeypatch.setattr(trainable, "best_epoch", lambda best, gan: {"history": [{"score": 1.0}]})
    monkeypatch.setattr(trainable.workers, "rank", lambda: 1)
    report = trainable._reporter(None, "", lambda gan, seconds: {}, shared)
    metrics = {"stop_reason": "out of memory: 9 GB", "seconds": 1.0}
    if shared:
        with pytest.raises(torch.OutOfMemoryError, match="out of memory: 9 GB"):
            report(metrics, None)
    else:
        report(metrics, None)
        assert reported[0]["stop_reason"] == "out of memory: 9 GB"
