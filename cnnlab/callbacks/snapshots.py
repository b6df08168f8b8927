"""Keep a copy of the model at the end of each learning-rate cycle."""

import copy
from typing import Any

from torch import Tensor, nn

from cnnlab.callbacks.early_stopping import copied
from cnnlab.training.hooks import Callback, Run


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

    def on_fit_start(self, trainer: Run) -> None:
        """Forget another run."""
        if trainer.step == 0:
            self.snapshots = []

    def on_step_end(self, trainer: Run) -> None:
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
