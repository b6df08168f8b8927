"""What a run must remember to go on bit for bit, and how it takes that back.

No generator states and no data order: both are functions of the seed and the counts (see `rng.py`).
"""

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from cnnlab.errors import CheckpointError
from cnnlab.guards import check_keys


if TYPE_CHECKING:
    from torch.optim import Optimizer

    from cnnlab.trainer import Trainer

# Another kind of these would take the state, and do something else with it.
KINDS = ("optimizer", "scheduler", "plateau", "ema")
# What an optimizer remembers in the shape of the parameter.
MOMENTS = {"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
# What has a state of its own, in the order in which it is restored.
PARTS = ("model", "optimizer", "scheduler", "plateau", "scaler", "ema", "history", "sums")


def state_of(trainer: "Trainer") -> dict[str, Any]:
    """Return all that a run must remember, not copied yet."""
    parts = {name: getattr(trainer, name) for name in PARTS}
    return {
        "seed": trainer.seed,
        "epoch": trainer.epoch,
        "batch": trainer.batch,
        "step": trainer.step,
        "frozen": [n for n, p in trainer.model.named_parameters() if not p.requires_grad],
        "callbacks": [[type(c).__name__, c.state_dict()] for c in trainer.callbacks],
        "loss_fn": (loss := _learning(trainer.loss_fn)) and loss.state_dict(),
        "kinds": {name: type(getattr(trainer, name)).__name__ for name in KINDS},
        **{name: part and part.state_dict() for name, part in parts.items()},
    }


def check(trainer: "Trainer", state: dict[str, Any]) -> None:
    """Compare a state with a run before anything is touched.

    Raises:
        CheckpointError: they do not belong together; the message says where they differ.
    """
    missing = state_of(trainer).keys() - state.keys()
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks {', '.join(sorted(missing))}; it was not saved by Trainer.save"
        )
    if state["seed"] != trainer.seed:
        raise CheckpointError(
            f"the checkpoint was made with seed={state['seed']}, this trainer has seed={trainer.seed}; "
            "use the same seed to go on exactly"
        )
    for name in PARTS:
        here, there = getattr(trainer, name) is not None, state[name] is not None
        if here != there:
            raise CheckpointError(
                f"the checkpoint was made {'with' if there else 'without'} {name}=, this trainer "
                f"{'has one' if here else 'has none'}; build the trainer as it was"
            )
    for name in KINDS:
        kind, saved = type(getattr(trainer, name)).__name__, state["kinds"].get(name)
        if saved != kind:
            raise CheckpointError(
                f"the {name} of the checkpoint is {saved}, that of this trainer {kind}; "
                "build the trainer as it was"
            )
    if (_learning(trainer.loss_fn) is None) != (state["loss_fn"] is None):
        raise CheckpointError(
            "a loss_fn with weights of its own is either in the checkpoint or in this trainer; build it as it was"
        )
    counts = {name: state[name] for name in ("epoch", "batch", "step")}
    if not all(isinstance(count, int) and count >= 0 for count in counts.values()):
        raise CheckpointError(f"the counts of the checkpoint are {counts}, not whole numbers")
    check_keys(trainer.model, state["model"])
    _check_moments(trainer.optimizer, state["optimizer"])


def _learning(loss_fn: Any) -> nn.Module | None:
    """The loss, if it has weights of its own."""
    return loss_fn if isinstance(loss_fn, nn.Module) and [*loss_fn.parameters()] else None


def _check_moments(optimizer: "Optimizer", state: dict[str, Any]) -> None:
    """Hold what an optimizer remembers of each parameter against the parameter's shape."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    memories = state.get("state", {})
    for number, parameter in enumerate(held):
        memory = memories.get(number, {})
        for name in MOMENTS & memory.keys():
            moment = memory[name]
            if moment is not None and moment.shape != parameter.shape:
                raise CheckpointError(
                    f"{name} of parameter {number} is {tuple(moment.shape)} in the checkpoint and belongs to "
                    f"{tuple(parameter.shape)} here; build model and optimizer as they were"
                )


def restore(trainer: "Trainer", state: dict[str, Any]) -> None:
    """Put a trainer into a state, in place.

    Raises:
        CheckpointError: a callback of the saved run is missing here; the trainer is then half restored.
    """
    state = copy.deepcopy(state)  # optimizers keep what they are given
    for name in PARTS:
        if getattr(trainer, name) is not None:
            getattr(trainer, name).load_state_dict(state[name])
    if loss_fn := _learning(trainer.loss_fn):
        loss_fn.load_state_dict(state["loss_fn"])
    frozen = set(state["frozen"])
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    trainer.epoch, trainer.batch, trainer.step = state["epoch"], state["batch"], state["step"]
    saved = state["callbacks"]
    for callback in trainer.callbacks:
        own = next((s for s in saved if s[0] == type(callback).__name__), None)
        if own is not None:
            saved.remove(own)
            callback.load_state_dict(own[1])
    forgotten = [name for name, memory in saved if memory]
    if forgotten:
        raise CheckpointError(f"it holds the memory of {forgotten}, which this trainer lacks")
