"""Stop when a number no longer improves, and keep the weights of the best epoch."""

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
    """End the run when a measured number no longer improves, and leave the best weights in the model.

    An epoch improves when it is better than the last one that improved by more than `min_delta`; an equal value
    does not, and NaN never does. After `patience` epochs in a row without improvement the run ends (0 acts
    like 1: at the first of them). A second `fit` then ends at once; for more epochs, give more patience.

    The best weights are those of the best value, however small its lead, at the earliest epoch that has it.
    They are put into the model, and into the EMA if there is one, whenever the run ends: stopped early, all
    epochs done, or interrupted. The weights that training had reached are kept aside, in checkpoints too, and
    a fit that goes on puts them back first, unless the model has been changed in between. A file written while
    the run went on holds the weights of that moment; after `load`, the same call of `fit` ends as it ended.

    Args:
        monitor: a column of the history, such as `"valid_loss"`.
        mode: whether `"min"` or `"max"` is good. There is no default: guessing from the name has minimised
            accuracies elsewhere.
        patience: epochs in a row without improvement that end the run.
        min_delta: what an improvement must exceed, in the units of the column.
        start_epoch: this many epochs at the beginning are neither judged nor remembered.
        restore_best: put the best weights into the model at the end.

    Attributes:
        best_value: the best value so far; infinite while there is none.
        best_epoch: the epoch it belongs to, counted from 1; 0 while there is none.
        bad_epochs: epochs without improvement since the last one that improved.

    Raises:
        ValueError: an argument is impossible, or, after the first epoch, there is no such column.

    Prechelt 1998, "Early Stopping - But When?", https://doi.org/10.1007/3-540-49430-8_3: the criterion UP with
    strips of one epoch.

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
        for name, value in {
            "patience": patience,
            "min_delta": min_delta,
            "start_epoch": start_epoch,
        }.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        self.monitor, self.mode, self.patience = monitor, mode, patience
        self.min_delta, self.start_epoch, self.restore_best = min_delta, start_epoch, restore_best
        self._forget()

    def _forget(self) -> None:
        self.best_value = self._to_beat = math.inf if self.mode == "min" else -math.inf
        self.best_epoch = self.bad_epochs = 0
        self._best: dict[str, Any] | None = None
        self._aside: dict[str, Any] | None = None  # where training was when the best weights came

    def on_fit_start(self, trainer: Run) -> None:
        """Go on from where training was, not from the best weights."""
        if trainer.step == 0:
            self._forget()
        if self._aside is not None and self._best is not None and _holds(trainer, self._best):
            _put(trainer, self._aside)
        self._aside = None
        self._stop_if_over()

    def on_epoch_end(self, trainer: Run) -> None:
        """Judge the epoch."""
        value = column(trainer, self.monitor)
        if trainer.epoch <= self.start_epoch:
            return
        if gain(value, self.best_value, self.mode) > 0:
            self.best_value, self.best_epoch = value, trainer.epoch
            self._best = _kept(trainer) if self.restore_best else None
        if gain(value, self._to_beat, self.mode) > self.min_delta:
            self._to_beat, self.bad_epochs = value, 0
        else:
            self.bad_epochs += 1
        self._stop_if_over()

    def on_fit_end(self, trainer: Run) -> None:
        """Put the best weights into the model, and keep the others aside."""
        if self._best is not None and self._aside is None:
            self._aside = _kept(trainer)
            _put(trainer, self._best)

    def _stop_if_over(self) -> None:
        if self.bad_epochs >= max(self.patience, 1):
            raise StopTraining(
                f"{self.monitor} has not improved for {self.bad_epochs} epochs; the best was "
                f"{self.best_value:.4g} in epoch {self.best_epoch}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what was judged, the best weights, and those kept aside."""
        return dict(zip(_STOPPING, map(vars(self).get, _STOPPING), strict=True))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        vars(self).update({name: state[name] for name in _STOPPING})


def replay(
    values: Iterable[float], mode: Mode, patience: int, min_delta: float = 0.0
) -> tuple[int, int]:
    """Say what `EarlyStopping` would have done in a run whose measurements are known.

    Args:
        values: what was measured, one number an epoch.
        mode: whether `"min"` or `"max"` is good.
        patience: epochs in a row without improvement that end the run.
        min_delta: what an improvement must exceed.

    Returns:
        Two indices into `values`: of the epoch after which training ends, the last one when nothing stops it,
        and of the epoch whose weights are restored; -1 where no value was a number.

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


_STOPPING = ("best_value", "best_epoch", "bad_epochs", "_to_beat", "_best", "_aside")


def gain(value: float, best: float, mode: Mode) -> float:
    """Return by how much a value is better than the best; NaN, which exceeds nothing, when it is NaN."""
    return best - value if mode == "min" else value - best


def column(trainer: Run, name: str) -> float:
    """Return a number of the epoch that has just ended.

    Raises:
        ValueError: there is none of that name; those there are, are named.
    """
    row = trainer.history.epochs[-1]
    if name not in row:
        hint = "; pass validation data: fit(train, valid)" if "valid" in name else ""
        raise ValueError(f"no column {name!r} in this run, which has {', '.join(row)}{hint}")
    return row[name]


def _kept(trainer: Run) -> dict[str, Any]:
    """Copies, on the CPU, of the model and of its moving average if there is one."""
    parts = {"model": trainer.model, "ema": trainer.ema}
    return {name: copied(part.state_dict()) for name, part in parts.items() if part is not None}


def _put(trainer: Run, kept: dict[str, Any]) -> None:
    trainer.model.load_state_dict(kept["model"])
    if "ema" in kept and trainer.ema is not None:
        trainer.ema.load_state_dict(kept["ema"])


def _holds(trainer: Run, kept: dict[str, Any]) -> bool:
    """Tell whether the model still has exactly these weights."""
    here, there = trainer.model.state_dict(), kept["model"]
    return here.keys() == there.keys() and all(
        torch.equal(here[name].cpu(), there[name]) for name in here
    )


def copied(state: Any) -> Any:
    """Copy a state dictionary to the CPU; nothing in it is shared with the original."""
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, Tensor) else state
