"""Callbacks that measure and write down: they read a run and change nothing in it."""

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cnnlab.files import write_whole
from cnnlab.training.hooks import Callback, Run


if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


_MEASURES, _WRITES = -10, 50  # what adds to the row of an epoch comes before what reads it
_STILL = 1e-12  # a smaller ratio is no step at all, and its logarithm would run to -inf


class GradNormLog(Callback):
    """Add `grad_norm_mean` and `grad_norm_max` to each row of the history: the norms before clipping.

    A norm that grows from epoch to epoch, or a maximum far above the mean, asks for a smaller rate, warm-up or
    `clip_norm`. Steps that fp16 left out, for their gradients overflowed, do not count. The norm of every step
    is in `history.steps`.

    >>> GradNormLog().state_dict()  # it keeps nothing: the history does
    {}
    """

    order = _MEASURES

    def __init__(self) -> None:
        self._first = 0  # the step at which the epoch under way began

    def on_epoch_start(self, trainer: Run) -> None:
        """Note where the epoch begins, also when the run resumes in its middle."""
        self._first = trainer.step - trainer.batch

    def on_epoch_end(self, trainer: Run) -> None:
        """Add the two columns."""
        norms = trainer.history.step_rows["grad_norm"][self._first :]
        norms = [norm for norm in norms if math.isfinite(norm)]
        row = trainer.history.epochs[-1]
        row["grad_norm_mean"] = sum(norms) / len(norms) if norms else math.nan
        row["grad_norm_max"] = max(norms, default=math.nan)


class UpdateRatioLog(Callback):
    """Add `log10_update_ratio` to each row: how far a step moves a weight, as a share of its size.

    For each weight tensor (two or more dimensions; biases and norms start at 0 or 1, and their ratios say
    little) and each step it measures log10(|w_after - w_before| / |w_before|). About -3 is healthy; -1 tears
    the weights about, -5 hardly moves them. The row has the median over steps and tensors. A frozen tensor is
    left out; a trained one that does not move counts as -12.

    Attributes:
        epochs: a dictionary an epoch: the median of each weight tensor by its name, NaN while it is frozen.

    A. Karpathy, CS231n notes, "Ratio of weights:updates", https://cs231n.github.io/neural-networks-3/.
    """

    order = _MEASURES

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self._rows: list[
            Tensor
        ] = []  # one a step of the epoch under way: (P,) for P weight tensors
        self._before: list[Tensor] = []

    def on_fit_start(self, trainer: Run) -> None:
        """Forget another run."""
        if trainer.step == 0:
            self._forget()

    def on_epoch_start(self, trainer: Run) -> None:
        """Keep the weights as they are before the first step."""
        self._before = [w.detach().clone() for w in _weights(trainer).values()]
        if trainer.batch == 0:
            self._rows = []

    def on_step_end(self, trainer: Run) -> None:
        """Compare with the weights of the step before."""
        after = list(_weights(trainer).values())
        moved = torch._foreach_norm(torch._foreach_sub([w.detach() for w in after], self._before))
        ratios = torch.stack(moved) / torch.stack(torch._foreach_norm(self._before))
        frozen = torch.tensor([not w.requires_grad for w in after], device=ratios.device)
        self._rows.append(ratios.clamp(min=_STILL).log10().masked_fill(frozen, math.nan))
        torch._foreach_copy_(self._before, [w.detach() for w in after])

    def on_epoch_end(self, trainer: Run) -> None:
        """Add the column, and keep the medians of the single tensors."""
        rows = [row.cpu() for row in self._rows]  # those of a checkpoint lie there already
        table = torch.stack(rows)  # (steps, P)
        medians = table.nanmedian(dim=0).values.tolist()
        self.epochs.append(dict(zip(_weights(trainer), medians, strict=True)))
        trainer.history.epochs[-1]["log10_update_ratio"] = table.nanmedian().item()
        self._rows = []

    def on_fit_end(self, trainer: Run) -> None:
        """Let go of the copies."""
        self._before = []

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured."""
        return {"epochs": self.epochs, "rows": self._rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.epochs, self._rows = list(state["epochs"]), list(state["rows"])


def _weights(trainer: Run) -> dict[str, Tensor]:
    return {n: p for n, p in trainer.model.named_parameters() if p.ndim > 1}


class CSVLog(Callback):
    """Keep the history in a CSV file: a row an epoch, readable while the run goes on.

    After each epoch the whole table is written anew and put in place in one piece. So a resumed run repeats no
    row, a column that appears later is there from the first row (empty), and a crash leaves the old file.

    Args:
        path: the file; its folder is made when it is missing. A file of an earlier run is replaced.
    """

    order = _WRITES
    writes = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_epoch_end(self, trainer: Run) -> None:
        """Write the table."""
        rows = trainer.history.epochs
        columns = list(
            dict.fromkeys(name for row in rows for name in row)
        )  # in order of appearance
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, text.getvalue().encode())


class TensorBoardLog(Callback):
    """Write the numbers of each epoch for TensorBoard: `tensorboard --logdir DIR` shows them.

    The tags are the columns of the history, the horizontal axis counts epochs. When a run resumes, what an
    interrupted one wrote beyond that point is hidden.

    Args:
        dir: the folder of this run; give each run its own, under a common one.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    order = _WRITES
    writes = True

    def __init__(self, dir: str | Path) -> None:
        self.dir = Path(dir)
        self._open = _summary_writer()
        self._writer: SummaryWriter | None = None

    def on_fit_start(self, trainer: Run) -> None:
        """Open the folder."""
        self._writer = self._open(str(self.dir), purge_step=trainer.epoch + 1)

    def on_epoch_end(self, trainer: Run) -> None:
        """Write the row."""
        assert self._writer is not None
        for name, value in trainer.history.epochs[-1].items():
            if name != "epoch" and math.isfinite(value):
                self._writer.add_scalar(name, value, trainer.epoch)
        self._writer.flush()

    def on_fit_end(self, trainer: Run) -> None:
        """Close the folder, however the fit ended."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _summary_writer() -> "type[SummaryWriter]":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoardLog needs TensorBoard: pip install 'cnnlab[log]'. CSVLog needs nothing"
        ) from error
    return SummaryWriter
