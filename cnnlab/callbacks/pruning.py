"""End the trials of a search early that are doing worse than the others."""

import math
from typing import TYPE_CHECKING

from cnnlab.callbacks.early_stopping import Mode
from cnnlab.training.hooks import Callback, Run


if TYPE_CHECKING:
    from optuna import Trial


class Prune(Callback):
    """Tell the search how a run is doing after each epoch, and end the run when others did better at this point.

    A search makes one for each trial and hands it to the objective. What "better" means is up to Optuna: by default
    a run is ended when its best value so far is worse than the median of the others at the same epoch, once five
    trials are through.

    Args:
        trial: of Optuna.
        monitor: a column of the history.
        mode: whether `"max"` or `"min"` is good.

    Raises:
        ValueError: after the first epoch, if there is no such column.
    """

    def __init__(self, trial: "Trial", monitor: str = "valid_acc", mode: Mode = "max") -> None:
        self.trial, self.monitor, self.mode = trial, monitor, mode

    def on_epoch_end(self, trainer: Run) -> None:
        """Report the number of this epoch; end the run, as pruned, if it does not look promising."""
        from optuna import TrialPruned

        row = trainer.history.epochs[-1]
        if self.monitor not in row:
            raise ValueError(f"the history has no column {self.monitor!r}; it has {', '.join(row)}")
        value = row[self.monitor] if self.mode == "max" else -row[self.monitor]
        if math.isfinite(value):
            self.trial.report(value, trainer.epoch)
        if not math.isfinite(value) or self.trial.should_prune():
            raise TrialPruned(
                f"{self.monitor} was {row[self.monitor]:.4g} after {trainer.epoch} epochs"
            )
