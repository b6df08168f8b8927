"""Pruning: stop unpromising trials of a hyperparameter search early."""

import math
from typing import TYPE_CHECKING

from cnnlab.callbacks.monitor import Mode, check_column, check_monitor, number
from cnnlab.training.hooks import Callback, Run


if TYPE_CHECKING:
    from optuna import Trial


class Prune(Callback):
    """Report a metric to Optuna after each epoch, and stop the trial if it is falling behind.

    The search makes one of these for each trial and passes it to the objective. Optuna's pruner
    decides which trials to stop. By default these are the trials whose best value so far is worse
    than the median of the other trials at the same epoch, as soon as five trials have finished.

    Args:
        trial: the Optuna trial.
        monitor: the column of the history to report.
        mode: `"max"` if large values are good, `"min"` if small ones are.

    Raises:
        TypeError: the monitor is not a name.
        ValueError: the mode is neither of these; or the monitor needs validation data and there is
            none; or, after the first epoch, the history has no such column or it is NaN.
    """

    def __init__(self, trial: "Trial", monitor: str = "valid_acc", mode: Mode = "max") -> None:
        check_monitor(monitor, mode)
        self.trial, self.monitor, self.mode = trial, monitor, mode

    def on_fit_start(self, trainer: Run) -> None:
        """Refuse a metric that this fit can't have."""
        check_column(trainer, self.monitor)

    def on_epoch_end(self, trainer: Run) -> None:
        """Report the metric of this epoch, and stop the trial as pruned if Optuna says so."""
        from optuna import TrialPruned

        value = number(trainer, self.monitor)
        score = value if self.mode == "max" else -value
        if math.isfinite(score):
            self.trial.report(score, trainer.epoch)
        if not math.isfinite(score) or self.trial.should_prune():
            raise TrialPruned(f"{self.monitor} was {value:.4g} after epoch {trainer.epoch}")
