"""Our training and the plain one with the same weights and the same random numbers, and how far they are apart.

In float32 gradients of rectifiers jump where an input lies within rounding of zero, whoever computes them. To compare
two computations where the mathematics is continuous, `clear_kinks` moves every rectifier's threshold, channel by
channel, into the widest gap among the middle half of the values that it sees: about half of them still pass, all
arithmetic is used, but none is so near that rounding could change its sign. `margin` measures it.

Shapes: B batch, C component, T sample, Z latent, L label.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from plain_wgan_gp import COMPONENTS, PlainCritic, PlainGan, PlainGenerator
from torch import Tensor, nn

from trainables.config import TrialConfig, with_values
from trainables.gan import Gan

Tensors = dict[str, Tensor]
SEED = 0
# Share of a rectifier's inputs that lie on the rarer side of its kink, at least.
RARE = 0.25
# Steps of such a rate change no weight: both networks' steps are then taken from the same state.
NO_RATE = 1e-30
OPTIMISERS = ("generator_optimiser", "critic_optimiser")

# Where our networks have what the plain ones call so: the module's name, and the pipeline where it holds several.
PLACES: dict[str, tuple[str, int | None]] = {
    **{
        f"{band}.{i}": (f"{band}.{name}", None)
        for band in ("low", "high")
        for i, name in enumerate(("first", "second"))
    },
    **{f"head.{i}": (name, None) for i, name in enumerate(("first", "second", "third"))},
    "label": ("label", None),
    "label_conv": ("label_branch", None),
    "label_features.deconv": ("label_features", 0),
    "label_features.norm": ("label_features.norm", 0),
}
for p in range(COMPONENTS):
    PLACES[f"pipelines.{p}.features.deconv"] = "noise_features", p
    PLACES[f"pipelines.{p}.features.norm"] = "noise_features.norm", p
    PLACES |= {f"pipelines.{p}.convs.{i}": (f"layers.{2 * i}", p) for i in range(3)}
    PLACES |= {f"pipelines.{p}.norms.{i}": (f"layers.{2 * i + 1}", p) for i in range(2)}


@dataclass
class Twins:
    """Our training and the plain one, in the same state, with a batch to train on."""

    ours: Gan
    plain: PlainGan
    draws: torch.Generator  # the plain one's; it draws the same numbers as ours
    real: Tensor  # (B, C, T)
    label: Tensor  # (B, L)

    def reseed(self) -> None:
        """From here on both draw the same random numbers, from their first."""
        self.ours.rng.manual_seed(SEED)
        self.draws.manual_seed(SEED)

    def draw(self) -> tuple[Tensor, Tensor]:
        """What a plain critic step needs: latent vectors (B, Z) and shares (B,)."""
        batch, device = len(self.real), self.real.device
        latent_BZ = torch.randn(batch, self.ours.config.model.latent_dim, device=device, generator=self.draws)
        return latent_BZ, torch.rand(batch, device=device, generator=self.draws)

    def our_iteration(self) -> None:
        """`n_critic` steps of our critic and one of our generator."""
        for _ in range(self.ours.config.training.n_critic):
            self.ours.critic_step(self.real, self.label)
        self.ours.generator_step(self.label)

    def plain_iteration(self) -> None:
        """The same of the plain ones."""
        for _ in range(self.ours.config.training.n_critic):
            self.plain.critic_step(self.real, self.label, *self.draw())
        latent_BZ = torch.randn(
            len(self.real), self.ours.config.model.latent_dim, device=self.real.device, generator=self.draws
        )
        self.plain.generator_step(self.label, latent_BZ)


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Everything made within is of that type; nothing on a GPU is computed in less."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_default_dtype(before)


def make_twins(config: TrialConfig, samples: int, fs_hz: float, device: str = "cpu", still: bool = False) -> Twins:
    """Both in our initial state, with a batch of white noise, half of it labelled 1; `still`: no step changes it."""
    if still:
        config = with_values(config, {"training.generator_lr": NO_RATE, "training.critic_lr": NO_RATE})
    model, training = config.model, config.training
    ours = Gan(config, samples, fs_hz, torch.device(device))
    generator = PlainGenerator(samples, model.latent_dim, model.base_channels, model.kernel, model.label_dim)
    critic = PlainCritic(samples, fs_hz, model.cutoff_hz, model.base_channels, model.label_dim)
    rates = training.generator_lr, training.critic_lr
    plain = PlainGan(generator.to(device), critic.to(device), rates, training.penalty_weight)
    for network, reference in ((ours.generator, generator), (ours.critic, critic)):
        for name, tensor in under_plain_names(network.state_dict(), _state(reference)).items():
            reference.state_dict()[name].copy_(tensor)
    rng = torch.Generator().manual_seed(SEED)
    real = torch.randn(training.batch_size, COMPONENTS, samples, generator=rng).to(device)
    label = (torch.arange(training.batch_size)[:, None] % 2).expand(-1, model.label_dim).to(real)
    return Twins(ours, plain, torch.Generator(device).manual_seed(config.seed), real, label)


def under_plain_names(ours: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> Tensors:
    """Our tensors as views under the plain network's names and in its shapes."""
    found = {}
    for name, tensor in plain.items():
        module, _, kind = name.rpartition(".")
        place, group = PLACES[module]
        value = ours[f"{place}.{kind}"]
        found[name] = (value if group is None else value[group]).view_as(tensor)
    return found


def difference(ours: Tensors, plain: Tensors) -> float:
    """Largest absolute difference within a tensor over its largest absolute value, the worst of all tensors."""
    assert ours.keys() == plain.keys()
    worst = 0.0
    for name, expected in plain.items():
        # Of a tensor of zeros (a bias that shifts real and fake scores alike) the error itself.
        worst = max(worst, (ours[name] - expected).abs().max().item() / (expected.abs().max().item() or 1.0))
    return worst


def our_step(twins: Twins) -> Tensors:
    """Outputs and gradients of one step of each network, by the plain one's names."""
    gan, (generator, critic) = twins.ours, _networks(twins.plain)
    twins.reseed()
    gan.critic_step(twins.real, twins.label)
    losses = gan.tally.read()
    critic_loss = gan.config.training.penalty_weight * losses["loss/penalty"] - losses["loss/critic_distance"]
    slopes = under_plain_names(_gradients(gan.critic), dict(critic.named_parameters()))
    twins.reseed()
    gan.generator_step(twins.label)
    generator_loss = gan.tally.read()["loss/generator"]
    slopes |= _prefixed(under_plain_names(_gradients(gan.generator), dict(generator.named_parameters())))
    outputs = _outputs(twins, gan.generator, gan.critic)
    return outputs | slopes | {"losses": torch.tensor([critic_loss, generator_loss])}


def plain_step(twins: Twins) -> Tensors:
    """The same of the plain networks."""
    plain, (generator, critic) = twins.plain, _networks(twins.plain)
    twins.reseed()
    latent_BZ, share_B = twins.draw()
    critic_loss = plain.critic_step(twins.real, twins.label, latent_BZ, share_B)
    slopes = _gradients(critic)
    generator_loss = plain.generator_step(twins.label, latent_BZ)
    slopes |= _prefixed(_gradients(generator))
    losses = torch.stack([critic_loss, generator_loss]).cpu()
    return _outputs(twins, generator, critic) | slopes | {"losses": losses}


def step_error(twins: Twins) -> float:
    """How far apart one step of each network is, from the same state."""
    return difference(our_step(twins), plain_step(twins))


def state_error(twins: Twins, iterations: int) -> float:
    """How far apart weights, running statistics and optimisers are after so many iterations."""
    twins.reseed()
    for _ in range(iterations):
        twins.our_iteration()
        twins.plain_iteration()
    worst = 0.0
    for (network, optimiser), (reference, its_optimiser) in zip(_parts(twins.ours), _parts(twins.plain), strict=True):
        plain = _state(reference)
        worst = max(worst, difference(under_plain_names(network.state_dict(), plain), plain))
        for moment in ("exp_avg", "exp_avg_sq"):
            ours, plain = _moments(network, optimiser, moment), _moments(reference, its_optimiser, moment)
            worst = max(worst, difference(under_plain_names(ours, plain), plain))
    return worst


def clear_kinks(twins: Twins) -> None:
    """Move the biases of all convolutions before a rectifier, so that none of its inputs is close to zero."""
    with _hooks(_rectified(twins.plain), _into_widest_gap):
        _forward(twins, twins.plain)
    with torch.no_grad():
        for network, reference in zip(_networks(twins.ours), _networks(twins.plain), strict=True):
            plain = dict(reference.named_parameters())
            for name, tensor in under_plain_names(dict(network.named_parameters()), plain).items():
                tensor.copy_(plain[name])


def margin(twins: Twins) -> float:
    """Least distance from zero of a rectifier's input, in units of its layer's largest rounding error in float32."""
    precise = copy.deepcopy(twins.plain.generator).double(), copy.deepcopy(twins.plain.critic).double()
    rough, exact = [], []
    with _hooks(_rectified(twins.plain), lambda _module, _inputs, output: rough.append(output)):
        _forward(twins, twins.plain)
    wanted = PlainGan(*precise, (NO_RATE, NO_RATE))
    with _hooks(_rectified(wanted), lambda _module, _inputs, output: exact.append(output)):
        _forward(twins, wanted)
    distances = [y.abs().min() / (x - y).abs().max() for x, y in zip(rough, exact, strict=True)]
    return float(min(distances))


@torch.no_grad()
def _forward(twins: Twins, plain: PlainGan) -> None:
    """Pass through both networks all that they see in a step."""
    twins.reseed()
    dtype = next(plain.critic.parameters()).dtype
    real, label, latent, share = (x.to(dtype) for x in (twins.real, twins.label, *twins.draw()))
    fake = plain.generator(latent, label)
    between = share[:, None, None] * real + (1 - share[:, None, None]) * fake
    plain.critic(torch.cat([real, fake, between]), label.repeat(3, 1))


def _into_widest_gap(layer: nn.Conv1d, _inputs: object, output_BCT: Tensor) -> Tensor:
    """Shift a layer's biases; returns its output with the new ones."""
    values = output_BCT.transpose(0, 1).flatten(1).sort(dim=1).values
    few = math.ceil(RARE * values.shape[1])
    middle = values[:, few : values.shape[1] - few]
    gaps, places = middle.diff(dim=1).max(dim=1, keepdim=True)
    centre = (middle.gather(1, places) + gaps / 2)[:, 0]
    assert layer.bias is not None
    layer.bias -= centre
    return output_BCT - centre[:, None]


def _rectified(plain: PlainGan) -> list[nn.Module]:
    """Layers whose outputs go through a rectifier, in both networks."""
    layers = [m for n in _networks(plain) for m in n.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    return [layer for layer in layers if layer.out_channels > 1]  # all but the pipelines' last, which make the signal


@contextmanager
def _hooks(layers: list[nn.Module], hook: Callable[..., Tensor | None]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _outputs(twins: Twins, generator: nn.Module, critic: nn.Module) -> Tensors:
    twins.reseed()
    fake_BCT = generator(twins.draw()[0], twins.label)
    return {"fake": fake_BCT, "score": critic(twins.real, twins.label)}


def _networks(gan: Gan | PlainGan) -> tuple[nn.Module, nn.Module]:
    return gan.generator, gan.critic


def _parts(gan: Gan | PlainGan) -> list[tuple[nn.Module, torch.optim.Optimizer]]:
    return [(gan.generator, gan.generator_optimiser), (gan.critic, gan.critic_optimiser)]


def _state(plain: nn.Module) -> Tensors:
    return {name: tensor for name, tensor in plain.state_dict().items() if not name.endswith("num_batches_tracked")}


def _gradients(network: nn.Module) -> Tensors:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def _prefixed(tensors: Tensors) -> Tensors:
    """Names of the generator's that do not clash with the critic's."""
    return {f"generator.{name}": tensor for name, tensor in tensors.items()}


def _moments(network: nn.Module, optimiser: torch.optim.Optimizer, moment: str) -> Tensors:
    return {name: optimiser.state[p][moment] for name, p in network.named_parameters()}
