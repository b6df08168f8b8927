"""The record of a run: one row per epoch, one row per step."""

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from pandas import DataFrame

    from cnnlab.plots import Plot


class History:
    """The measurements of a fit, as tables.

    Attributes:
        stop_reason: why a callback or a signal ended the run; None if nothing did.
        partial: the epoch in progress when the run was stopped, as a dictionary; None if there was
            none.
        skipped_steps: steps that fp16 skipped because a scaled gradient overflowed.
    """

    # During a fit the trainer replaces it by a function that reads the steps still on the GPU.
    read_steps: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self._step_rows: dict[str, list[float]] = {"lr": [], "loss": [], "grad_norm": []}
        self.skipped_steps = 0
        self.stop_reason: str | None = None
        self.partial: dict[str, Any] | None = None

    @property
    def step_rows(self) -> dict[str, list[float]]:
        """The columns lr, loss and grad_norm, with one value per step; reading waits for a GPU."""
        self.read_steps()
        return self._step_rows

    def add_step(self, lr: float, loss: float, grad_norm: float) -> None:
        """Add a row for a step."""
        for name, value in (("lr", lr), ("loss", loss), ("grad_norm", grad_norm)):
            self._step_rows[name].append(value)

    def to_pandas(self) -> "DataFrame":
        """Return a table with one row per finished epoch.

        The columns are epoch (finished so far), lr (of the first parameter group, at the epoch's
        last step), train_loss and train_acc (means over the samples, in training mode, while the
        weights changed), valid_loss and valid_acc if there was validation data, ema_valid_loss and
        ema_valid_acc if the trainer has an EMA too, seconds, and what the callbacks added. Each
        metric of the trainer adds columns such as train_mae and valid_mae. The accuracies are
        absent if the model doesn't classify. `train_acc` is NaN for mixed targets, because they
        have no single correct class.
        """
        import pandas as pd

        return pd.DataFrame(self.epochs)

    def frame(self) -> "DataFrame":
        """Return `to_pandas()`, under its earlier name."""
        return self.to_pandas()

    @property
    def steps(self) -> "DataFrame":
        """A table with one row per optimizer step: step, lr, loss, grad_norm (before clipping)."""
        import pandas as pd

        rows = pd.DataFrame(self.step_rows)
        rows.insert(0, "step", range(len(rows)))
        return rows

    def plot(self, *, message: str | None = None) -> "Plot":
        """Draw the learning curves.

        Args:
            message: the title; by default, it says after which epoch the validation loss is lowest.

        Raises:
            ValueError: no epoch has finished yet.
        """
        if not self.epochs:
            raise ValueError("no epoch has finished, so there is nothing to draw: call fit first")
        from cnnlab.plots import curves

        return curves(self.to_pandas(), message=message)

    def __repr__(self) -> str:
        if not self.epochs:
            return "History: no epoch finished yet"
        last = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, Real) else f"{k} {v}"
            for k, v in self.epochs[-1].items()
            if k not in ("epoch", "seconds")
        )
        n = len(self.epochs)
        return f"History: {n} epoch{'s' * (n != 1)}, {last}"

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html(index=False, float_format="{:.4g}".format)

    def state_dict(self) -> dict[str, Any]:
        """Return the tables as plain values and tensors."""
        rows = {k: torch.tensor(v, dtype=torch.float64) for k, v in self.step_rows.items()}
        return {"epochs": self.epochs, "steps": rows, "skipped_steps": self.skipped_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.epochs = [dict(row) for row in state["epochs"]]
        self._step_rows = {k: v.tolist() for k, v in state["steps"].items()}
        self.skipped_steps = int(state["skipped_steps"])
        self.stop_reason = self.partial = None
