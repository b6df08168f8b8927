"""Save checkpoints of a run during a fit."""

import math
from pathlib import Path
from typing import Any

from cnnlab.callbacks.monitor import Mode, check_column, check_monitor, improvement, number
from cnnlab.errors import CheckpointError
from cnnlab.files import output_folder
from cnnlab.training import checkpoint
from cnnlab.training.checks.options import positive_int
from cnnlab.training.hooks import Callback, Run


class Checkpoint(Callback):
    """Save the run every few epochs, and when it is stopped in the middle of an epoch.

    `trainer.load(folder)` resumes from the newest undamaged file, bit for bit. Each new file is
    written before an old one is deleted, so there is always one to resume from. A fit that ends
    with an error isn't saved; you can resume from the last epoch before the error.

    Args:
        path: the folder for the files, which is created if it's missing; a leading `~` is your home
            folder. A file is named after the optimizer step: `step-00000040.pt`.
        every: the number of epochs from one file to the next.
        keep: the number of newest files to keep.
        best: also save the best epoch so far, as `best.pt`. Either a column of the history whose
            name ends in `_acc` (large values are good) or `_loss` (small values are good), or any
            column with its mode, such as `("grad_norm_max", "min")`. NaN is never best, and of
            equal epochs the first one counts.
        resume: let a new run continue from the newest file in the folder, so that you can simply
            run a notebook cell or a script again. Without it, a folder that contains a later
            checkpoint than the run has reached is refused.

    Raises:
        TypeError: `best` is not a column, or a column and its mode.
        ValueError: an argument is out of range. Or, when a fit starts, the column of `best` needs
            validation data and there is none. Or, after the first epoch, the history has no such
            column, or it has never been a number.
        CheckpointError: the folder contains a checkpoint from a later step than this run has
            reached, or one of another run, or the disk is full.

    >>> Checkpoint("run", best="valid_acc").best
    ('valid_acc', 'max')
    """

    order = 100  # last, so that a file contains what the other callbacks did in this epoch
    writes = True

    def __init__(
        self,
        path: str | Path,
        every: int = 1,
        keep: int = 1,
        best: str | tuple[str, Mode] | None = None,
        resume: bool = False,
    ) -> None:
        self.path = output_folder(path, "Checkpoint")
        self.every = positive_int("every", every, "a number of epochs")
        self.keep = positive_int("keep", keep, "a number of files")
        self.best = None if best is None else _column_and_mode(best)
        self.resume_from = self.path if resume else None
        self._reset()

    def _reset(self) -> None:
        self.best_value: float | None = None
        self._epoch_end_step = -1  # the step at which the last epoch finished
        self._saved_step = -1  # the step of the last file

    def on_fit_start(self, trainer: Run) -> None:
        """Refuse a folder that contains a later checkpoint than this run has reached."""
        if self.best is not None:
            check_column(trainer, self.best[0])
        if trainer.step == 0:
            self._reset()
        for path in checkpoint.listed(self.path):
            if checkpoint.number(path) > trainer.step and _is_readable(path):
                raise CheckpointError(
                    f"{path} was saved at a later step than this run has reached (step "
                    f"{trainer.step}); resume that run with trainer.load({str(self.path)!r}) or "
                    f"Checkpoint({str(self.path)!r}, resume=True), or use another folder"
                )

    def on_epoch_end(self, trainer: Run) -> None:
        """Save the epoch if it is the best so far, or if `every` epochs have passed."""
        if self.best is not None and self._is_best(trainer, *self.best):
            trainer.save(self.path / "best.pt")
        self._epoch_end_step = trainer.step
        if trainer.epoch % self.every == 0:
            self._save(trainer)

    def on_fit_end(self, trainer: Run) -> None:
        """Save a run that was stopped or has finished its epochs, but not one that failed."""
        stopped = trainer.history.stop_reason is not None
        finished = self._epoch_end_step == trainer.step
        if (stopped or finished) and self._saved_step != trainer.step > 0:
            self._save(trainer)

    def _save(self, trainer: Run) -> None:
        trainer.save(checkpoint.numbered(self.path, trainer.step))
        checkpoint.prune(self.path, self.keep, newest=trainer.step)
        self._saved_step = trainer.step

    def _is_best(self, trainer: Run, column: str, mode: Mode) -> bool:
        value, worst = number(trainer, column), math.inf if mode == "min" else -math.inf
        best = worst if self.best_value is None else self.best_value
        if not improvement(value, best, mode) > 0:
            return False
        self.best_value = value
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {"best_value": self.best_value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best_value = state["best_value"]


def _column_and_mode(best: str | tuple[str, Mode]) -> tuple[str, Mode]:
    """Return the column that decides which epoch is best, and whether large or small is good."""
    if isinstance(best, str):
        for ending, mode in (("_acc", "max"), ("_loss", "min")):
            if best.endswith(ending):
                return best, mode  # type: ignore[return-value]
        raise ValueError(
            f"best={best!r} doesn't say whether large or small values are good; use "
            f"best=({best!r}, 'max') or best=({best!r}, 'min')"
        )
    if not (isinstance(best, tuple | list) and len(best) == 2):
        raise TypeError(
            f"best must be a column of the history, or a pair such as ('seconds', 'min'); got "
            f"{best!r:.60}"
        )
    column, mode = best
    check_monitor(column, mode)
    return column, mode


def _is_readable(path: Path) -> bool:
    try:
        checkpoint.load(path)
    except CheckpointError:
        return False
    return True
