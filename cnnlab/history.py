"""The record of a run: a row an epoch, a row a step."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cnnlab import distributed


if TYPE_CHECKING:
    from pandas import DataFrame

    from cnnlab.plots import Plot


class Sums:
    """Running means over samples, so that a short last batch weighs what it holds and no more."""

    def __init__(self) -> None:
        self.loss = self.mass = self.correct = self.count = 0.0

    def add(self, loss: float, correct: float, count: int, mass: float) -> None:
        """Take in a batch: its mean loss, right answers, samples, and what its loss was divided by."""
        self.loss, self.mass = self.loss + loss * mass, self.mass + mass
        self.correct, self.count = self.correct + correct, self.count + count

    def add_up(self) -> None:
        """Take in what the other processes have."""
        numbers = distributed.summed(self.loss, self.mass, self.correct, self.count)
        self.loss, self.mass, self.correct, self.count = numbers

    def state_dict(self) -> dict[str, float]:
        """Return the sums of an epoch under way."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take back what `state_dict` returned."""
        self.loss, self.mass = state["loss"], state["mass"]
        self.correct, self.count = state["correct"], state["count"]

    def means(self) -> dict[str, float]:
        """Return `{"loss": ..., "acc": ...}` of all that was added; NaN where nothing was."""
        nan = float("nan")
        return {
            "loss": self.loss / self.mass if self.mass else nan,
            "acc": self.correct / self.count if self.count else nan,
        }


def n_correct(logits: Tensor, targets: Tensor) -> float:
    """Count right answers; NaN when the targets are mixed or the model is no classifier."""
    if logits.ndim != 2 or targets.ndim != 1 or targets.is_floating_point():
        return float("nan")
    return torch.count_nonzero(logits.argmax(1) == targets).item()


class History:
    """What a fit measured, as tables.

    Attributes:
        stop_reason: why a callback or a signal ended the run, or None.
        partial: the epoch under way when the run was stopped, as a dictionary, or None.
        skipped_steps: steps that fp16 gave up because a scaled gradient overflowed.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.step_rows: dict[str, list[float]] = {"lr": [], "loss": [], "grad_norm": []}
        self.skipped_steps = 0
        self.stop_reason: str | None = None
        self.partial: dict[str, Any] | None = None

    def frame(self) -> "DataFrame":
        """Return a table with one row a finished epoch.

        Columns: epoch (finished so far), lr (of the first group, at the epoch's last step), train_loss and
        train_acc (means over the samples, in training mode, while the weights moved), valid_loss and valid_acc
        when there was validation data, seconds, and what the callbacks added. `train_acc` is NaN when targets
        were mixed, for it would mean nothing.
        """
        import pandas as pd

        return pd.DataFrame(self.epochs)

    @property
    def steps(self) -> "DataFrame":
        """A table with one row an optimizer step: step, lr, loss, grad_norm (before clipping)."""
        import pandas as pd

        rows = pd.DataFrame(self.step_rows)
        rows.insert(0, "step", range(len(rows)))
        return rows

    def plot(self) -> "Plot":
        """Draw the learning curves."""
        from cnnlab.plots import curves

        return curves(self.frame())

    def __repr__(self) -> str:
        if not self.epochs:
            return "History: no epoch finished yet"
        last = ", ".join(
            f"{k} {v:.4g}" for k, v in self.epochs[-1].items() if k not in ("epoch", "seconds")
        )
        return f"History: {len(self.epochs)} epochs, {last}"

    def _repr_html_(self) -> str:
        return self.frame().to_html(index=False, float_format="{:.4g}".format)

    def state_dict(self) -> dict[str, Any]:
        """Return the tables as plain values and tensors."""
        rows = {k: torch.tensor(v, dtype=torch.float64) for k, v in self.step_rows.items()}
        return {"epochs": self.epochs, "steps": rows, "skipped_steps": self.skipped_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.epochs = [dict(row) for row in state["epochs"]]
        self.step_rows = {k: v.tolist() for k, v in state["steps"].items()}
        self.skipped_steps = int(state["skipped_steps"])
        self.stop_reason = self.partial = None
