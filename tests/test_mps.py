"""What lets processes share a GPU: started once, ended with the process that started it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainables import mps

# Takes the service's place: tells what it was called with, and where its clients would look for it.
STAND_IN = '#!/bin/sh\necho "$@ $(cat) in $CUDA_MPS_PIPE_DIRECTORY" >> "$MPS_CALLS"\n$MPS_TROUBLE'
PROGRAM = """
from trainables import mps
import os
print({} or os.environ.get("CUDA_MPS_PIPE_DIRECTORY"))
"""


@pytest.fixture
def run(tmp_path):
    """Runs lines of Python where the service is a stand-in; gives where clients would look, and the service's calls."""
    calls, service = tmp_path / "calls", tmp_path / mps.CONTROL
    service.write_text(STAND_IN)
    service.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in (mps.PIPES, mps.LOGS)}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MPS_CALLS": str(calls)}

    def run_lines(lines, **more):
        program = [sys.executable, "-c", PROGRAM.format(lines)]
        root = Path(mps.__file__).parents[1]
        ended = subprocess.run(
            program, env=environment | more, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert not ended.stderr
        return ended.stdout.strip(), calls.read_text().splitlines() if calls.exists() else []

    return run_lines


def test_the_service_starts_for_this_process_s_children_and_ends_with_it(run):
    pipes, calls = run("mps.start() or mps.start()")
    assert calls == [f"-d  in {pipes}", f" quit -t 10 in {pipes}"]
    assert not Path(pipes).exists()


def test_a_service_that_runs_is_used(run):
    assert run("mps.start()", CUDA_MPS_PIPE_DIRECTORY="/elsewhere") == ("/elsewhere", [])


def test_where_there_is_no_service_that_is_told(run):
    assert run("mps.start()", PATH="/nowhere") == ("there is no nvidia-cuda-mps-control", [])


def test_a_service_that_does_not_start_is_told_of_and_not_looked_for(run):
    told, calls = run("mps.start() + ', ' + str(os.environ.get(mps.PIPES))", MPS_TROUBLE="exit 3")
    assert told == "nvidia-cuda-mps-control ended with status 3, None"
    assert len(calls) == 1


def test_a_process_alone_on_its_gpu_finds_none(run):
    pipes, calls = run("mps.start() or mps.leave()")
    assert pipes == os.devnull
    assert len(calls) == 2
