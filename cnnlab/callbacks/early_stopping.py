"""Early stopping: end a run when a metric stops improving, and restore the best weights."""

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from cnnlab.callbacks.monitor import Mode, check_column, check_monitor, improvement, metric, number
from cnnlab.training.hooks import Callback, Run, StopTraining


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
    weights of that moment; after `load`, the same call of `fit` ends as the original run did. With
    several of these callbacks the last one in the list has its best weights restored.

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
        TypeError: the monitor is not a name.
        ValueError: an argument is out of range. Or, when a fit starts, the monitor needs validation
            data and there is none. Or, after the first epoch, the history has no such column, or
            the column has never been a number.

    The criterion is UP with strips of one epoch, from Prechelt 1998, "Early Stopping - But When?"
    (https://doi.org/10.1007/3-540-49430-8_3).

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
        check_monitor(monitor, mode)
        settings = {"patience": patience, "min_delta": min_delta, "start_epoch": start_epoch}
        for name, value in settings.items():
            if not (isinstance(value, Real) and float(value) >= 0):
                raise ValueError(f"{name} must be at least 0, got {value!r}")
            # infinity never stops the run
            if name != "min_delta" and float(value) % 1 != 0 and not math.isinf(value):
                raise ValueError(f"{name} must be a whole number of epochs, got {value!r}")
        self.monitor, self.mode, self.patience = monitor, mode, patience
        self.min_delta, self.start_epoch, self.restore_best = min_delta, start_epoch, restore_best
        self._in_fit = False
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
        check_column(trainer, self.monitor)
        if trainer.step == 0:
            self._reset()
        if self._current_weights is not None:
            stoppings = self._all(trainer)
            if any(_has_weights(trainer, stopping._best_weights) for stopping in stoppings):
                _restore(trainer, self._current_weights)
            for stopping in stoppings:
                stopping._current_weights = None
        self._in_fit = True
        self._check_patience()

    def on_epoch_end(self, trainer: Run) -> None:
        """Compare the epoch with the best one, and stop the run when the patience has run out."""
        if trainer.epoch <= self.start_epoch:
            metric(trainer, self.monitor)  # is there such a column?
            return
        if self._judge(number(trainer, self.monitor), trainer.epoch):
            self._best_weights = _snapshot(trainer) if self.restore_best else None
        self._check_patience()

    def _judge(self, value: float, epoch: int) -> bool:
        """Compare the value of an epoch with those before, and return whether it is the best."""
        is_best = improvement(value, self.best_value, self.mode) > 0
        if is_best:
            self.best_value, self.best_epoch = value, epoch
        if improvement(value, self._last_improved_value, self.mode) > self.min_delta:
            self._last_improved_value, self.bad_epochs = value, 0
        else:
            self.bad_epochs += 1
        return is_best

    def on_fit_end(self, trainer: Run) -> None:
        """Restore the best weights, and keep the current ones for the next fit."""
        if self._best_weights is not None and self._in_fit:
            # The first of several callbacks still sees the current weights, and keeps them.
            if all(stopping._current_weights is None for stopping in self._all(trainer)):
                self._current_weights = _snapshot(trainer)
            _restore(trainer, self._best_weights)
        self._in_fit = False

    def _all(self, trainer: Run) -> "list[EarlyStopping]":
        """Return the callbacks of this class in the run, with this one."""
        others = [c for c in getattr(trainer, "callbacks", ()) if isinstance(c, EarlyStopping)]
        return others if self in others else [self, *others]

    def _patience_is_over(self) -> bool:
        return self.bad_epochs >= max(self.patience, 1)

    def _check_patience(self) -> None:
        if self._patience_is_over():
            epochs = f"{self.bad_epochs} epoch{'s' * (self.bad_epochs != 1)}"
            raise StopTraining(
                f"{self.monitor} has not improved for {epochs}; the best was "
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
    epoch = 0
    for epoch, value in enumerate(values, start=1):
        stopping._judge(value, epoch)
        if stopping._patience_is_over():
            break
    return epoch - 1, stopping.best_epoch - 1


def _snapshot(trainer: Run) -> dict[str, Any]:
    """Copy the weights of the model, and of its EMA if there is one, to the CPU."""
    modules = {"model": trainer.model, "ema": trainer.ema}
    return {name: cpu_copy(m.state_dict()) for name, m in modules.items() if m is not None}


def _restore(trainer: Run, snapshot: dict[str, Any]) -> None:
    """Load a snapshot into the model, and into its EMA if there is one."""
    trainer.model.load_state_dict(snapshot["model"])
    if "ema" in snapshot and trainer.ema is not None:
        trainer.ema.load_state_dict(snapshot["ema"])


def _has_weights(trainer: Run, snapshot: dict[str, Any] | None) -> bool:
    """Check whether the weights of the model equal those of a snapshot."""
    if snapshot is None:
        return False
    current, saved = trainer.model.state_dict(), snapshot["model"]
    return current.keys() == saved.keys() and all(
        torch.equal(current[name].cpu(), saved[name]) for name in current
    )


def cpu_copy(state: Any) -> Any:
    """Copy a state dictionary to the CPU; the copy shares no memory with the original."""
    if isinstance(state, dict):
        return {name: cpu_copy(value) for name, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, Tensor) else state
