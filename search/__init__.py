"""The hyperparameter search: Ray Tune with Optuna, and what comes out of it."""
