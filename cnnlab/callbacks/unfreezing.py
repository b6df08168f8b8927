"""Gradual unfreezing: train the head first, then one stage after another."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from operator import index

from torch import nn

from cnnlab.training.hooks import Callback, Run
from cnnlab.transfer import freeze, unfreeze


class GradualUnfreeze(Callback):
    """Train the head first, then unfreeze one stage after another from the top down.

    The number of finished epochs alone determines what is frozen, so a resumed run does the same as
    an uninterrupted one. Frozen batch-norm layers keep their running statistics
    (`transfer.train_mode`).

    Args:
        stages: the modules from bottom to top, as `models.stages(model)` returns them. The last one
            is the head, which always trains. If part of the model should stay frozen, leave it out
            here and freeze it with `transfer.freeze`.
        at_epochs: for each stage below the head, from the top down, the number of finished epochs
            after which it is unfrozen. With `[1, 3]` the stage just below the head joins in the
            second epoch, and the next one in the fourth.

    Raises:
        ValueError: there is not one epoch per stage below the head, or the epochs fall; or, when a
            fit starts, the optimizer lacks parameters of a stage. It needs all of them from the
            start, and doesn't change the frozen ones.

    Howard & Ruder 2018, section 3.3, https://arxiv.org/abs/1801.06146.

    >>> backbone, head = nn.Linear(4, 4), nn.Linear(4, 2)
    >>> GradualUnfreeze([backbone, head], at_epochs=[2]).at_epochs
    [2]
    """

    order = -20  # before the callbacks that measure

    def __init__(self, stages: Sequence[nn.Module], at_epochs: Sequence[int]) -> None:
        self.stages = list(stages)
        try:
            self.at_epochs = [index(epoch) for epoch in at_epochs]
        except TypeError:
            raise ValueError(
                f"at_epochs must be whole numbers of epochs, got {at_epochs!r}"
            ) from None
        if len(self.at_epochs) != len(self.stages) - 1:
            raise ValueError(
                f"at_epochs has {len(self.at_epochs)} entries, but {len(self.stages)} stages need "
                f"{len(self.stages) - 1}, one for each stage below the head"
            )
        if any(a > b for a, b in pairwise([0, *self.at_epochs])):
            raise ValueError(
                "at_epochs goes from the top stage down, so its epochs must not fall or be "
                f"negative; got {self.at_epochs}"
            )

    def on_fit_start(self, trainer: Run) -> None:
        """Check that the optimizer has the parameters of every stage."""
        optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
        missing = sum(id(p) not in optimized for stage in self.stages for p in stage.parameters())
        if missing:
            raise ValueError(
                f"the optimizer lacks {missing} parameters of the stages; create it from all "
                "model.parameters(), or from transfer.param_groups(model, lr), and take the stages "
                "from the same model"
            )

    def on_epoch_start(self, trainer: Run) -> None:
        """Freeze and unfreeze the stages according to the number of finished epochs."""
        n_trained = 1 + bisect_right(self.at_epochs, trainer.epoch)
        for depth, stage in enumerate(reversed(self.stages)):
            (unfreeze if depth < n_trained else freeze)(stage)
