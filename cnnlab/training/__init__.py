"""The trainer, and everything that a training run needs."""
