import pytest
import torch

from trainables.losses import generator_loss, gradient_penalty, wasserstein_estimate

SHARE = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def waves(seed):
    return torch.randn(5, 3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", [0.0, 0.3, 1.0, 4.0])
def test_a_linear_critic_has_the_penalty_of_its_weight(norm):
    weight = waves(1)[0]
    weight = norm * weight / weight.norm()

    def critic(x):
        return (x * weight).sum((1, 2))

    assert gradient_penalty(critic, waves(2), waves(3), SHARE).item() == pytest.approx((norm - 1) ** 2, abs=1e-6)


def test_the_penalty_is_taken_on_the_lines_between_real_and_fake():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().sum((1, 2))

    real, fake = waves(2), waves(3)
    gradient_penalty(critic, real, fake, SHARE)
    share = (seen[0] - fake) / (real - fake)
    assert torch.allclose(share, share[:, :1, :1].expand_as(share))
    assert 0 <= share.min() <= share.max() <= 1


def test_the_penalty_s_own_gradient_is_right():
    weight = waves(1)[0].flatten()[:6].clone().requires_grad_()

    def penalty(w):
        def critic(x):
            return torch.tanh(x.flatten(1)[:, :6] * w).sum(1) + (x.flatten(1)[:, :6] * w).pow(2).sum(1)

        return gradient_penalty(critic, waves(2), waves(3), SHARE)

    assert torch.autograd.gradcheck(penalty, (weight,))


def test_the_losses_have_gulrajani_s_signs():
    def critic(x):
        return x.mean((1, 2))

    real, fake = torch.ones(5, 3, 40), torch.zeros(5, 3, 40)
    assert wasserstein_estimate(critic, real, fake).item() == 1.0
    assert generator_loss(critic, real).item() == -1.0
