import pytest
import torch
from torch import nn
from torch.nn import functional

from trainables.config import ModelConfig
from trainables.critic import MIN_SAMPLES, Critic
from trainables.generator import Generator
from trainables.layers import FrequencySplit, SameConv1d


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


@pytest.mark.parametrize("kernel", [1, 2, 7, 16, 128])
def test_same_convolution_equals_torch_s_own(kernel):
    conv = SameConv1d(3, 4, kernel)
    x = torch.randn(2, 3, 200)
    total = kernel - 1
    expected = functional.conv1d(functional.pad(x, (total // 2, total - total // 2)), conv.weight, conv.bias)
    torch.testing.assert_close(conv(x), expected)
    assert conv(x).shape[-1] == 200


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
    assert not any(isinstance(m, nn.modules.batchnorm._NormBase | nn.LayerNorm) for m in critic.modules())


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
