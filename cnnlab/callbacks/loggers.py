"""Callbacks that measure and log without changing the run: gradient norms, update ratios, files."""

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cnnlab.devices import to_device
from cnnlab.files import output_folder, user_path, write_whole
from cnnlab.training.hooks import Callback, Run


if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


# Callbacks that add columns to the history run before those that read it.
_MEASURE_ORDER, _WRITE_ORDER = -10, 50
# A smaller update ratio counts as this one, because the logarithm of 0 is -inf.
_MIN_RATIO = 1e-12


class GradNormLog(Callback):
    """Add `grad_norm_mean` and `grad_norm_max` to each row of the history: norms before clipping.

    If the norm grows from epoch to epoch, or the maximum is far above the mean, try a smaller
    learning rate, warm-up or `clip_norm`. Steps that fp16 skipped because a gradient overflowed
    don't count. `history.steps` has the norm of every step.

    >>> GradNormLog().state_dict()  # nothing to save: the norms are in the history
    {}
    """

    order = _MEASURE_ORDER

    def __init__(self) -> None:
        self._first_step = 0  # of the epoch in progress

    def on_epoch_start(self, trainer: Run) -> None:
        """Note the step at which the epoch began, even if the run resumes in the middle of it."""
        self._first_step = trainer.step - trainer.batch

    def on_epoch_end(self, trainer: Run) -> None:
        """Add the two columns."""
        norms = trainer.history.step_rows["grad_norm"][self._first_step :]
        norms = [norm for norm in norms if math.isfinite(norm)]
        row = trainer.history.epochs[-1]
        row["grad_norm_mean"] = sum(norms) / len(norms) if norms else math.nan
        row["grad_norm_max"] = max(norms, default=math.nan)


class UpdateRatioLog(Callback):
    """Add `log10_update_ratio` to each row: the size of a step relative to the size of the weights.

    For each weight tensor and each step this is log10(|w_after - w_before| / |w_before|), and the
    row gets the median over steps and tensors. About -3 is healthy. At -1 the steps are far too
    large, at -5 the weights hardly move. Only tensors with two or more dimensions count, because
    biases and batch-norm parameters start at 0 or 1, so their ratios mean little. Frozen tensors
    are left out; a trainable tensor that doesn't move counts as -12.

    Attributes:
        epochs: one dictionary per epoch, with the median of each weight tensor by its name; NaN
            while the tensor is frozen.

    A. Karpathy, CS231n notes, "Ratio of weights:updates",
    https://cs231n.github.io/neural-networks-3/.
    """

    order = _MEASURE_ORDER

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.epochs: list[dict[str, float]] = []
        # Of the epoch in progress, one tensor (P,) per step, for P weight tensors.
        self._ratios: list[Tensor] = []
        self._before: list[Tensor] = []

    def on_fit_start(self, trainer: Run) -> None:
        """Discard the measurements of an earlier run."""
        if trainer.step == 0:
            self._reset()

    def on_epoch_start(self, trainer: Run) -> None:
        """Copy the weights before the first step."""
        self._before = [w.detach().clone() for w in _weights(trainer).values()]
        if trainer.batch == 0:
            self._ratios = []

    def on_step_end(self, trainer: Run) -> None:
        """Compare the weights with those before the step."""
        after = list(_weights(trainer).values())
        moved = torch._foreach_norm(torch._foreach_sub([w.detach() for w in after], self._before))
        ratios = torch.stack(moved) / torch.stack(torch._foreach_norm(self._before))
        frozen = to_device(torch.tensor([not w.requires_grad for w in after]), ratios.device)
        self._ratios.append(ratios.clamp(min=_MIN_RATIO).log10().masked_fill(frozen, math.nan))
        torch._foreach_copy_(self._before, [w.detach() for w in after])

    def on_epoch_end(self, trainer: Run) -> None:
        """Add the column, and record the median of each tensor."""
        # To the CPU, where the ratios that come from a checkpoint already are. (steps, P)
        table = torch.stack([ratios.cpu() for ratios in self._ratios])
        medians = table.nanmedian(dim=0).values.tolist()
        self.epochs.append(dict(zip(_weights(trainer), medians, strict=True)))
        trainer.history.epochs[-1]["log10_update_ratio"] = table.nanmedian().item()
        self._ratios = []

    def on_fit_end(self, trainer: Run) -> None:
        """Free the copies of the weights."""
        self._before = []

    def state_dict(self) -> dict[str, Any]:
        """Return the medians of the finished epochs, and the ratios of the epoch in progress."""
        return {"epochs": self.epochs, "ratios": self._ratios}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.epochs, self._ratios = list(state["epochs"]), list(state["ratios"])


def _weights(trainer: Run) -> dict[str, Tensor]:
    """Return the parameters with two or more dimensions, by name."""
    return {n: p for n, p in trainer.model.named_parameters() if p.ndim > 1}


class CSVLog(Callback):
    """Write the history to a CSV file with one row per epoch, which you can read during the run.

    The whole table is rewritten after each epoch, in one atomic operation. So a resumed run repeats
    no row, a column that appears later is empty in the earlier rows, and a crash leaves the
    previous file intact.

    Args:
        path: the file; its folder is created if it's missing. A file of an earlier run is replaced.

    Raises:
        ValueError: the path is empty or a folder.
    """

    order = _WRITE_ORDER
    writes = True

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        if not self.path.name or self.path.is_dir():
            raise ValueError(
                f"CSVLog writes a file, and {str(path)!r} is a folder: use a name like 'run.csv'"
            )

    def on_epoch_end(self, trainer: Run) -> None:
        """Write the table."""
        rows = trainer.history.epochs
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, text.getvalue().encode())


class TensorBoardLog(Callback):
    """Log the metrics of each epoch for TensorBoard; `tensorboard --logdir DIR` shows them.

    The tags are the columns of the history, and the horizontal axis is the epoch. When a run
    resumes, anything that was logged beyond that epoch is hidden.

    Args:
        dir: the folder for this run. Give each run its own folder inside a common one.

    Raises:
        ImportError: TensorBoard isn't installed.
        ValueError: the path is empty or a file.
    """

    order = _WRITE_ORDER
    writes = True

    def __init__(self, dir: str | Path) -> None:
        self.dir = output_folder(dir, "TensorBoardLog")
        self._open = _summary_writer()
        self._writer: SummaryWriter | None = None

    def on_fit_start(self, trainer: Run) -> None:
        """Open the log, and hide what an interrupted run wrote after the current epoch."""
        self._writer = self._open(str(self.dir), purge_step=trainer.epoch + 1)

    def on_epoch_end(self, trainer: Run) -> None:
        """Log every finite value of the row."""
        assert self._writer is not None
        for name, value in trainer.history.epochs[-1].items():
            if name != "epoch" and math.isfinite(value):
                self._writer.add_scalar(name, value, trainer.epoch)
        self._writer.flush()

    def on_fit_end(self, trainer: Run) -> None:
        """Close the log, however the fit ended."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _summary_writer() -> "type[SummaryWriter]":
    """Import TensorBoard's writer, or explain how to install it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoardLog needs TensorBoard: pip install 'cnnlab[log]'. CSVLog works without it"
        ) from error
    return SummaryWriter
