import math

import pytest
import torch

from trainables import metrics
from trainables.embedding import LEAST_SPREAD, PLACES, Embedding


def windows(n=60, components=3, samples=600, fs_hz=50.0, seed=0):
    """Z-scored noise of various colours under envelopes of various onsets and decays."""
    rng = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft(torch.randn(n, components, samples, generator=rng))
    corner_hz, onset_s, decay_s = torch.rand(3, n, 1, 1, generator=rng) * 4
    spectrum = spectrum / (1 + torch.fft.rfftfreq(samples, 1 / fs_hz) / (1 + corner_hz))
    after = (torch.arange(samples) / fs_hz - onset_s).clamp_min(0)
    envelope = 0.05 + after * torch.exp(-after / (0.5 + decay_s))
    return metrics.z_score(torch.fft.irfft(spectrum, n=samples) * envelope)


@pytest.fixture(scope="module")
def real():
    return windows()


@pytest.fixture(scope="module")
def embedding(real):
    return Embedding(real, 50.0, 20.0)


def test_two_embeddings_of_the_same_windows_are_equal_whatever_the_global_seed(real, embedding):
    torch.manual_seed(7)
    again, others = Embedding(real, 50.0, 20.0), windows(10, seed=1)
    assert torch.equal(again(others), embedding(others))
    assert torch.equal(again.projected(again(others)), embedding.projected(embedding(others)))


def test_global_random_numbers_are_left_alone(real):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    Embedding(real, 50.0, 20.0)(real)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("together", [1, 7, 33, 50])
def test_features_of_a_window_do_not_depend_on_its_company(embedding, together):
    others = windows(50, seed=1)
    apart = torch.cat([embedding(chunk) for chunk in others.split(together)])
    # A sum in another order may move one place in hundreds across a threshold.
    torch.testing.assert_close(apart, embedding(others), atol=1.5 / (PLACES * LEAST_SPREAD), rtol=0)
    assert (apart != embedding(others)).float().mean() < 1e-3


def test_shares_are_shares(embedding, real):
    for wave in (real, windows(5, seed=1), torch.zeros(1, 3, 600), torch.full((1, 3, 600), 1e6)):
        shares = embedding._shares(wave)
        assert shares.min() >= 0
        assert shares.max() <= 1
    assert 0.2 < embedding._shares(real).mean() < 0.8


def test_shares_equal_a_plain_convolution_s(embedding):
    others = windows(4, seed=1)
    shares, kernels = embedding._shares(others), len(embedding._weights[0])
    for number, (weight, dilation) in enumerate(zip(embedding._weights, embedding._dilations, strict=True)):
        found = torch.nn.functional.conv1d(others.double(), weight.double(), dilation=dilation)
        found = found[..., :: -(-others.shape[-1] // PLACES)]
        expected = (found > embedding._thresholds[number][:, None]).double().mean(-1)
        part = shares[:, number * kernels : (number + 1) * kernels].double()
        torch.testing.assert_close(part, expected, atol=1.5 / PLACES, rtol=0)


def test_kernels_sum_to_zero_so_that_a_constant_has_no_part(embedding):
    for weight in embedding._weights:
        assert weight.shape == (math.comb(9, 3), 3, 9)
        assert (weight.sum(-1) == 0).all()
        assert (weight != 0).any(-1).any(-1).all()


def test_dilations_reach_from_the_highest_frequency_to_half_the_window(embedding):
    assert embedding._dilations[0] == 1
    assert embedding._dilations[-1] * 8 == pytest.approx(300, abs=8)
    assert Embedding(windows(10, samples=4000, fs_hz=200.0), 200.0, 20.0)._dilations[0] == 5


def test_real_windows_have_mean_0_and_std_1(embedding, real):
    std, mean = torch.std_mean(embedding(real), dim=0, correction=0)
    assert mean.abs().max() < 1e-3
    assert std.max() < 1 + 1e-3
    varied = embedding._shares(real).std(0, correction=0) > LEAST_SPREAD
    assert varied.float().mean() > 0.5
    torch.testing.assert_close(std[varied], torch.ones(int(varied.sum())), atol=1e-3, rtol=0)
    unseen = embedding(windows(200, seed=1))[:, varied]
    assert unseen.mean(0).abs().mean() < 0.3
    assert 0.8 < unseen.std(0).mean() < 1.2


def test_thresholds_come_from_real_windows_and_stay(real):
    embedding, others = Embedding(real, 50.0, 20.0), windows(10, seed=1)
    before = embedding(others)
    embedding(5 * torch.randn(100, 3, 600, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(embedding(others), before)
    for number, thresholds in enumerate(embedding._thresholds):
        values = embedding._convolved(real, number).flatten(0, 1)
        assert (values.amin(0) <= thresholds).all()
        assert (thresholds <= values.amax(0)).all()
        assert (values == thresholds).any(0).all()


def test_distances_along_random_directions_are_about_those_between_features(embedding):
    features = embedding(windows(80, seed=1))
    ratio = torch.pdist(embedding.projected(features)) / torch.pdist(features)
    assert embedding.projected(features).shape == (80, 64)
    assert 0.85 < ratio.median() < 1.15
    assert ratio.min() > 0.5
    assert ratio.max() < 1.6


def test_silence_is_finite_even_among_real_windows(embedding):
    silent = torch.zeros(3, 3, 600)
    assert torch.isfinite(embedding(silent)).all()
    alone = Embedding(silent, 50.0, 20.0)
    assert torch.isfinite(alone(windows(3))).all()
    assert (alone(silent) == 0).all()


@pytest.mark.parametrize(
    ("components", "samples", "fs_hz", "high_hz"),
    [(1, 1000, 50.0, 20.0), (2, 400, 40.0, 16.0), (3, 392, 50.0, 25.0), (1, 392, 200.0, 30.0), (3, 8000, 200.0, 0.5)],
)
def test_any_number_of_components_and_samples_will_do(components, samples, fs_hz, high_hz):
    real = windows(8, components, samples, fs_hz)
    found = Embedding(real, fs_hz, high_hz)(windows(3, components, samples, fs_hz, seed=1))
    assert len(found) == 3
    assert found.shape[1] % 84 == 0
    assert torch.isfinite(found).all()


def test_noise_is_farther_from_real_windows_than_others_of_their_kind(embedding, real):
    noise = metrics.z_score(torch.randn(60, 3, 600, generator=torch.Generator().manual_seed(3)))

    def distance(wave):
        a, b = embedding(real), embedding(wave)
        return metrics.mmd(*(metrics.polynomial_kernel(*pair)[None] for pair in ((a, a), (a, b), (b, b)))).item()

    assert distance(noise) > 10 * distance(windows(60, seed=1))
