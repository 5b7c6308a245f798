"""The two presets: the full search, and the demo, a miniature of it."""

from search.baselines import DEMO_START, HAND_TUNED
from search.config import ResourcesConfig, SchedulerConfig, SearchConfig, StoppingConfig, domain_json
from search.space import Domain, Range
from trainables.config import CONDITIONS, EvaluationConfig, ModelConfig, TrainingConfig

ITACA_SPACE: dict[str, Domain] = {
    "model.latent_dim": Range(100, 1000),
    "model.cutoff_hz": Range(0.5, 10.0, log=True),
    "training.batch_size": Range(16, 128, log=True),
    "training.penalty_weight": Range(1.0, 50.0, log=True),
    "training.generator_lr": Range(1e-5, 1e-3, log=True),
    "training.critic_lr": Range(1e-5, 1e-3, log=True),
    "training.n_critic": Range(3, 12),
}

# A miniature that learns something visible in minutes on two cores: narrow networks, many small steps.
DEMO_SPACE: dict[str, Domain] = {
    "model.latent_dim": Range(100, 400),
    "model.cutoff_hz": Range(0.3, 5.0, log=True),
    "training.batch_size": Range(8, 24, log=True),
    "training.penalty_weight": Range(1.0, 50.0, log=True),
    "training.generator_lr": Range(5e-4, 1e-2, log=True),
    "training.critic_lr": Range(5e-4, 1e-2, log=True),
    "training.n_critic": Range(1, 3),
}

PRESETS = {
    "itaca": SearchConfig(
        model=ModelConfig(latent_dim=800, conditions=CONDITIONS),
        training=TrainingConfig(batch_size=32, max_epochs=200),
        space={key: domain_json(domain) for key, domain in ITACA_SPACE.items()},
        baselines=HAND_TUNED,
        scheduler=SchedulerConfig(grace_epochs=20),
        resources=ResourcesConfig(cpus_per_trial=4, gpus_per_trial=1.0),
        num_samples=100,
    ),
    "demo": SearchConfig(
        model=ModelConfig(latent_dim=200, base_channels=4, kernel=32, conditions=CONDITIONS),
        # So small that the methods are equally fast: named, two runs of the same seed are equal to the last digit.
        training=TrainingConfig(batch_size=16, n_critic=2, ema_half_life=2000.0, max_epochs=12, convolution="direct"),
        evaluation=EvaluationConfig(fakes=64),
        space={key: domain_json(domain) for key, domain in DEMO_SPACE.items()},
        baselines=DEMO_START,
        scheduler=SchedulerConfig(grace_epochs=4),
        # An epoch takes 7 to 60 generator steps. In so few epochs nothing can be said to stall.
        stopping=StoppingConfig(
            patience=4,
            stall_patience=0,
            grace_epochs=2,
            grace_generator_steps=120,
            interval_generator_steps=60,
        ),
        resources=ResourcesConfig(memory_gb_per_trial=0.8),  # measured, to save the time of doing so in each demo
        num_samples=8,
    ),
}


def preset(name: str) -> SearchConfig:
    """A preset by name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset '{name}'; expected one of {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
