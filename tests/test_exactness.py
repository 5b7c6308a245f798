"""Our training computes what a textbook WGAN-GP computes, and the same as yesterday."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from trainables.config import ARCHITECTURES, ModelConfig, TrainingConfig, TrialConfig
from trainables.losses import gradient_penalty
from trainables.networks import make_critic

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT.parent / "shared" / "reference" / "wgan_gp_plain.py"

sys.path.append(str(ROOT / "tests" / "bench"))
golden, plain, twins = (importlib.import_module(name) for name in ("golden", "plain_wgan_gp", "twins"))

METHODS = ("direct", "spectral")
# Samples, latent dimension, kernel, conditions: lengths with no neat ratio to each other, stretched and thinned.
SIZES = [(400, 100, 8, ()), (401, 131, 7, ("depth",)), (777, 100, 16, ()), (524, 131, 17, ("magnitude",))]


@pytest.fixture(autouse=True)
def one_thread():
    """So small products wait for their threads longer than they take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(size, method, batch=4, **options):
    samples, latent_dim, kernel, conditions = size
    model = ModelConfig(latent_dim=latent_dim, base_channels=2, kernel=kernel, conditions=conditions)
    config = TrialConfig(model, TrainingConfig(batch_size=batch, n_critic=2, convolution=method))
    return twins.make_twins(config, samples, samples / 40, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_one_step_is_the_textbook_s(size, method):
    with twins.precision(torch.float64):
        assert twins.step_error(make(size, method, still=True)) <= 1e-10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_one_step_in_single_precision_is_the_textbook_s_away_from_kinks(size, method):
    with twins.precision(torch.float32):
        pair = make(size, method, still=True)
        twins.clear_kinks(pair)
        assert twins.margin(pair) > 10
        assert twins.step_error(pair) <= 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_everything_that_three_iterations_leave_is_the_textbook_s(method):
    with twins.precision(torch.float64):
        assert twins.state_error(make(SIZES[1], method), iterations=3) <= 1e-8


# Where the ratio of the lengths is a fraction of small numbers, the nearest neighbour is a close call.
@pytest.mark.parametrize("samples", [400, 800])
def test_the_latent_vector_is_stretched_to_torch_s_neighbours(samples):
    with twins.precision(torch.float32):
        pair = make((samples, 100, 128, ()), "direct", still=True)
        twins.clear_kinks(pair)
        assert twins.step_error(pair) <= 1e-4


def test_a_wrong_gradient_would_be_noticed():
    with twins.precision(torch.float64):
        pair = make(SIZES[0], "direct", still=True)
        pair.plain.penalty_weight *= 1 + 1e-6
        assert twins.step_error(pair) > 1e-8


LAYERS = [("conv", 0), ("conv", 1), ("conv", 2), ("norm", 0), ("norm", 1)]
# Where the independent reference has what our plain networks call so.
THEIR_PLACES = {
    "label": "label_in",
    "label_features.deconv": "label.up",
    "label_features.norm": "label.norm",
    "label_conv": "label",
    **{f"{band}.{i}": f"{band}.{2 * i}" for band in ("low", "high") for i in range(2)},
    **{f"head.{i}": f"head.{2 * i}" for i in range(3)},
    **{f"pipelines.{p}.features.deconv": f"pipelines.{p}.noise.up" for p in range(3)},
    **{f"pipelines.{p}.features.norm": f"pipelines.{p}.noise.norm" for p in range(3)},
    **{f"pipelines.{p}.{kind}s.{i}": f"pipelines.{p}.{kind}{i + 1}" for p in range(3) for kind, i in LAYERS},
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_the_plain_networks_are_those_of_an_independent_reference():
    if not REFERENCE.exists():
        pytest.skip(f"no independent reference at {REFERENCE}")
    spec = importlib.util.spec_from_file_location("wgan_gp_plain", REFERENCE)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    samples, latent_dim, fs_hz, share = 601, 100, 15.0, 0.15
    bins = samples // 2 + 1
    cutoff_hz = (int((torch.arange(bins) < share * bins).sum()) - 0.5) * fs_hz / samples
    with twins.precision(torch.float64):
        latent, label, wave = torch.randn(2, latent_dim), torch.tensor([[0.0], [1.0]]), torch.randn(2, 3, samples)
        generators = plain.PlainGenerator(samples, latent_dim), theirs.Generator(samples, latent_dim)
        assert_same_with_gradients(*generators, (latent, label))
        critics = plain.PlainCritic(samples, fs_hz, cutoff_hz), theirs.Critic(samples, share)
        assert_same_with_gradients(*critics, (wave, label))


def assert_same_with_gradients(ours, theirs, inputs):
    """Give ours the weights of theirs and compare what both compute, and its second derivatives' share in a penalty."""
    places = dict(theirs.named_modules())
    pairs = [
        (module, places[THEIR_PLACES[name]])
        for name, module in ours.named_modules()
        if name and any(True for _ in module.parameters(recurse=False))
    ]
    for our, their in pairs:
        our.load_state_dict(their.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    first, *rest = inputs
    found = []
    for network in (ours, theirs):
        start = first.clone().requires_grad_()
        output = network(start, *rest)
        (slope,) = torch.autograd.grad(output.square().sum(), start, create_graph=True)
        (output.square().sum() + slope.square().sum()).backward()
        found.append((output, slope))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
    for our, their in pairs:
        for name, parameter in our.named_parameters():
            expected = their.get_parameter(name).grad
            assert (parameter.grad - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_penalty_and_critic_have_right_derivatives(architecture):
    with twins.precision(torch.float64):
        torch.manual_seed(0)
        critic = make_critic(ModelConfig(architecture, base_channels=2), 400, 10.0)
        names, weights = zip(*critic.named_parameters(), strict=True)
        real, fake = (torch.randn(2, 3, 400, requires_grad=True) for _ in range(2))
        label, share = torch.tensor([[0.0], [1.0]]), torch.rand(2)

        def score(wave, *weights):
            return functional_call(critic, dict(zip(names, weights, strict=True)), (wave, label))

        def penalty(real, fake, *weights):
            return gradient_penalty(lambda wave: score(wave, *weights), real, fake, share)

        # Along random directions in all inputs and weights together.
        assert torch.autograd.gradcheck(score, (real, *weights), fast_mode=True)
        assert torch.autograd.gradgradcheck(score, (real, *weights), fast_mode=True)
        assert torch.autograd.gradcheck(penalty, (real, fake, *weights), fast_mode=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_are_those_on_record(architecture):
    """See CONTRIBUTING.md for when they may change."""
    assert golden.largest_error(golden.losses(architecture), golden.recorded(architecture)) <= golden.TOLERANCE
