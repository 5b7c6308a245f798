"""The conditional WGAN-GP, its training loop, its metrics, and the Ray Train wrapping."""
