"""Configurations tuned by hand, tried first: what a search has to beat.

Source of `HAND_TUNED`: "Synthetic seismic signals by generative adversarial networks", master's thesis, Politecnico di
Torino, 2024.
It gives latent dimension 800 as the best found by hand; batch size, learning rates and penalty weight run by run.
It does not give n_critic, taken as 5 (Gulrajani et al. 2017), nor the penalty weight of each run: 10, then 5, then 20
in the order in which they are mentioned. Runs two and three are given with one rate, 5e-5; that the generator went back
to 1e-4 is said apart, and taken for the last.
"""

from typing import Any

# The cut-off is that of a re-implementation of SeismoGen: neither paper nor thesis gives one.
_COMMON = {"model.latent_dim": 800, "model.cutoff_hz": 3.75, "training.n_critic": 5}

HAND_TUNED: list[dict[str, Any]] = [
    _COMMON
    | {
        "training.batch_size": 16,
        "training.penalty_weight": 10.0,
        "training.generator_lr": 1e-4,
        "training.critic_lr": 1e-4,
    },
    _COMMON
    | {
        "training.batch_size": 32,
        "training.penalty_weight": 5.0,
        "training.generator_lr": 5e-5,
        "training.critic_lr": 5e-5,
    },
    _COMMON
    | {
        "training.batch_size": 32,
        "training.penalty_weight": 20.0,
        "training.generator_lr": 1e-4,
        "training.critic_lr": 5e-5,
    },
]

# Where the demo begins, set by hand too.
DEMO_START: list[dict[str, Any]] = [
    {
        "model.latent_dim": 200,
        "model.cutoff_hz": 1.0,
        "training.batch_size": 8,
        "training.penalty_weight": 10.0,
        "training.generator_lr": 4e-3,
        "training.critic_lr": 3e-3,
        "training.n_critic": 2,
    }
]
