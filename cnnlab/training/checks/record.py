"""Checks of what a run records: monitored metrics, and checkpoints."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cnnlab.errors import CheckpointError
from cnnlab.training.checks.wording import few


def check_plateau(plateau: Any, name: str, row: Mapping[str, float]) -> None:
    """Refuse a metric that a plateau can't watch.

    Raises:
        ValueError: there is no such metric; it is NaN; or it is negative and the threshold
            relative, which would mistake worse for better.
    """
    if name not in row:
        raise ValueError(f"plateau watches {name}, which this run doesn't have: {few(row, 12)}")
    check_number(name, row[name])
    if row[name] < 0 and getattr(plateau, "threshold_mode", "abs") == "rel":
        raise ValueError(
            f"the monitored value is negative ({row[name]:.4g}), and a threshold relative to it "
            "would count a worse value as an improvement: use cnnlab.schedules.Plateau, or "
            "threshold_mode='abs'"
        )


def check_number(name: str, value: float) -> None:
    """Refuse to act on a metric that is NaN or infinite.

    Raises:
        ValueError: it is.
    """
    if math.isinf(value):
        raise ValueError(
            f"{name} is {value}, so it can't be used to compare epochs: monitor the loss"
        )
    if math.isnan(value):
        reason = " (mixed targets have no single correct class)" if name.endswith("acc") else ""
        raise ValueError(
            f"{name} is NaN{reason}, so it can't be used to compare epochs: monitor the loss"
        )


def check_mode(mode: str) -> None:
    """Refuse a mode other than "min" and "max".

    Raises:
        ValueError: it is neither.
    """
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', whichever is better; got {mode!r}")


def check_keys(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Compare saved weights with a model before any of them is copied.

    Raises:
        CheckpointError: names are missing or unknown, or shapes differ; each is named.
    """
    own = model.state_dict()
    for prefix in ("module.", "_orig_mod."):
        if state and all(k.startswith(prefix) for k in state) and not own.keys() & state.keys():
            raise CheckpointError(
                f"the names in the checkpoint begin with {prefix!r}, which DataParallel or "
                f"torch.compile added: remove it, {{k.removeprefix({prefix!r}): v for k, v in "
                "state.items()}"
            )
    if own and all(k.startswith("_orig_mod.") for k in own) and not own.keys() & state.keys():
        raise CheckpointError(
            "the model was compiled with torch.compile(model), which puts '_orig_mod.' before its "
            "names, and the checkpoint is that of a plain model: load it into the plain model, and "
            "use Trainer(..., compile=True), which keeps the names"
        )
    shapes = [
        f"{k} is {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the model"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape
    ]
    faults = [
        *(f"{k} is not in the file" for k in own.keys() - state.keys()),
        *(f"{k} is not in the model" for k in state.keys() - own.keys()),
        *shapes,
    ]
    if faults:
        raise CheckpointError(
            "the checkpoint belongs to another model: "
            + "; ".join(sorted(faults)[:5])
            + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
            + ". Build the model as it was, or load the checkpoint before you call replace_head"
        )
