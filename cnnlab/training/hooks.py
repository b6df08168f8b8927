"""The interface between the trainer and its callbacks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from cnnlab.training.history import History


class StopTraining(Exception):
    """Raise it in a callback to end the run cleanly; its text becomes `history.stop_reason`."""


class Run(Protocol):
    """Describe the part of the `Trainer` that a callback may use.

    Attributes:
        model: the model in training.
        optimizer: its optimizer; the gradients of the last step are still there in `on_step_end`.
        ema: the moving average of the model, or None.
        history: one row per epoch, one row per step; a callback may add columns to the newest row.
        epoch: finished epochs.
        batch: finished batches of the epoch in progress.
        step: optimizer steps, including those that fp16 skipped.
        steps_planned: steps that the run will have in all; None if the loader has no length.
        has_validation: whether this fit evaluates validation data after each epoch.
    """

    model: nn.Module
    optimizer: Optimizer
    ema: Any
    history: History
    epoch: int
    batch: int
    step: int
    steps_planned: int | None
    has_validation: bool

    def evaluate(self, loader: Iterable, *, model: nn.Module | None = None) -> dict[str, float]:
        """Evaluate the model, without side effects."""

    def predict(self, loader: Iterable, *, model: nn.Module | None = None) -> Tensor:
        """Return the logits of every sample, without side effects."""

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint of the whole run."""


class Callback:
    """React to events of a fit: override the hooks you need. Each one gets the trainer.

    `Run` lists what a callback may touch. Keep your own state in attributes and return it from
    `state_dict`, so that it is saved in checkpoints. If a callback raises `StopTraining`, the other
    callbacks still see that event before the run stops. Callbacks are called by ascending `order`;
    the one that saves is the last.

    Under torchrun every process calls its callbacks, except those with `writes = True`, which only
    the first process calls. The others must decide by values that are the same in every process.

    >>> class Greeter(Callback):
    ...     def on_fit_start(self, trainer):
    ...         print("hello from step", trainer.step)
    """

    order = 0
    writes = False  # to a file, or to the screen
    resume_from: Path | None = None  # the folder whose newest checkpoint a new run starts from

    def on_fit_start(self, trainer: Run) -> None:
        """Run once per fit, before the first step."""

    def on_epoch_start(self, trainer: Run) -> None:
        """Run before an epoch's first step, and again when a run resumes in mid-epoch."""

    def on_step_end(self, trainer: Run) -> None:
        """Run after each optimizer step; the gradients are still there."""

    def on_epoch_end(self, trainer: Run) -> None:
        """Run after the validation of an epoch; `trainer.history` has its row."""

    def on_fit_end(self, trainer: Run) -> None:
        """Run once per fit, however it ends."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart: numbers, strings, tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
