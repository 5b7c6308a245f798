import pytest
import torch
from torch import nn
from torch.nn import functional

from trainables.config import ModelConfig
from trainables.convolution import convolve, convolve_same
from trainables.critic import MIN_SAMPLES, Critic
from trainables.generator import Generator
from trainables.layers import FrequencySplit, RectifiedNorm, leaky_relu
from trainables.spectral import spectral_convolution


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_the_paper_s_size_has_the_paper_s_parameters():
    assert parameters(Generator(ModelConfig(), 1600)) == pytest.approx(0.81e6, rel=0.02)
    assert parameters(Critic(ModelConfig(), 1600, 40.0)) == pytest.approx(0.15e6, rel=0.02)


@pytest.mark.parametrize("latent_dim", [100, 357, 1000])
@pytest.mark.parametrize("samples", [MIN_SAMPLES, 401, 1024])
def test_any_length_and_any_latent_dimension(samples, latent_dim):
    config = ModelConfig(latent_dim=latent_dim, base_channels=2, kernel=9)
    label = torch.ones(2, 1)
    wave = Generator(config, samples)(torch.randn(2, latent_dim), label)
    assert wave.shape == (2, 3, samples)
    assert Critic(config, samples, 40.0)(wave, label).shape == (2,)


def test_shorter_windows_than_the_critic_can_see_are_refused():
    with pytest.raises(ValueError, match="391 samples are too short; expected at least 392"):
        Critic(ModelConfig(), MIN_SAMPLES - 1, 40.0)


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


def test_the_critic_judges_each_signal_on_its_own():
    critic = Critic(ModelConfig(base_channels=2), 400, 40.0)
    wave, label = torch.randn(4, 3, 400), torch.ones(4, 1)
    torch.testing.assert_close(critic(wave, label)[:1], critic(wave[:1], label[:1]))
    assert not any(
        isinstance(m, nn.modules.batchnorm._NormBase | nn.LayerNorm | RectifiedNorm) for m in critic.modules()
    )


def test_both_networks_depend_on_the_label():
    config = ModelConfig(latent_dim=100, base_channels=2, kernel=8)
    generator, critic = Generator(config, 400).eval(), Critic(config, 400, 40.0)
    latent = torch.randn(2, 100)
    quake, noise = torch.ones(2, 1), torch.zeros(2, 1)
    wave = generator(latent, quake)
    assert not torch.allclose(wave, generator(latent, noise))
    assert not torch.allclose(critic(wave, quake), critic(wave, noise))


def test_the_three_components_share_the_latent_vector_but_not_their_filters():
    config = ModelConfig(latent_dim=100, base_channels=2, kernel=8)
    wave = Generator(config, 400).eval()(torch.randn(1, 100), torch.ones(1, 1))[0]
    assert not torch.allclose(wave[0], wave[1])
    assert not torch.allclose(wave[1], wave[2])
