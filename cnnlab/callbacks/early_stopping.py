"""Early stopping: end a run when a metric stops improving, and restore the best weights."""

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from cnnlab.training.checks import check_mode
from cnnlab.training.history import History
from cnnlab.training.hooks import Callback, Run, StopTraining


Mode = Literal["min", "max"]


class EarlyStopping(Callback):
    """Stop the run when a metric stops improving, and put the best weights back into the model.

    An epoch improves if its value is better than that of the last epoch that improved, by more than
    `min_delta`. An equal value is no improvement, and NaN never is. After `patience` epochs in a
    row without improvement the run stops; `patience=0` acts like 1. Calling `fit` again then stops
    at once. To train for more epochs, use more patience.

    The best weights are those of the epoch with the best value, however small its lead; of equal
    epochs the first one counts. They are restored into the model, and into the EMA if there is one,
    whenever the fit ends: stopped early, completed, interrupted or failed. The weights that
    training had reached are kept too, also in checkpoints, and the next `fit` continues from them,
    unless you have changed the model in between. A checkpoint written during the run contains the
    weights of that moment; after `load`, the same call of `fit` ends as the original run did.

    Args:
        monitor: the column of the history to watch, such as `"valid_loss"`.
        mode: `"min"` if small values are good, `"max"` if large ones are. There is no default,
            because libraries that guessed the mode from the name have minimised accuracies.
        patience: the number of epochs in a row without improvement that stops the run.
        min_delta: an improvement must be larger than this, in the units of the column.
        start_epoch: the number of epochs at the start of the run that are ignored.
        restore_best: whether to restore the best weights when the fit ends.

    Attributes:
        best_value: the best value so far; before the first one, infinity for mode "min" and minus
            infinity for "max".
        best_epoch: the epoch of the best value, counted from 1; 0 before the first one.
        bad_epochs: the number of epochs since the last improvement.

    Raises:
        ValueError: an argument is out of range, or, after the first epoch, the history has no such
            column.

    Prechelt 1998, "Early Stopping - But When?", https://doi.org/10.1007/3-540-49430-8_3: the
    criterion UP, with strips of one epoch.

    >>> EarlyStopping("valid_loss", "min", patience=3).best_epoch
    0
    """

    def __init__(
        self,
        monitor: str,
        mode: Mode,
        patience: int,
        min_delta: float = 0.0,
        start_epoch: int = 0,
        restore_best: bool = True,
    ) -> None:
        check_mode(mode)
        settings = {"patience": patience, "min_delta": min_delta, "start_epoch": start_epoch}
        for name, value in settings.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        self.monitor, self.mode, self.patience = monitor, mode, patience
        self.min_delta, self.start_epoch, self.restore_best = min_delta, start_epoch, restore_best
        self._reset()

    def _reset(self) -> None:
        self.best_value = math.inf if self.mode == "min" else -math.inf
        self._last_improved_value = self.best_value
        self.best_epoch = self.bad_epochs = 0
        self._best_weights: dict[str, Any] | None = None
        # What training had reached when a fit ended and the best weights were restored.
        self._current_weights: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Run) -> None:
        """Continue from the weights that training had reached, not from the best ones."""
        if trainer.step == 0:
            self._reset()
        if (
            self._current_weights is not None
            and self._best_weights is not None
            and _has_weights(trainer, self._best_weights)
        ):
            _restore(trainer, self._current_weights)
        self._current_weights = None
        self._check_patience()

    def on_epoch_end(self, trainer: Run) -> None:
        """Compare the epoch with the best one, and stop the run when the patience has run out."""
        value = metric(trainer, self.monitor)
        if trainer.epoch <= self.start_epoch:
            return
        if improvement(value, self.best_value, self.mode) > 0:
            self.best_value, self.best_epoch = value, trainer.epoch
            self._best_weights = _snapshot(trainer) if self.restore_best else None
        if improvement(value, self._last_improved_value, self.mode) > self.min_delta:
            self._last_improved_value, self.bad_epochs = value, 0
        else:
            self.bad_epochs += 1
        self._check_patience()

    def on_fit_end(self, trainer: Run) -> None:
        """Restore the best weights, and keep the current ones for the next fit."""
        if self._best_weights is not None and self._current_weights is None:
            self._current_weights = _snapshot(trainer)
            _restore(trainer, self._best_weights)

    def _check_patience(self) -> None:
        if self.bad_epochs >= max(self.patience, 1):
            raise StopTraining(
                f"{self.monitor} has not improved for {self.bad_epochs} epochs; the best was "
                f"{self.best_value:.4g} in epoch {self.best_epoch}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, the epoch counts, and both sets of weights."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        vars(self).update({name: state[name] for name in _STATE})


# The attributes of `EarlyStopping` that change during a run, and are saved in checkpoints.
_STATE = (
    "best_value",
    "best_epoch",
    "bad_epochs",
    "_last_improved_value",
    "_best_weights",
    "_current_weights",
)


def replay(
    values: Iterable[float], mode: Mode, patience: int, min_delta: float = 0.0
) -> tuple[int, int]:
    """Compute what `EarlyStopping` would have done on a recorded run.

    Args:
        values: the monitored metric, one value per epoch.
        mode: `"min"` if small values are good, `"max"` if large ones are.
        patience: the number of epochs in a row without improvement that stops the run.
        min_delta: an improvement must be larger than this.

    Returns:
        Two indices into `values`. The first is the epoch after which training stops, which is the
        last one if nothing stops it. The second is the epoch whose weights are restored, or -1 if
        there is none because every value is NaN.

    >>> replay([0.5, 0.7, 0.6, 0.6, 0.9], "max", patience=2)
    (3, 1)
    >>> replay([0.5, 0.7, 0.6, 0.6, 0.9], "max", patience=3)
    (4, 4)
    """
    stopping = EarlyStopping("value", mode, patience, min_delta, restore_best=False)
    run: Any = SimpleNamespace(epoch=0, history=History())
    for value in values:
        run.epoch += 1
        run.history.epochs.append({"value": value})
        try:
            stopping.on_epoch_end(run)
        except StopTraining:
            break
    return run.epoch - 1, stopping.best_epoch - 1


def improvement(value: float, best: float, mode: Mode) -> float:
    """Return by how much a value is better than the best one; NaN if either of them is NaN."""
    return best - value if mode == "min" else value - best


def metric(trainer: Run, name: str) -> float:
    """Return a column of the history for the epoch that has just finished.

    Raises:
        ValueError: there is no such column; the message lists those that exist.
    """
    row = trainer.history.epochs[-1]
    if name not in row:
        hint = "; pass validation data to get more: fit(train, valid)" if "valid" in name else ""
        raise ValueError(f"the history has no column {name!r}; it has {', '.join(row)}{hint}")
    return row[name]


def _snapshot(trainer: Run) -> dict[str, Any]:
    """Copy the weights of the model, and of its EMA if there is one, to the CPU."""
    modules = {"model": trainer.model, "ema": trainer.ema}
    return {name: cpu_copy(m.state_dict()) for name, m in modules.items() if m is not None}


def _restore(trainer: Run, snapshot: dict[str, Any]) -> None:
    """Load a snapshot into the model, and into its EMA if there is one."""
    trainer.model.load_state_dict(snapshot["model"])
    if "ema" in snapshot and trainer.ema is not None:
        trainer.ema.load_state_dict(snapshot["ema"])


def _has_weights(trainer: Run, snapshot: dict[str, Any]) -> bool:
    """Check whether the weights of the model equal those of a snapshot."""
    current, saved = trainer.model.state_dict(), snapshot["model"]
    return current.keys() == saved.keys() and all(
        torch.equal(current[name].cpu(), saved[name]) for name in current
    )


def cpu_copy(state: Any) -> Any:
    """Copy a state dictionary to the CPU; the copy shares no memory with the original."""
    if isinstance(state, dict):
        return {name: cpu_copy(value) for name, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, Tensor) else state
