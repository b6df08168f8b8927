"""Snapshot ensembles: keep a copy of the model from the end of each learning-rate cycle."""

import copy
from typing import Any

from torch import Tensor, nn

from cnnlab.callbacks.early_stopping import cpu_copy
from cnnlab.training.checks.options import positive_int
from cnnlab.training.hooks import Callback, Run


class SnapshotEnsemble(Callback):
    """Copy the model at the end of each learning-rate cycle, so that you can average the copies.

    Use a schedule with cycles of the same length, `warm_restarts(cycle_steps)`. At the end of a
    cycle the learning rate is small and the weights have settled in a minimum; the restart moves
    them to another one. The callback doesn't change the training.

    Args:
        cycle_steps: the number of optimizer steps in a cycle.

    Attributes:
        snapshots: the state dictionaries, buffers included, on the CPU; oldest first.

    Raises:
        ValueError: cycle_steps isn't a whole number of at least 1.

    Huang et al. 2017, https://arxiv.org/abs/1704.00109.

    After a fit, `averaging.ensemble(snapshots.models(model), loader=test)` averages the
    predictions.

    >>> snapshots = SnapshotEnsemble(cycle_steps=100)
    >>> snapshots.models(nn.Linear(2, 2))
    []
    """

    def __init__(self, cycle_steps: int) -> None:
        self.cycle_steps = positive_int("cycle_steps", cycle_steps, "a number of optimizer steps")
        self.snapshots: list[dict[str, Tensor]] = []

    def on_fit_start(self, trainer: Run) -> None:
        """Discard the snapshots of an earlier run."""
        if trainer.step == 0:
            self.snapshots = []

    def on_step_end(self, trainer: Run) -> None:
        """Copy the model at the end of a cycle."""
        if trainer.step % self.cycle_steps == 0:
            self.snapshots.append(cpu_copy(trainer.model.state_dict()))

    def models(self, template: nn.Module, last: int | None = None) -> list[nn.Module]:
        """Return one model per snapshot, in evaluation mode.

        Args:
            template: a model with the same architecture, such as the trained one; it isn't changed.
            last: the number of newest snapshots to use; by default all. The early ones are usually
                weaker.

        Raises:
            ValueError: last isn't a whole number of at least 1.
        """
        models = []
        if last is not None:
            last = positive_int("last", last, "a number of snapshots")
        for state in self.snapshots if last is None else self.snapshots[-last:]:
            model = copy.deepcopy(template).eval().requires_grad_(False)
            model.load_state_dict(state)
            models.append(model)
        return models

    def state_dict(self) -> dict[str, Any]:
        """Return the snapshots."""
        return {"snapshots": self.snapshots}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.snapshots = list(state["snapshots"])
