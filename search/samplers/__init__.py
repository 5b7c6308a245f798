"""What proposes parameters, by name."""

from collections.abc import Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from search.samplers.curves import CurveSampler
from search.space import Choices, Domain, Space


def distribution(domain: Domain) -> BaseDistribution:
    """A domain in Optuna's terms."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.choices)
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return IntDistribution(domain.low, domain.high, log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def make_sampler(
    name: str, space: Space, rungs: Sequence[int], max_epochs: int, seed: int, drawn: int = 0
) -> BaseSampler:
    """A sampler by name, of a search that has drawn so many trials before: these are not to be drawn again.

    `curves` learns from the scores at the rungs, `tpe` models parameters jointly and keeps parallel trials apart;
    `gp` and `nsga2` read complete trials alone.
    """
    if name == "curves":
        distributions = {key: distribution(domain) for key, domain in space.items()}
        return CurveSampler(space, distributions, rungs, max_epochs, seed)
    if name == "tpe":
        return TPESampler(seed=seed + drawn, multivariate=True, constant_liar=True, n_startup_trials=5)
    return {"gp": GPSampler, "nsga2": NSGAIISampler, "random": RandomSampler}[name](seed=seed + drawn)
