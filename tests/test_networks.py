import pytest
import torch
from torch import nn
from torch.nn import functional

from trainables import critic, gated
from trainables.config import ARCHITECTURES, CONDITIONS, ModelConfig
from trainables.convolution import convolve, convolve_same
from trainables.critic import Critic
from trainables.fixed import fix
from trainables.gated import GatedConvolution
from trainables.generator import Generator, LongConvolution
from trainables.layers import FrequencySplit, RectifiedNorm, Repeat, leaky_relu
from trainables.networks import make_critic, make_generator
from trainables.spectral import spectral_convolution

LEAST_SAMPLES = {"seismogen": critic.MIN_SAMPLES, "gated": gated.MIN_SAMPLES}
both_architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_the_paper_s_size_has_the_paper_s_parameters():
    assert parameters(Generator(ModelConfig(), 1600)) == pytest.approx(0.81e6, rel=0.02)
    assert parameters(Critic(ModelConfig(), 1600, 40.0)) == pytest.approx(0.15e6, rel=0.02)


def small(architecture, samples=400, **values):
    """A small generator in evaluation mode and its critic."""
    values = {"latent_dim": 100, "base_channels": 2, "kernel": 8} | values
    config = ModelConfig(architecture=architecture, **values)
    return make_generator(config, samples).eval(), make_critic(config, samples, 40.0)


@pytest.mark.parametrize("latent_dim", [100, 357, 1000])
@pytest.mark.parametrize(
    ("architecture", "samples"),
    [(name, samples) for name, least in LEAST_SAMPLES.items() for samples in (least, least + 1, 401, 1023, 1024)],
)
def test_any_length_and_any_latent_dimension(architecture, samples, latent_dim):
    generator, critic = small(architecture, samples, latent_dim=latent_dim, kernel=9)
    label = torch.ones(2, 1)
    wave = generator(torch.randn(2, latent_dim), label)
    assert wave.shape == (2, 3, samples)
    assert critic(wave, label).shape == (2,)


@pytest.mark.parametrize(("architecture", "least"), [("seismogen", 392), ("gated", 256)])
def test_shorter_windows_than_the_critic_can_see_are_refused(architecture, least):
    with pytest.raises(ValueError, match=f"{least - 1} samples are too short; expected at least {least}"):
        small(architecture, least - 1)


@both_architectures
@pytest.mark.parametrize("components", ["Z", "EN", "EZ", "ENZ"])
def test_networks_have_the_components_to_learn(architecture, components):
    generator, critic = small(architecture, components=components, conditions=("depth",))
    label = torch.ones(2, 2)
    wave = generator(torch.randn(2, 100), label)
    assert wave.shape == (2, len(components), 400)
    assert critic(wave, label).shape == (2,)


def same_by_torch(x_BTC, weight, bias):
    total = weight.shape[2] - 1
    padded = functional.pad(x_BTC.transpose(1, 2), (total // 2, total - total // 2))
    return functional.conv1d(padded, weight, bias).transpose(1, 2)


def tensors(*shapes):
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, generator=rng).requires_grad_() for shape in shapes]


def assert_equal_with_gradients(actual, expected, arguments):
    torch.testing.assert_close(actual, expected)
    grad = torch.randn(actual.shape, dtype=actual.dtype, generator=torch.Generator().manual_seed(1))
    actual, expected = (torch.autograd.grad(y, arguments, grad, retain_graph=True) for y in (actual, expected))
    for ours, torchs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("kernel", [1, 2, 7, 16, 128])
@pytest.mark.parametrize("samples", [130, 401])
def test_every_same_convolution_equals_torch_s_own(kernel, samples):
    x, weight, bias = arguments = tensors((2, 3, samples, 4), (2, 5, 4, kernel), (2, 5))
    expected = torch.stack([same_by_torch(*group) for group in zip(*arguments, strict=True)])
    direct = torch.stack([convolve_same(*group) for group in zip(*arguments, strict=True)])
    assert_equal_with_gradients(direct, expected, arguments)
    assert_equal_with_gradients(spectral_convolution(x, weight, bias), expected, arguments)


@pytest.mark.parametrize("channels", [2, 4])
def test_a_spectral_convolution_without_gradients_is_the_same(channels):
    arguments = tensors((2, 3, 401, 4), (2, channels, 4, 32), (2, channels))
    expected = spectral_convolution(*arguments)
    with torch.no_grad():
        assert torch.equal(spectral_convolution(arguments[0].clone(), *arguments[1:]), expected)


@pytest.mark.parametrize("repeat", [None, Repeat(200, 333)])
def test_a_norm_without_gradients_is_the_same(repeat):
    (x,) = tensors((2, 3, 200, 4))
    norms = [RectifiedNorm(2, 4).double() for _ in range(2)]
    expected = norms[0](x.detach().clone(), repeat)
    with torch.no_grad():
        assert torch.equal(norms[1](x.detach().clone(), repeat), expected)
    for name, value in norms[0].state_dict().items():
        assert torch.equal(norms[1].state_dict()[name], value)


def test_a_norm_s_gradients_keep_their_digits_where_they_cancel():
    (grad,) = tensors((1, 2, 8000, 32))
    grad = grad.detach() - grad.detach().mean((1, 2), keepdim=True) + 1e-4
    precise, single = RectifiedNorm(1, 32).double(), RectifiedNorm(1, 32)
    for norm in (precise, single):
        norm(torch.ones_like(norm.weight) * torch.arange(8000)[:, None].expand(1, 2, -1, 1)).backward(
            grad.to(norm.weight)
        )
    torch.testing.assert_close(single.bias.grad.double(), precise.bias.grad, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kernel", [32, 33, 64, 65, 128])
@pytest.mark.parametrize("samples", [32, 130, 401])
def test_a_long_convolution_to_a_single_channel_is_torch_s_own(kernel, samples):
    x, weight, bias = arguments = tensors((2, samples, 3), (1, 3, kernel), (1,))
    padded = functional.pad(x, (0, 0, (kernel - 1) // 2, kernel // 2)).transpose(1, 2)
    expected = functional.conv1d(padded, weight, bias).transpose(1, 2)
    assert_equal_with_gradients(convolve_same(*arguments), expected, arguments)


@pytest.mark.parametrize("kernel", [1, 2, 7, 16, 128])
@pytest.mark.parametrize("samples", [130, 401])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_fixed_convolution_is_torch_s_own_with_the_weights_it_had(kernel, samples, outputs):
    network = nn.Sequential(LongConvolution(2, 5, outputs, kernel)).double()
    x = torch.randn(2, 3, samples, 5, dtype=torch.float64)
    padded = functional.pad(x, (0, 0, (kernel - 1) // 2, kernel // 2)).transpose(2, 3)
    weights = [parameter.detach().clone() for parameter in network.parameters()]
    expected = torch.stack([functional.conv1d(*group) for group in zip(padded, *weights, strict=True)]).transpose(2, 3)
    fix(network)
    assert not list(network.parameters())
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-12)


@both_architectures
def test_a_fixed_generator_generates_the_same(architecture):
    generator, _ = small(architecture, 401, conditions=("depth",))
    latent, label = torch.randn(3, 100).double(), torch.randn(3, 2).double()
    expected = generator.double()(latent, label)
    fix(generator)
    torch.testing.assert_close(generator(latent, label), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", [1, 4, 16])
def test_strided_convolution_equals_torch_s_own(stride, kernel):
    x, weight, bias = arguments = tensors((2, 50, 3), (4, 3, kernel), (4,))
    expected = functional.conv1d(x.transpose(1, 2), weight, bias, stride).transpose(1, 2)
    assert_equal_with_gradients(convolve(*arguments, stride), expected, arguments)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolutions_and_rectifiers_have_right_second_derivatives(stride):
    arguments = tensors((2, 11, 2), (3, 2, 4), (3,))
    assert torch.autograd.gradgradcheck(lambda *a: leaky_relu(convolve(*a, stride)), arguments)
    assert torch.autograd.gradgradcheck(lambda *a: leaky_relu(convolve_same(*a)), arguments)


def test_the_split_parts_tones_by_their_frequency_in_hz():
    time = torch.arange(2000) / 200.0
    slow, fast = torch.sin(2 * torch.pi * 2.0 * time), torch.sin(2 * torch.pi * 9.0 * time)
    low, high = FrequencySplit(2000, 200.0, 3.75)((slow + fast)[None, None])
    torch.testing.assert_close(low[0, 0], slow, atol=1e-4, rtol=0)
    torch.testing.assert_close(high[0, 0], fast, atol=1e-4, rtol=0)


def test_a_cut_off_above_the_nyquist_frequency_is_refused():
    with pytest.raises(ValueError, match="Nyquist frequency 20"):
        FrequencySplit(400, 40.0, 20.0)


@both_architectures
def test_the_critic_judges_each_signal_on_its_own(architecture):
    _, critic = small(architecture)
    wave, label = torch.randn(4, 3, 400), torch.ones(4, 1)
    torch.testing.assert_close(critic(wave, label)[:1], critic(wave[:1], label[:1]))
    assert not any(
        isinstance(m, nn.modules.batchnorm._NormBase | nn.LayerNorm | RectifiedNorm) for m in critic.modules()
    )


@both_architectures
@pytest.mark.parametrize("told", range(1 + len(CONDITIONS)))
def test_both_networks_depend_on_the_label_and_on_each_condition(architecture, told):
    generator, critic = small(architecture, conditions=CONDITIONS)
    latent, label = torch.randn(2, 100), torch.ones(2, 1 + len(CONDITIONS))
    other = label.clone()
    other[:, told] = 0
    wave = generator(latent, label)
    assert not torch.allclose(wave, generator(latent, other))
    assert not torch.allclose(critic(wave, label), critic(wave, other))


@both_architectures
def test_signals_of_one_batch_may_have_different_labels(architecture):
    generator, critic = small(architecture, conditions=("magnitude",))
    latent, label = torch.randn(3, 100), torch.tensor([[1.0, -1.0], [0.0, 0.0], [1.0, 2.0]])
    wave = generator(latent, label)
    torch.testing.assert_close(wave[2:], generator(latent[2:], label[2:]))
    # Real, generated and mixed signals of the same labels are looked at together.
    several = critic.given(label)(torch.cat([wave, -wave]))
    torch.testing.assert_close(several, torch.cat([critic(wave, label), critic(-wave, label)]))


@pytest.mark.parametrize(("stride", "kernel"), [(1, 5), (1, 8), (4, 16)])
def test_a_gated_convolution_is_a_convolution_times_the_sigmoid_of_another(stride, kernel):
    layer, x = GatedConvolution(3, 2, kernel, stride), torch.randn(2, 40, 3)
    total = kernel - stride
    padded = functional.pad(x.transpose(1, 2), (total // 2, total - total // 2))
    value, gate = functional.conv1d(padded, layer.weight, layer.bias, stride).transpose(1, 2).chunk(2, dim=2)
    torch.testing.assert_close(layer(x), value * gate.sigmoid())


@both_architectures
def test_the_three_components_share_the_latent_vector_but_not_their_filters(architecture):
    wave = small(architecture)[0](torch.randn(1, 100), torch.ones(1, 1))[0]
    assert not torch.allclose(wave[0], wave[1])
    assert not torch.allclose(wave[1], wave[2])
