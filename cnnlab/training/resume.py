"""Save and restore everything a run needs to continue bit for bit.

Generator states and the order of the data are not saved: both follow from the seed and the counts
(see `rng.py`).
"""

import copy
import warnings
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from cnnlab.errors import CheckpointError
from cnnlab.losses import RunningMeans, class_weights
from cnnlab.training.checks import check_keys
from cnnlab.training.hooks import Callback, Run


# Parts with a state of their own, in the order in which they are restored.
PARTS = ("model", "optimizer", "scheduler", "plateau", "scaler", "ema", "history", "means")
# Parts that come in several classes: another class might accept the state and misread it.
CLASSES = ("optimizer", "scheduler", "plateau", "ema")
# Values that an optimizer keeps for each parameter, in the parameter's shape.
# Settings of an optimizer. A scheduler changes some of them.
SETTINGS = ("initial_lr", "lr", "momentum", "weight_decay", "betas", "nesterov", "alpha")
MOMENTS = {"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


class ResumableRun(Run, Protocol):
    """A run with everything that a checkpoint contains; the `Trainer` is one."""

    seed: int
    loss_fn: Any
    scheduler: Any
    plateau: Any
    means: RunningMeans
    last_loader_shape: Any
    skipped_in_a_row: int
    callbacks: list[Callback]


def state_of(run: ResumableRun) -> dict[str, Any]:
    """Return everything the run needs to continue; not copied yet."""
    parts = {name: getattr(run, name) for name in PARTS}
    return {
        "seed": run.seed,
        "epoch": run.epoch,
        "batch": run.batch,
        "step": run.step,
        "frozen": [n for n, p in run.model.named_parameters() if not p.requires_grad],
        "callbacks": [[type(c).__name__, c.state_dict()] for c in run.callbacks],
        "loss_fn": _loss_state(run.loss_fn),
        "loader_shape": run.last_loader_shape,
        "skipped_in_a_row": run.skipped_in_a_row,
        "classes": {name: type(getattr(run, name)).__name__ for name in CLASSES},
        **{name: None if part is None else part.state_dict() for name, part in parts.items()},
    }


def check(run: ResumableRun, state: dict[str, Any]) -> None:
    """Compare a state with a run before anything is changed.

    Raises:
        CheckpointError: they don't belong together; the message says where they differ.
    """
    missing = state_of(run).keys() - state.keys()
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks {', '.join(sorted(missing))}; it was not saved by Trainer.save"
        )
    if state["seed"] != run.seed:
        raise CheckpointError(
            f"the checkpoint was made with seed={state['seed']}, this trainer has seed={run.seed}; "
            "use the same seed to continue exactly"
        )
    for name in PARTS:
        here, there = getattr(run, name) is not None, state[name] is not None
        if here != there:
            raise CheckpointError(
                f"the checkpoint was made {'with' if there else 'without'} {name}=, this trainer "
                f"{'has one' if here else 'has none'}; build the trainer as it was"
            )
    for name in CLASSES:
        own, saved = type(getattr(run, name)).__name__, state["classes"].get(name)
        if saved != own:
            raise CheckpointError(
                f"the {name} of the checkpoint is {saved}, that of this trainer is {own}; "
                "build the trainer as it was"
            )
    if (_loss_state(run.loss_fn) or {}).keys() != (state["loss_fn"] or {}).keys():
        raise CheckpointError(
            "the loss_fn of the checkpoint has other parameters or buffers than that of this "
            "trainer; build the trainer as it was"
        )
    if not isinstance(state["means"], dict) or state["means"].keys() != vars(run.means).keys():
        raise CheckpointError(
            "the running means of the unfinished epoch are damaged in the checkpoint; load an "
            "older one"
        )
    if state["batch"] and _metric_names(state) != set(run.means.metrics):
        raise CheckpointError(
            f"the epoch in progress was evaluated with the metrics {sorted(_metric_names(state))}, "
            f"this trainer has {sorted(run.means.metrics)}; build the trainer as it was"
        )
    _check_class_weights(run.loss_fn, state["loss_fn"])
    counts = {name: state[name] for name in ("epoch", "batch", "step")}
    if not all(isinstance(count, int) and count >= 0 for count in counts.values()):
        raise CheckpointError(f"the counts of the checkpoint are {counts}, not whole numbers")
    check_keys(run.model, state["model"])
    _check_moments(run.optimizer, state["optimizer"])
    _warn_about_settings(run, state["optimizer"])


def _metric_names(state: dict[str, Any]) -> set[str]:
    return set(state["means"].get("metrics", ()))


def _loss_state(loss_fn: Any) -> dict[str, Any] | None:
    """Return the parameters and buffers of the loss; None if it has none."""
    return (loss_fn.state_dict() or None) if isinstance(loss_fn, nn.Module) else None


def _check_class_weights(loss_fn: Any, saved: dict[str, Any] | None) -> None:
    """Refuse other class weights than those of the saved run, which would replace them."""
    own, there = class_weights(loss_fn), (saved or {}).get("weight")
    if own is not None and there is not None and not torch.equal(own.cpu(), there.cpu()):
        raise CheckpointError(
            f"the checkpoint was made with the class weights {there.tolist()}, the loss of this "
            f"trainer has {own.tolist()}; build the trainer as it was"
        )


def _warn_about_settings(run: ResumableRun, state: dict[str, Any]) -> None:
    """Warn about settings of a new optimizer that the checkpoint replaces, once for all groups."""
    scheduled = set() if run.scheduler is None else {"momentum", "betas", "lr"}
    if run.plateau is not None:
        scheduled.add("lr")
    for own, saved in zip(run.optimizer.param_groups, state.get("param_groups", ()), strict=False):
        names = [n for n in SETTINGS if n in own and n in saved and n not in scheduled]
        differing = [name for name in names if own[name] != saved[name]]
        if differing and run.step == 0:
            name = differing[0]
            warnings.warn(
                f"the optimizer has {name}={own[name]}, and the checkpoint {saved[name]}, which is "
                "used from now on, so that the run continues exactly. To change it, set "
                f"optimizer.param_groups[...][{name!r}] after load",
                UserWarning,
                stacklevel=5,
            )
            return


def _check_moments(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Compare the shapes of an optimizer's moments with those of the parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = state.get("state", {})
    for number, parameter in enumerate(parameters):
        moments = saved.get(number, {})
        for name in MOMENTS & moments.keys():
            moment = moments[name]
            if moment is not None and moment.shape != parameter.shape:
                raise CheckpointError(
                    f"{name} of parameter {number} is {tuple(moment.shape)} in the checkpoint, but "
                    f"the parameter is {tuple(parameter.shape)} here; build model and optimizer as "
                    "they were"
                )


def restore(run: ResumableRun, state: dict[str, Any]) -> None:
    """Put a run into a saved state, in place.

    Raises:
        CheckpointError: a callback of the saved run is missing here; the run is then only half
            restored.
    """
    state = copy.deepcopy(state)  # optimizers keep the tensors they are given
    frozen = set(state["frozen"])  # first, because averages note which norms are frozen
    for name, parameter in run.model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    for name in PARTS:
        if name == "means" and not state["batch"]:
            continue  # a new epoch starts, perhaps with other metrics
        if getattr(run, name) is not None:
            getattr(run, name).load_state_dict(state[name])
    if state["loss_fn"] is not None:
        run.loss_fn.load_state_dict(state["loss_fn"])
    run.last_loader_shape = state["loader_shape"]
    run.skipped_in_a_row = state["skipped_in_a_row"]
    run.epoch, run.batch, run.step = state["epoch"], state["batch"], state["step"]
    saved = state["callbacks"]
    for callback in run.callbacks:
        own = next((s for s in saved if s[0] == type(callback).__name__), None)
        if own is not None:
            saved.remove(own)
            callback.load_state_dict(own[1])
    unclaimed = [name for name, memory in saved if memory]
    if unclaimed:
        raise CheckpointError(
            f"it contains the state of {', '.join(unclaimed)}, but this trainer has no such "
            "callback: pass the same callbacks=[...] as in the saved run"
        )
