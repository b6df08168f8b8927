"""Train the head first, then one stage after another."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from cnnlab.training.hooks import Callback, Run
from cnnlab.transfer import freeze, unfreeze


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

    def on_fit_start(self, trainer: Run) -> None:
        """Check that the optimizer holds every stage."""
        held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
        lacking = sum(id(p) not in held for stage in self.stages for p in stage.parameters())
        if lacking:
            raise ValueError(
                f"the optimizer lacks {lacking} parameters of the stages: build it from all of "
                "model.parameters(), or from transfer.param_groups(model, lr), with stages of the same model"
            )

    def on_epoch_start(self, trainer: Run) -> None:
        """Freeze and unfreeze what this epoch asks for."""
        trained = 1 + bisect_right(self.at_epochs, trainer.epoch)
        for depth, stage in enumerate(reversed(self.stages)):
            (unfreeze if depth < trained else freeze)(stage)
