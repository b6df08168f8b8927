"""What can be added to a fit: stop early, save, collect snapshots, unfreeze step by step; the loggers too.

Each of these is a `Callback`, given to `Trainer(callbacks=[...])`. What they remember lies in the checkpoint, so a
run that was interrupted and resumed does what it would have done. One object serves one run; a run that starts
from its first step makes it forget an earlier one.
"""

import copy
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cnnlab import checkpoint
from cnnlab.errors import CheckpointError
from cnnlab.hooks import Callback
from cnnlab.loggers import CSVLog, GradNormLog, TensorBoardLog, UpdateRatioLog
from cnnlab.progress import Progress
from cnnlab.stopping import EarlyStopping, Mode, check_mode, column, copied, gain
from cnnlab.transfer import freeze, unfreeze


if TYPE_CHECKING:
    from cnnlab.trainer import Trainer

__all__ = [
    "CSVLog",
    "Checkpoint",
    "EarlyStopping",
    "GradNormLog",
    "GradualUnfreeze",
    "Progress",
    "SnapshotEnsemble",
    "TensorBoardLog",
    "UpdateRatioLog",
]


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

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Refuse a folder in which this run would be mistaken for another."""
        if trainer.step == 0:
            self.best_value, self._seen, self._saved = None, -1, -1
        for path in checkpoint.listed(self.path):
            if checkpoint.number(path) > trainer.step and _is_whole(path):
                raise CheckpointError(
                    f"{path} is further than this run, which stands at step {trainer.step}: resume it with "
                    f"trainer.load({str(self.path)!r}), or save into another folder"
                )

    def on_epoch_end(self, trainer: "Trainer") -> None:
        """Save what is due."""
        self._seen = trainer.step
        if self.best is not None and self._is_best(trainer, *self.best):
            trainer.save(self.path / "best.pt")
        if trainer.epoch % self.every == 0:
            self._save(trainer)

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Save a run that was stopped, or has done its epochs; not one that failed."""
        ended_well = trainer.history.stop_reason is not None or self._seen == trainer.step
        if ended_well and self._saved != trainer.step > 0:
            self._save(trainer)

    def _save(self, trainer: "Trainer") -> None:
        trainer.save(checkpoint.numbered(self.path, trainer.step))
        checkpoint.prune(self.path, self.keep, newest=trainer.step)
        self._saved = trainer.step

    def _is_best(self, trainer: "Trainer", name: str, mode: Mode) -> bool:
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


class SnapshotEnsemble(Callback):
    """Keep a copy of the model at the end of each cycle of the learning rate, to average their predictions.

    Give the schedule the same length, `warm_restarts(cycle_steps)`: at the end of a cycle the rate is small and
    the weights sit in a minimum; the restart leads to another. Training does not change.

    Args:
        cycle_steps: optimizer steps in a cycle.

    Attributes:
        snapshots: state dictionaries on the CPU, buffers included, oldest first.

    Huang et al. 2017, https://arxiv.org/abs/1704.00109.

    >>> snapshots = SnapshotEnsemble(cycle_steps=100)
    >>> snapshots.models(nn.Linear(2, 2))  # after a fit: averaging.ensemble(snapshots.models(model), loader=test)
    []
    """

    def __init__(self, cycle_steps: int) -> None:
        if cycle_steps < 1:
            raise ValueError(f"cycle_steps counts optimizer steps, at least 1; got {cycle_steps}")
        self.cycle_steps = cycle_steps
        self.snapshots: list[dict[str, Tensor]] = []

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Forget another run."""
        if trainer.step == 0:
            self.snapshots = []

    def on_step_end(self, trainer: "Trainer") -> None:
        """Copy the model where a cycle ends."""
        if trainer.step % self.cycle_steps == 0:
            self.snapshots.append(copied(trainer.model.state_dict()))

    def models(self, template: nn.Module, last: int | None = None) -> list[nn.Module]:
        """Return a model for each snapshot, in evaluation mode.

        Args:
            template: a model of the same shape, such as the trained one; copied, not changed.
            last: only the newest so many; the early ones are the weaker ones.
        """
        models = []
        for state in self.snapshots if last is None else self.snapshots[-last:]:
            model = copy.deepcopy(template).eval().requires_grad_(False)
            model.load_state_dict(state)
            models.append(model)
        return models

    def state_dict(self) -> dict[str, Any]:
        """Return the snapshots."""
        return {"snapshots": self.snapshots}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.snapshots = list(state["snapshots"])


class GradualUnfreeze(Callback):
    """Train the head first, then one stage after the other from the top down.

    What is frozen follows from the number of finished epochs alone, so a resumed run goes on as it would have.
    Frozen batch norms keep their statistics (`modes.train_mode`).

    Args:
        stages: modules, bottom to top, as `models.stages(model)` gives them; the last one is the head and
            always trains. A part that shall stay frozen is left out here and frozen with `transfer.freeze`.
        at_epochs: for each stage below the head, from the top down, the finished epochs after which it
            trains: with `[1, 3]` the stage below the head joins in the second epoch, the next in the fourth.

    Raises:
        ValueError: the numbers do not fit the stages or do not rise; or, when a fit starts, the optimizer
            lacks a parameter of a stage. It needs all of them from the beginning; one that is frozen it
            leaves alone.

    Howard & Ruder 2018, section 3.3, https://arxiv.org/abs/1801.06146.

    >>> body, head = nn.Linear(4, 4), nn.Linear(4, 2)
    >>> GradualUnfreeze([body, head], at_epochs=[2]).at_epochs
    [2]
    """

    order = -20  # before what measures

    def __init__(self, stages: Sequence[nn.Module], at_epochs: Sequence[int]) -> None:
        self.stages, self.at_epochs = list(stages), list(at_epochs)
        if len(self.at_epochs) != len(self.stages) - 1:
            raise ValueError(
                f"{len(self.stages)} stages need {len(self.stages) - 1} epochs, one for each stage below the "
                f"head; got {len(self.at_epochs)}"
            )
        if any(a > b for a, b in pairwise([0, *self.at_epochs])):
            raise ValueError(f"at_epochs must not fall and not be negative, got {self.at_epochs}")

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Check that the optimizer holds every stage."""
        held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
        lacking = sum(id(p) not in held for stage in self.stages for p in stage.parameters())
        if lacking:
            raise ValueError(
                f"the optimizer lacks {lacking} parameters of the stages: build it from all of "
                "model.parameters(), or from transfer.param_groups(model, lr), with stages of the same model"
            )

    def on_epoch_start(self, trainer: "Trainer") -> None:
        """Freeze and unfreeze what this epoch asks for."""
        trained = 1 + bisect_right(self.at_epochs, trainer.epoch)
        for depth, stage in enumerate(reversed(self.stages)):
            (unfreeze if depth < trained else freeze)(stage)


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
