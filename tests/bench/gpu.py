"""Show on a GPU that its ways to train compute the same, and how fast each is.

    python tests/bench/gpu.py [--length 8000 --latent 800 --batch 16]

Needs torch and numpy alone. One iteration is five steps of the critic and one of the generator, on windows of 40 s.

- `waits`: whether a step waits for the GPU, by torch's own check; false is as it should be.
- `graph_error_float64`: weights, averages and running statistics after iterations launched as CUDA graphs, beside the
  same steps launched kernel by kernel, in float64: of every tensor the largest absolute difference over the largest
  absolute value, the worst of all tensors. `graph_error`: gradients of one step in float32.
- `tf32_error`, `bf16_error`: length of the difference from float32's gradient over the gradient's length, for every
  weight of both networks from the same state: the median and the worst. (Biases have gradients that nearly cancel.)
- `iterations_per_s` of each mode, `vs_reference` beside `plain_wgan_gp.py` in the same run (torch rounds its
  convolutions in tf32, if nothing else is said), `memory_gb` at its peak.
- `roofline_share`: the least time in which the GPU can move and multiply what an iteration reads, writes and multiplies
  operator by operator, by its measured bandwidth and peak, over the time it takes; 1 is all that can be had without
  joining operators.
- `trials`, `trials_mps`: iterations a second of so many trainings at once, together, computing as a search does if
  nothing else is said, without and with NVIDIA's Multi-Process Service.

The last line is JSON. On a CPU (`--device cpu`) what it can do is shown, to try the script out.
"""

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from roofline import Roofline, calls_per_s, wait
from torch import Tensor
from train_step import SECONDS, machine
from twins import NO_RATE, SEED, Tensors, difference, make_twins, precision

from trainables import mps
from trainables.config import ModelConfig, TrainingConfig, TrialConfig, with_values
from trainables.gan import Gan
from trainables.graphs import WARM_UP, Buffered
from trainables.methods import methods_of
from trainables.precision import computing_in

# Iterations of the comparison in float64, more than warm up; and windows a batch there.
ITERATIONS, FEW = WARM_UP + 2, 4
PATIENCE_S = 300  # with processes that share the GPU


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    device = torch.device(options.device)
    training = TrainingConfig(batch_size=options.batch, precision="float32", cuda_graphs=False)
    config = TrialConfig(ModelConfig(latent_dim=options.latent, base_channels=options.base), training)
    print(machine(options.device), flush=True)
    bench = Bench(config, options.length, device, options.seconds)
    figures: dict[str, Any] = {}
    if device.type == "cuda":
        figures |= bench.graphs()
    figures |= bench.precisions()
    figures |= bench.speeds()
    figures["trials"] = {str(count): bench.together(count) for count in options.trials}
    if trouble := mps.start():
        print(f"without MPS: {trouble}")
    else:
        figures["trials_mps"] = {str(count): bench.together(count) for count in options.trials}
    print(json.dumps(rounded(figures)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Show on a GPU that its ways to train compute the same, and how fast each is.",
        epilog="JSON, last line; the file's beginning explains it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--length", type=int, default=8000, metavar="N", help=f"samples a window, which lasts {SECONDS} s")
    add("--latent", type=int, default=800, metavar="N", help="size of the latent vector")
    add("--batch", type=int, default=16, metavar="N", help="windows a batch")
    add("--base", type=int, default=16, metavar="N", help="base channels of both networks")
    add("--seconds", type=float, default=5.0, metavar="S", help="to time each mode for")
    add("--trials", type=int, nargs="*", default=[1, 2, 4], metavar="N", help="so many trainings at once")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="where to compute")
    return parser


class Bench:
    """All measurements of one configuration on one device."""

    def __init__(self, config: TrialConfig, length: int, device: torch.device, seconds: float):
        self.config, self.length, self.device, self.seconds = config, length, device, seconds

    def modes(self) -> list[tuple[str, bool]]:
        """Precisions, each launched kernel by kernel or as a graph, that the device has."""
        if self.device.type == "cpu":
            return [("float32", False), ("bf16", False)]
        return [(name, graphs) for name in ("float32", "tf32", "bf16") for graphs in (False, True)]

    def gan(self, **training: Any) -> Gan:
        """A training with these settings."""
        config = with_values(self.config, {f"training.{name}": value for name, value in training.items()})
        return Gan(config, self.length, self.length / SECONDS, self.device)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """White noise, half of it labelled 1."""
        rng = torch.Generator().manual_seed(SEED)
        wave = torch.randn(count, 3, self.length, generator=rng)
        return wave.to(self.device), (torch.arange(count)[:, None] % 2).to(wave).to(self.device)

    def iterate(self, gan: Gan) -> None:
        """One iteration, with a batch of the size that the training is configured for."""
        wave, label = self.batch(gan.config.training.batch_size)
        iterate(gan, wave, label)

    def graphs(self) -> dict[str, Any]:
        """Whether steps wait, and whether a graph computes what its function does."""
        gan = self.gan()
        wave, label = self.batch(self.config.training.batch_size)
        iterate(gan, wave, label)
        waits = does_wait(partial(iterate, gan, wave, label))
        still = {"critic_lr": NO_RATE, "generator_lr": NO_RATE, "n_critic": 1}
        with precision(torch.float32):
            step_error = difference(*(self.gradients(gan) for gan in self.pair(**still)))
        with precision(torch.float64):
            state_error = difference(*(self.states(gan) for gan in self.pair(batch_size=FEW, n_critic=1)))
        print(f"a step waits: {waits}; graphs: {step_error:.1e} off in a step, {state_error:.1e} in {ITERATIONS}")
        return {"waits": waits, "graph_error": step_error, "graph_error_float64": state_error}

    def pair(self, **training: Any) -> tuple[Gan, Gan]:
        """The same training by graphs and kernel by kernel, the second told its rates in float32 as graphs are."""
        by_kernels = self.gan(**training, convolution="direct")
        by_kernels._launch_critic, by_kernels._launch_generator = Buffered(self.device), Buffered(self.device)
        return self.gan(**training, convolution="direct", cuda_graphs=True), by_kernels

    def states(self, gan: Gan) -> Tensors:
        """Everything that a few iterations leave in the networks."""
        for _ in range(ITERATIONS):
            self.iterate(gan)
        gan.tally.read()
        parts = {"generator": gan.generator, "critic": gan.critic, "averaged": gan.averaged}
        return {f"{part}.{name}": x for part, net in parts.items() for name, x in net.state_dict().items()}

    def gradients(self, gan: Gan) -> Tensors:
        """Of one step of each network, after some that change nothing; the same random numbers each time."""
        for _ in range(ITERATIONS):
            gan.rng.manual_seed(SEED)
            self.iterate(gan)
        gan.tally.read()
        parts = {"generator": gan.generator, "critic": gan.critic}
        named = {f"{part}.{name}": p.grad for part, net in parts.items() for name, p in net.named_parameters()}
        return {name: gradient.clone() for name, gradient in named.items() if gradient is not None}

    def precisions(self) -> dict[str, Any]:
        """How far gradients are from float32's."""
        still, figures = {"critic_lr": NO_RATE, "generator_lr": NO_RATE, "n_critic": 1, "convolution": "direct"}, {}
        expected = self.gradients(self.gan(**still))
        for name in dict.fromkeys(name for name, _ in self.modes() if name != "float32"):
            found = self.gradients(self.gan(**still, precision=name))
            weights = {key: gradient for key, gradient in expected.items() if not key.endswith("bias")}
            errors = {key: float((found[key] - g).norm() / g.norm()) for key, g in weights.items()}
            worst = max(errors, key=lambda key: errors[key])
            median = sorted(errors.values())[len(errors) // 2]
            print(f"{name}: gradients {median:.1e} off, at most {errors[worst]:.1e} ({worst})", flush=True)
            figures[f"{name}_error"] = {"median": median, "worst": errors[worst]}
        return figures

    def speeds(self) -> dict[str, Any]:
        """Iterations a second of each mode and of the reference, memory, and the share of the roofline."""
        figures: dict[str, Any] = {"iterations_per_s": {}, "vs_reference": {}, "memory_gb": {}, "roofline_share": {}}
        twins = make_twins(self.config, self.length, self.length / SECONDS, str(self.device))
        with computing_in("float32"):
            exact = calls_per_s(self.device, self.seconds, twins.plain_iteration)
        reference = calls_per_s(self.device, self.seconds, twins.plain_iteration)
        print(f"reference {reference:14.2f} iterations/s, {exact:.2f} without rounding in tf32", flush=True)
        figures["iterations_per_s"] |= {"reference": reference, "reference float32": exact}
        for name, graphs in self.modes():
            mode = name + " graphs" * graphs
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            gan = self.gan(precision=name, cuda_graphs=graphs)
            wave, label = self.batch(self.config.training.batch_size)
            rate = calls_per_s(self.device, self.seconds, partial(iterate, gan, wave, label))
            memory = torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else 0.0
            share = self.least_seconds(name) * rate
            print(
                f"{mode:16s} {rate:8.2f} iterations/s, {rate / reference:.2f} x the reference, {share:.2f} of the "
                f"roofline, {memory:.1f} GB, long convolutions: {', '.join(methods_of(gan.generator))}",
                flush=True,
            )
            for key, value in zip(figures, (rate, rate / reference, memory, share), strict=True):
                figures[key][mode] = value
        return figures

    def least_seconds(self, name: str) -> float:
        """Of an iteration, if the device moved and multiplied at its peak all the time."""
        gan = self.gan(precision=name)
        self.iterate(gan)  # what is made once
        with Roofline(self.device, name) as least:
            self.iterate(gan)
        return least.seconds

    def together(self, count: int) -> float:
        """Iterations a second of so many trainings at once, in processes of their own, launched as graphs."""
        spawn = get_context("spawn")
        start, rates = spawn.Barrier(count), spawn.Queue()
        arguments = (self.config, self.length, self.device, self.seconds, start, rates)
        processes = [spawn.Process(target=train_alone, args=arguments) for _ in range(count)]
        for process in processes:
            process.start()
        total: float = sum(rates.get(timeout=PATIENCE_S) for _ in processes)
        for process in processes:
            process.join()
        service = " with MPS" * (mps.PIPES in os.environ)
        print(f"{count} trainings at once{service}: {total:.2f} iterations/s", flush=True)
        return total


def iterate(gan: Gan, wave: Tensor, label: Tensor) -> None:
    """`n_critic` steps of the critic and one of the generator."""
    for _ in range(gan.config.training.n_critic):
        gan.critic_step(wave, label)
    gan.generator_step(label)


def train_alone(config: TrialConfig, length: int, device: torch.device, seconds: float, start: Any, rates: Any) -> None:
    """What a process does that shares the device with others: begin with them and tell how fast it went."""
    bench = Bench(config, length, device, seconds)
    usual = TrainingConfig()
    gan = bench.gan(precision=usual.precision, cuda_graphs=usual.cuda_graphs)
    work = partial(iterate, gan, *bench.batch(config.training.batch_size))
    for _ in range(WARM_UP + 1):
        work()
    wait(device)
    start.wait(PATIENCE_S)
    rates.put(calls_per_s(device, seconds, work))


def does_wait(work: Callable[[], None]) -> bool:
    """Whether any operator makes the processor wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError as error:
        print(f"waits: {error}", flush=True)
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def rounded(value: Any) -> Any:
    """Numbers to four digits."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
