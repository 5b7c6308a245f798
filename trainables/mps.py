"""NVIDIA's Multi-Process Service: with it, processes that share a GPU compute at once instead of taking turns."""

import atexit
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
# Where a process looks for the service, and where it looks if that is not set.
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
USUAL_PIPES = Path("/tmp/nvidia-mps")
# How long processes that still use a GPU are waited for at the end.
PATIENCE_S = 10


def start() -> str:
    """Start the service for the processes that this one starts; it ends with this one. One that runs already will do.

    Returns:
        Why there is none; empty if there is.
    """
    if PIPES in os.environ or USUAL_PIPES.exists():
        return ""
    if not shutil.which(CONTROL):
        return f"there is no {CONTROL}"
    folder = tempfile.mkdtemp(prefix="mps-")
    places = {PIPES: folder, LOGS: folder}
    done = subprocess.run([CONTROL, "-d"], env=os.environ | places, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(folder)
        return " ".join((done.stdout + done.stderr).split()) or f"{CONTROL} ended with status {done.returncode}"
    os.environ |= places
    atexit.register(_end, folder)
    return ""


def _end(folder: str) -> None:
    ending = f"quit -t {PATIENCE_S}\n"
    subprocess.run([CONTROL], input=ending, text=True, check=True, capture_output=True, timeout=2 * PATIENCE_S)
    shutil.rmtree(folder)


def leave() -> None:
    """Compute without the service in this process, which has its GPU for itself; before it first uses the GPU.

    Trainings alone on a GPU are up to a tenth faster without.
    """
    os.environ[PIPES] = os.devnull
