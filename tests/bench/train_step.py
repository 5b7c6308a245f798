"""Time a training iteration against a plain WGAN-GP, and compare what both compute.

    python tests/bench/train_step.py [--length 8000 --latent 800 --batch 16 --device cpu|cuda]

Our training and `plain_wgan_gp.py` (direct convolutions, three pipelines one after another, three passes of the critic,
autograd alone) have the same weights, see the same batch of 40 s and draw the same random numbers, in one process. An
iteration is five steps of the critic and one of the generator.

- `vs_reference`: its time over ours, in turns, best of the rounds; `reference_s`: its time.
- `max_rel_error`: outputs and gradients of one step of each network from the same state, in float32; of every tensor
  the largest absolute difference over the largest absolute value, the worst of all tensors. Gradients of rectifiers
  jump where an input is within rounding of zero, so the state is one where none is: `twins.py` says how, `kink_margin`
  is the least distance from zero in rounding errors.
- `max_rel_error_at_kinks`: the same with ordinary initial weights. `reference_at_kinks` is what it is worth: the plain
  reference against itself, computed in another order (oneDNN or cuDNN off).
- `step_error_float64`, `state_error_float64`: the same with ordinary initial weights in float64, where no such care is
  needed; and weights, running statistics and optimisers after three iterations. Two windows, for time's sake.
- `peak_rss_ratio`: peak memory of a process that takes a step of each network, ours over the reference's.
- `vs_other`: time over ours of another plain implementation, if `--other` names a file that has
  `Generator(length, latent)`, `Critic(length)` and `iteration(generator, critic, optimisers…, real, label, latent)`.

The last line is JSON.
"""

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch
from twins import Twins, clear_kinks, difference, make_twins, margin, our_step, plain_step, precision, state_error
from twins import step_error as error_of_step

from trainables.config import ModelConfig, TrainingConfig, TrialConfig, with_values
from trainables.methods import methods_of

SECONDS = 40
ITERATIONS, FEW = 3, 2  # of the comparison in float64: iterations, and windows a batch
LEAST_MARGIN = 1.0  # of a rectifier's input from zero, in rounding errors


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    config = TrialConfig(ModelConfig(latent_dim=options.latent), TrainingConfig(batch_size=options.batch))
    if options.peak:
        print(peak_bytes(options.peak, config, options.length, options.device))
        return
    print(machine(options.device), flush=True)
    figures = compare(config, options.length, options.device)
    figures |= memory(options)
    figures |= speed(config, options)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time a training iteration against a plain WGAN-GP, and compare what both compute.",
        epilog="JSON, last line: vs_reference (plain / ours), larger is better; reference_s; the errors; "
        "peak_rss_ratio (ours / plain), smaller is better. The file's beginning explains them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--length", type=int, default=8000, metavar="N", help=f"samples a window, which lasts {SECONDS} s")
    add("--latent", type=int, default=800, metavar="N", help="size of the latent vector")
    add("--batch", type=int, default=16, metavar="N", help="windows a batch")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute")
    add("--rounds", type=int, default=2, metavar="N", help="take turns N times; the best time of each counts")
    add("--other", type=Path, metavar="FILE", help="another plain implementation to time, too")
    add("--peak", choices=("ours", "reference"), help=argparse.SUPPRESS)  # what a process of its own measures
    return parser


def machine(device: str) -> str:
    """Processor, cores, version and threads of torch, device."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    where = torch.cuda.get_device_name() if device == "cuda" else device
    return (
        f"machine: {names[0] if names else platform.machine()}, {len(names)} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {where}"
    )


def compare(config: TrialConfig, length: int, device: str) -> dict[str, float]:
    """The errors of the last line."""
    make = partial(make_twins, samples=length, fs_hz=length / SECONDS, device=device)
    with precision(torch.float32):
        twins = make(config, still=True)
        ours, plain = our_step(twins), plain_step(twins)
        at_kinks = difference(ours, plain), difference(_in_another_order(twins, device), plain)
        clear_kinks(twins)
        figures = {"max_rel_error": error_of_step(twins), "kink_margin": margin(twins)}
    assert figures["kink_margin"] > LEAST_MARGIN, f"a rectifier's input is within rounding of zero: {figures}"
    figures |= {"max_rel_error_at_kinks": at_kinks[0], "reference_at_kinks": at_kinks[1]}
    few = with_values(config, {"training.batch_size": FEW})
    with precision(torch.float64):
        figures["step_error_float64"] = error_of_step(make(few, still=True))
        figures["state_error_float64"] = state_error(make(few), ITERATIONS)
    print(
        "one step, float32: {max_rel_error:.1e} off, no rectifier nearer to its kink than {kink_margin:.1f} rounding "
        "errors\n  with ordinary weights: {max_rel_error_at_kinks:.1e}, where the reference in another order is "
        "{reference_at_kinks:.1e} off itself\nfloat64: one step {step_error_float64:.1e} off, "
        "{iterations} iterations {state_error_float64:.1e}".format(iterations=ITERATIONS, **figures),
        flush=True,
    )
    return figures


def _in_another_order(twins: Twins, device: str) -> dict[str, torch.Tensor]:
    """A step of the plain networks without the library that usually computes convolutions."""
    other: AbstractContextManager[None] = torch.backends.mkldnn.flags(enabled=False)
    if device == "cuda":
        other = torch.backends.cudnn.flags(enabled=False)
    with warnings.catch_warnings(action="ignore"), other:  # of settings that this machine does not have
        return plain_step(twins)


def memory(options: argparse.Namespace) -> dict[str, float]:
    """Peak memory of ours over the reference's, each measured in a process of its own."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("length", "latent", "batch", "device")]
    peaks = []
    for contestant in ("ours", "reference"):
        command = [sys.executable, __file__, *sizes, f"--peak={contestant}"]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print("peak memory: ours {:.0f} MB, reference {:.0f} MB".format(*(peak / 1e6 for peak in peaks)))
    return {"peak_rss_ratio": peaks[0] / peaks[1]}


def peak_bytes(contestant: str, config: TrialConfig, length: int, device: str) -> int:
    """Peak memory of this process, or of it on the GPU, after one step of each network; more steps need no more."""
    config = with_values(config, {"training.n_critic": 1})
    if contestant == "reference":  # which has nothing to measure and choose
        config = with_values(config, {"training.convolution": "direct"})
    twins = make_twins(config, length, length / SECONDS, device)
    (twins.our_iteration if contestant == "ours" else twins.plain_iteration)()
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # Not `getrusage`: a process inherits the peak of the one that started it.
    return next(1024 * int(line.split()[1]) for line in _lines("/proc/self/status") if line.startswith("VmHWM"))


def speed(config: TrialConfig, options: argparse.Namespace) -> dict[str, float]:
    """Let the contestants take turns and print their times."""
    twins = make_twins(config, options.length, options.length / SECONDS, options.device)
    print("long convolutions:", ", ".join(methods_of(twins.ours.generator)))
    contestants = {"ours": twins.our_iteration, "reference": twins.plain_iteration}
    if options.other:
        contestants["other"] = _other(options.other, options, twins)
    seconds = take_turns(contestants, options.rounds, options.device)
    return {
        "reference_s": seconds["reference"],
        **{f"vs_{name}": value / seconds["ours"] for name, value in seconds.items() if name != "ours"},
    }


def take_turns(contestants: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Best wall time of each in seconds, all of them run in every round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(1 + rounds):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    for name, (_, *values) in times.items():
        print(f"{name:10s} best {min(values):6.2f} s of " + ", ".join(f"{value:.2f}" for value in values))
    return {name: min(values) for name, (_, *values) in times.items()}


def _other(path: Path, options: argparse.Namespace, twins: Twins) -> Callable[[], None]:
    """An iteration of the implementation in a file."""
    spec = importlib.util.spec_from_file_location("other", path)
    if spec is None or spec.loader is None:
        sys.exit(f"error: {path} is no Python file; expected one")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    networks = [module.Generator(options.length, options.latent), module.Critic(options.length)]
    networks = [network.to(options.device) for network in networks]
    optimisers = [torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.5, 0.9)) for network in networks]
    return partial(module.iteration, *networks, *optimisers, twins.real, twins.label, options.latent)


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
