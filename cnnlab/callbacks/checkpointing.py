"""Save the run while it goes on."""

import math
from pathlib import Path
from typing import Any

from cnnlab.callbacks.early_stopping import Mode, column, gain
from cnnlab.errors import CheckpointError
from cnnlab.training import checkpoint
from cnnlab.training.checks import check_mode
from cnnlab.training.hooks import Callback, Run


class Checkpoint(Callback):
    """Save the run into a folder after epochs, and when it is stopped in the middle of one.

    `trainer.load(folder)` goes on from the newest file that is whole, bit for bit. A new file is written
    before an old one is deleted, so there is always one to go on from. A fit that an error has ended is not saved:
    the file of the last epoch is there.

    Args:
        path: the folder; made when it is missing. Files are called `step-00000040.pt` after the step.
        every: epochs between two files.
        keep: the newest so many are kept.
        best: also keep `best.pt`, from the epoch that was best so far: `"valid_acc"` or any other `..._acc`
            (large is good), `"valid_loss"` or any other `..._loss` (small is good), or a pair such as
            `("grad_norm_max", "min")`. NaN is never best; of equal epochs the first stays.

    Raises:
        ValueError: an argument is impossible, or, after the first epoch, there is no such column.
        CheckpointError: the folder holds a run that is further than this one; or the disk is full.

    >>> Checkpoint("run", best="valid_acc").best
    ('valid_acc', 'max')
    """

    order = 100  # last, so that what it saves has seen the epoch in all its parts
    writes = True

    def __init__(
        self,
        path: str | Path,
        every: int = 1,
        keep: int = 1,
        best: str | tuple[str, Mode] | None = None,
    ) -> None:
        if every < 1 or keep < 1:
            raise ValueError(f"every and keep must be at least 1, got {every} and {keep}")
        self.path, self.every, self.keep = Path(path), every, keep
        self.best = None if best is None else _with_mode(best)
        self.best_value: float | None = None
        self._seen = self._saved = -1  # steps: of the last epoch end, and of the last file

    def on_fit_start(self, trainer: Run) -> None:
        """Refuse a folder in which this run would be mistaken for another."""
        if trainer.step == 0:
            self.best_value, self._seen, self._saved = None, -1, -1
        for path in checkpoint.listed(self.path):
            if checkpoint.number(path) > trainer.step and _is_whole(path):
                raise CheckpointError(
                    f"{path} is further than this run, which stands at step {trainer.step}: resume it with "
                    f"trainer.load({str(self.path)!r}), or save into another folder"
                )

    def on_epoch_end(self, trainer: Run) -> None:
        """Save what is due."""
        self._seen = trainer.step
        if self.best is not None and self._is_best(trainer, *self.best):
            trainer.save(self.path / "best.pt")
        if trainer.epoch % self.every == 0:
            self._save(trainer)

    def on_fit_end(self, trainer: Run) -> None:
        """Save a run that was stopped, or has done its epochs; not one that failed."""
        ended_well = trainer.history.stop_reason is not None or self._seen == trainer.step
        if ended_well and self._saved != trainer.step > 0:
            self._save(trainer)

    def _save(self, trainer: Run) -> None:
        trainer.save(checkpoint.numbered(self.path, trainer.step))
        checkpoint.prune(self.path, self.keep, newest=trainer.step)
        self._saved = trainer.step

    def _is_best(self, trainer: Run, name: str, mode: Mode) -> bool:
        value, worst = column(trainer, name), math.inf if mode == "min" else -math.inf
        best = worst if self.best_value is None else self.best_value
        if not gain(value, best, mode) > 0:
            return False
        self.best_value = value
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {"best_value": self.best_value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.best_value = state["best_value"]


def _with_mode(best: str | tuple[str, Mode]) -> tuple[str, Mode]:
    """The column that says which epoch is best, and which way."""
    if isinstance(best, str):
        for ending, mode in (("_acc", "max"), ("_loss", "min")):
            if best.endswith(ending):
                return best, mode  # type: ignore[return-value]
        raise ValueError(
            f"is a large {best} good or a small one? Say best=({best!r}, 'max') or 'min'"
        )
    name, mode = best
    check_mode(mode)
    return name, mode


def _is_whole(path: Path) -> bool:
    try:
        checkpoint.load(path)
    except CheckpointError:
        return False
    return True
