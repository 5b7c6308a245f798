"""A step needs nothing back from the device, can be repeated as it stands, and may be computed in less precision."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.config import ARCHITECTURES, TrainingConfig, with_values
from trainables.gan import Gan
from trainables.graphs import Buffered, uses_graphs
from trainables.losses import generator_loss, gradient_penalty
from trainables.precision import computing_in, reduced
from trainables.tally import DivergedError, Tally

CPU = torch.device("cpu")
SAMPLES, FS_HZ, BATCH = 400, 40.0, 8
# What has to wait for a GPU to give its result, or the shape of it, to the processor that launched it.
WAITING = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "bincount"}
# The same of a tensor's methods.
READING = ("__bool__", "__float__", "__int__", "cpu", "item", "numpy", "tolist")
# Of the length of a gradient: bf16 keeps 8 bits, and where a rectifier's input is within their rounding of zero, its
# gradient jumps. Without the second derivatives it would be 1.
BF16_ERROR = {"gated": 0.05, "seismogen": 0.3}


def make(config, architecture, **training):
    values = {f"training.{name}": value for name, value in training.items()}
    return Gan(with_values(config, {"model.architecture": architecture, **values}), SAMPLES, FS_HZ, CPU)


def batch():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, 3, SAMPLES, generator=rng), (torch.arange(BATCH)[:, None] % 2).float()


def iterate(gan, times=2):
    wave, label = batch()
    for _ in range(times):
        gan.critic_step(wave, label)
        gan.generator_step(label)


class Called(TorchDispatchMode):
    """Notes the operators that are called, and masks that are used as an index."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        self.names.add("nonzero" if mask else name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("convolution", ["direct", "spectral"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_waits_for_nothing_that_the_device_computes(trial_config, architecture, convolution, monkeypatch):
    gan, read = make(trial_config, architecture, convolution=convolution), []
    for name in READING:
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda *args, name=name, method=method: read.append(name) or method(*args)
        )
    with Called() as called:
        iterate(gan)
    assert "_fused_adam_" in called.names
    assert not called.names & WAITING
    assert not read
    with Called() as called:
        torch.ones(2)[torch.ones(2) > 0].sum().item()
        gan.tally.read()
    assert called.names & WAITING == {"_local_scalar_dense", "nonzero"}  # this is what would be noticed
    assert read == ["item", "tolist"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_on_memory_that_stays_are_the_same_steps(trial_config, architecture):
    # Rates and a memory of the average that float32 holds exactly, as they are told in float32.
    settings = {"critic_lr": 2.0**-10, "generator_lr": 2.0**-9, "n_critic": 1, "ema_half_life": 8.0}
    gan, other = (make(trial_config, architecture, **settings) for _ in range(2))
    other._launch_critic, other._launch_generator = Buffered(CPU), Buffered(CPU)
    gan.samples = other.samples = 1000
    iterate(gan, 4)
    iterate(other, 4)
    assert gan.tally.read() == other.tally.read()
    for part in ("generator", "critic", "averaged"):
        state = getattr(other, part).state_dict()
        assert all(torch.equal(value, state[name]) for name, value in getattr(gan, part).state_dict().items()), part


def test_a_repeated_step_is_told_a_new_rate(trial_config):
    gan = make(trial_config, "seismogen", lr_half_life=float(BATCH))
    gan._launch_critic, rates = Buffered(CPU), []
    for _ in range(3):
        gan.critic_step(*batch())
        rates.append(float(gan.critic_optimiser.param_groups[0]["lr"]))
    assert rates == pytest.approx([gan.config.training.critic_lr * 0.5**n for n in range(3)])


@pytest.mark.parametrize("culprit", ["critic", "generator"])
def test_from_the_first_number_that_is_none_no_step_is_taken(trial_config, culprit):
    gan = make(trial_config, "seismogen")
    iterate(gan)
    gan.tally.read()
    wave, label = batch()
    if culprit == "critic":
        gan.critic_step(wave * float("nan"), label)
    else:
        gan.generator_step(label * float("inf"))
    before = [p.clone() for network in (gan.critic, gan.generator) for p in network.parameters()]
    iterate(gan)
    after = [p for network in (gan.critic, gan.generator) for p in network.parameters()]
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(before, after, strict=True))
    for _ in range(2):
        with pytest.raises(DivergedError, match=f"^non-finite {culprit} loss or gradient$"):
            gan.tally.read()


def test_a_tally_gives_each_loss_s_mean_since_it_was_last_read():
    tally = Tally(CPU)
    for value in (1.0, 2.0, 6.0):
        tally.add(critic_distance=torch.tensor(value), penalty=torch.tensor(10 * value))
    tally.add(generator=torch.tensor(4.0))
    assert tally.read() == {"loss/critic_distance": 3.0, "loss/penalty": 30.0, "loss/generator": 4.0}
    tally.add(penalty=torch.tensor(5.0))
    assert tally.read() == {"loss/penalty": 5.0}


def assert_close(found, expected, error):
    """Gradients of all tensors, in length; those that are zero are zero in both."""
    errors = [float((a - b).norm() / (b.norm() or 1)) for a, b in zip(found, expected, strict=True)]
    assert 0 < max(errors) < error
    assert all(gradient.dtype == torch.float32 for gradient in found)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_bf16_a_penalty_s_second_derivatives_are_those_of_float32(trial_config, architecture):
    gan, (wave, label) = make(trial_config, architecture), batch()
    fake, share = torch.randn(wave.shape, generator=torch.Generator().manual_seed(1)), torch.full((BATCH,), 0.5)

    def gradients(precision):
        with computing_in(precision):
            penalty = gradient_penalty(gan.critic.given(label), wave, fake, share)
            assert penalty.dtype == torch.float32
            return torch.autograd.grad(penalty, list(gan.critic.parameters()), materialize_grads=True)

    assert_close(gradients("bf16"), gradients("float32"), BF16_ERROR[architecture])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_bf16_a_generator_s_gradients_are_those_of_float32(trial_config, architecture):
    gan, (_, label) = make(trial_config, architecture), batch()
    latent = torch.randn(BATCH, 100, generator=torch.Generator().manual_seed(1))

    def gradients(precision):
        with computing_in(precision):
            fake = gan.generator(latent, label)
            assert fake.dtype == torch.float32
            loss = generator_loss(gan.critic.given(label), fake)
            return torch.autograd.grad(loss, list(gan.generator.parameters()))

    assert_close(gradients("bf16"), gradients("float32"), BF16_ERROR[architecture])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_in_bf16_keeps_everything_that_lasts_in_float32(trial_config, architecture):
    gan, exact = (make(trial_config, architecture, precision=precision) for precision in ("bf16", "float32"))
    iterate(gan, 3)
    iterate(exact, 3)
    losses, expected = gan.tally.read(), exact.tally.read()
    assert losses != expected
    assert losses == pytest.approx(expected, rel=0.05, abs=0.01)
    for optimiser in (gan.critic_optimiser, gan.generator_optimiser):
        assert all(value.dtype == torch.float32 for state in optimiser.state.values() for value in state.values())
    for network in (gan.generator, gan.critic, gan.averaged):
        assert all(value.dtype == torch.float32 for value in network.state_dict().values())


def test_a_precision_lasts_as_long_as_it_is_asked_for():
    before, x = torch.backends.cuda.matmul.fp32_precision, torch.ones(2)
    with computing_in("bf16"):
        assert reduced(x).dtype == torch.bfloat16
        with computing_in("float32"):
            assert reduced(x) is x
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        with computing_in("tf32"):
            assert reduced(x) is x
            assert torch.backends.cudnn.conv.fp32_precision == "tf32"
        assert reduced(x).dtype == torch.bfloat16
    assert reduced(x) is x
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_without_a_gpu_what_is_meant_for_one_changes_nothing(trial_config):
    meant, plain = (
        make(trial_config, "seismogen", precision=precision, cuda_graphs=graphs)
        for precision, graphs in (("tf32", True), ("float32", False))
    )
    iterate(meant, 2)
    iterate(plain, 2)
    for name, value in meant.generator.state_dict().items():
        assert torch.equal(value, plain.generator.state_dict()[name])


@pytest.mark.parametrize(
    ("allowed", "device", "count", "used"),
    [(True, "cuda", 1, True), (False, "cuda", 1, False), (True, "cpu", 1, False), (True, "cuda", 2, False)],
)
def test_one_worker_with_a_gpu_launches_its_steps_as_graphs(monkeypatch, allowed, device, count, used):
    monkeypatch.setattr("trainables.workers.count", lambda: count)
    assert uses_graphs(TrainingConfig(cuda_graphs=allowed), torch.device(device)) is used


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"^precision is fp8; expected float32 or tf32 or bf16$"):
        TrainingConfig(precision="fp8")
