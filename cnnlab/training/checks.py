"""Everything the trainer refuses, in the order of a run, from its options to a checkpoint.

Each function raises an error that says what is wrong, what is allowed and what to type instead.
Where torch would raise a long traceback, or train on something wrong without a word, the check
comes first.
"""

from collections.abc import Iterable, Sized
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cnnlab.errors import CheckpointError, DataError, NonFiniteError
from cnnlab.losses import class_weights, ignore_index, soft_cross_entropy


Options = (
    Any  # `options.TrainerOptions`, which is checked by this file and so can't be imported here
)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Losses that compare predictions and targets entry by entry: torch would broadcast (N,) against (N,
# 1) to (N, N).
ELEMENTWISE = {"MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCELoss", "BCEWithLogitsLoss"}
ELEMENTWISE |= {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
ELEMENTWISE |= {"binary_cross_entropy", "binary_cross_entropy_with_logits"}


# Before anything runs: the options of the trainer.


def check_options(options: Options, device: torch.device) -> None:
    """Refuse options that contradict each other or don't exist on the device.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: everything else.
    """
    _check_types(options)
    _check_belongs_together(options)
    loss_fn = options.loss_fn
    settings = (
        loss_fn.keywords if isinstance(loss_fn, partial) else getattr(loss_fn, "__dict__", {})
    )
    if settings.get("reduction") == "sum":
        raise ValueError(
            "loss_fn sums the losses of a batch, so the size of a step would depend on the batch "
            "size: "
            'leave out reduction="sum"'
        )
    if options.clip_norm is not None and options.clip_value is not None:
        raise ValueError("use either clip_norm or clip_value, not both; clip_norm=1.0 is common")
    for name in ("clip_norm", "clip_value"):
        value = getattr(options, name)
        if value is not None and not (isinstance(value, Real) and float(value) > 0):
            raise ValueError(
                f"{name} must be a positive number, got {value!r}; leave it out to clip nothing"
            )
    size = options.microbatch
    if size is not None and not (isinstance(size, int) and size >= 1):
        raise ValueError(f"microbatch is a number of samples, at least 1; got {size!r}")
    if options.precision not in PRECISIONS:
        names = ", ".join(map(repr, PRECISIONS))
        raise ValueError(f"precision must be one of {names}; got {options.precision!r}")
    if options.precision == "fp16" and device.type != "cuda":
        raise ValueError(
            f"fp16 needs a CUDA device and this one is {device.type}: use bf16 or fp32"
        )


def _check_types(options: Options) -> None:
    kinds = {"model": nn.Module, "optimizer": torch.optim.Optimizer}
    for name, kind in kinds.items():
        value = getattr(options, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a torch {kind.__name__}, got {value!r:.60}")
    if not (options.loss_fn is None or callable(options.loss_fn)):
        raise TypeError(
            f"loss_fn must be a function (logits, targets) -> loss, got {options.loss_fn!r:.60}"
        )
    if not (options.ema is None or hasattr(options.ema, "update")):
        raise TypeError(f"ema must be a cnnlab.averaging.EMA(model), got {options.ema!r:.60}")
    callbacks = options.callbacks
    if not isinstance(callbacks, list | tuple) or not all(
        hasattr(type(callback), "on_step_end") for callback in callbacks
    ):
        raise TypeError(f"callbacks must be a list of callbacks, got {callbacks!r:.60}")
    if not (options.plateau is None or hasattr(options.plateau, "mode")):
        raise TypeError(
            f"plateau must be a cnnlab.schedules.Plateau(optimizer), got {options.plateau!r:.60}"
        )
    if not (options.scheduler is None or hasattr(options.scheduler, "step")):
        raise TypeError(
            "scheduler must be attached to the optimizer, and a schedule alone is only a function: "
            "use cnnlab.schedules.attach(optimizer, schedule)"
        )
    if isinstance(options.scheduler, ReduceLROnPlateau):
        raise TypeError(
            "scheduler steps once per optimizer update, and ReduceLROnPlateau once per epoch: "
            "pass it as plateau="
        )


def _check_belongs_together(options: Options) -> None:
    for name in ("scheduler", "plateau"):
        controlled = getattr(getattr(options, name), "optimizer", options.optimizer)
        if controlled is not options.optimizer:
            raise ValueError(
                f"the {name} controls a different optimizer and would have no effect; create it "
                "from this one"
            )
    if getattr(options.ema, "source", options.model) is not options.model:
        raise ValueError("the ema averages a different model; create it from this one: EMA(model)")
    if options.scheduler is not None and options.plateau is not None:
        raise ValueError(
            "use either scheduler or plateau, not both: at its next step the scheduler would "
            "overwrite "
            "the learning rate that plateau has set"
        )


def as_device(device: Any) -> torch.device:
    """Return the device, if this machine has it.

    Raises:
        ValueError: there is no such device here, or no such kind of device.
    """
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"there is no device {device!r} here ({reason}); leave out device= to get the best "
            "one, or use 'cpu'"
        ) from None
    return chosen


# When a fit starts: epochs, loaders, optimizer.


def check_fit(options: Options, train: Any, valid: Any, epochs: int) -> None:
    """Refuse arguments of `Trainer.fit` that can't work.

    Raises:
        TypeError: a loader can't be iterated over.
        ValueError: there are no epochs, no validation data for the plateau, unusable class weights,
            or nothing that the optimizer could train.
        DataError: a loader is empty, or its last batch has a single image, which batch norm can't
            use.
    """
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs is the total number of epochs, at least 1; got {epochs!r}")
    check_loader(train)
    _check_last_batch(train, options.model)
    if options.plateau is not None and valid is None:
        raise ValueError("plateau needs validation data to watch: fit(train, valid, epochs=...)")
    if valid is not None:
        check_loader(valid)
    check_balance(train, options.loss_fn)
    check_optimizer(options.model, options.optimizer, options.loss_fn)


def check_loader(loader: Any) -> None:
    """Refuse something that yields no batches, such as a data set or an empty loader.

    Raises:
        TypeError: it can't be iterated over; a data set can't.
        DataError: it has no batch.
    """
    if not isinstance(loader, Iterable):  # torch's data sets are not
        raise TypeError(
            f"expected a loader that yields batches, got {type(loader).__name__}; make one from a "
            "data set with "
            "cnnlab.loader(dataset, batch_size=64)"
        )
    if n_batches(loader) == 0:
        size = len(getattr(loader, "dataset", ()))
        raise DataError(
            f"the loader is empty, it gave no batch: {size} samples, batch size "
            f"{getattr(loader, 'batch_size', '?')}, drop_last={getattr(loader, 'drop_last', '?')}; "
            "add data, or make the batches smaller"
        )


def _check_last_batch(loader: Any, model: nn.Module) -> None:
    normalises = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if normalises and last_batch_size(loader) == 1 and loader.batch_size != 1:
        raise DataError(
            f"with batches of {loader.batch_size}, the last batch has a single image, and "
            "BatchNorm can't compute "
            "a variance from one: use drop_last=True or another batch size"
        )


def check_balance(loader: Any, loss_fn: Any) -> None:
    """Refuse class weights that are not positive, or that a weighted sampler makes redundant.

    Raises:
        ValueError: a weight is 0 or less, or the loader has a weighted sampler and the loss class
            weights.
    """
    weights = class_weights(loss_fn)
    if weights is not None and not (weights > 0).all():
        raise ValueError(
            f"class weights must be positive, got {weights.tolist()}: the mean loss of a batch "
            "whose classes all "
            "have weight 0 is undefined; leave such classes out of the data"
        )
    sampler = getattr(loader, "sampler", None)
    has_weights = weights is not None or getattr(loss_fn, "weight", None) is not None
    if has_weights and hasattr(sampler, "weights"):
        raise ValueError(
            f"{type(sampler).__name__} and class weights together correct the imbalance twice, so "
            "the rare "
            "classes are predicted too often: leave out the sampler, or the weight of the loss"
        )


def check_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Any = None
) -> None:
    """Refuse an optimizer that would train nothing, or an earlier version of the model.

    Raises:
        ValueError: everything is frozen, or the optimizer was made for another model.
    """
    loss_parameters = loss_fn.parameters() if isinstance(loss_fn, nn.Module) else ()
    own = {id(p): p for p in model.parameters()}
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    if not own.keys() & held.keys():
        raise ValueError(
            "the optimizer holds no parameter of this model; create it from model.parameters()"
        )
    unknown = held.keys() - own.keys() - {id(p) for p in loss_parameters}
    missing = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if unknown and missing:
        raise ValueError(
            f"the optimizer holds {len(unknown)} tensors that are not in the model, and "
            f"{missing[0]} is missing "
            "from it: the model was changed after the optimizer was made. Create the optimizer "
            "after replace_head"
        )
    if not any(p.requires_grad for p in held.values()):
        raise ValueError(
            "every parameter is frozen, so there is nothing to train: unfreeze a part of the model"
        )


def n_batches(loader: Iterable) -> int | None:
    """Return the number of batches in one pass, or None if the loader doesn't know."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def last_batch_size(loader: Any) -> int | None:
    """Return the size of the last batch, or None if the loader doesn't know.

    >>> from torch.utils.data import DataLoader
    >>> last_batch_size(DataLoader(range(9), batch_size=4))
    1
    >>> last_batch_size(DataLoader(range(9), batch_size=4, drop_last=True))
    4
    """
    batch_size, batches = getattr(loader, "batch_size", None), n_batches(loader)
    samples = getattr(loader, "sampler", None)
    samples = getattr(loader, "dataset", None) if samples is None else samples
    if not batch_size or not batches or not isinstance(samples, Sized):
        return None
    return min(batch_size, len(samples) - (batches - 1) * batch_size)


# Every batch, once, when it comes from the loader.


def check_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Return (images, targets) of a batch, or explain what is wrong with it.

    Raises:
        DataError: it isn't a pair, the images are not float32, or the numbers of images and targets
            differ.
    """
    if not (isinstance(batch, list | tuple) and len(batch) == 2):
        raise DataError(
            f"a batch must be a pair (images, targets), got {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, list | tuple) else "")
            + "; let the dataset return (image, label), and a batch_transform (images, targets)"
        )
    images, targets = batch
    if not (isinstance(images, Tensor) and isinstance(targets, Tensor)):
        raise DataError(
            f"images and targets must be tensors, got {type(images).__name__} and "
            f"{type(targets).__name__}; convert images with torchvision's ToTensor or "
            "torch.from_numpy"
        )
    if not images.is_floating_point():
        raise DataError(
            f"images are {dtype_name(images)}; they must be float in [0, 1]: use images.float() / "
            "255, "
            "or cnnlab.loader on an ImageSet, which does it for you"
        )
    if images.dtype != torch.float32:
        raise DataError(
            f"images are {dtype_name(images)}, but the weights are float32: use images.float()"
        )
    if not images.numel():
        raise DataError(f"images have shape {tuple(images.shape)}: this batch is empty")
    if len(images) != len(targets):
        raise DataError(f"a batch has {len(images)} images but {len(targets)} targets")
    return images, targets


def check_images(images: Tensor, model: nn.Module) -> None:
    """Compare the shape of the images with the model's first convolution.

    Raises:
        DataError: the batch dimension is missing, the channels are last, or their number is wrong.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        return
    shape, channels = tuple(images.shape), first.in_channels
    if images.ndim == 3:
        raise DataError(
            f"images have shape {shape}, so the batch dimension is missing: use images[None]"
        )
    if images.ndim != 4:
        raise DataError(f"images must be (N, C, H, W), got shape {shape}")
    # An image that is as narrow as the model has input channels, and much taller, isn't an image.
    if shape[-1] == channels and shape[-2] > 2 * channels and shape[1:] != (channels, shape[2], 1):
        raise DataError(
            f"images have shape {shape}, channels last; the model takes (N, {channels}, H, W): "
            "use images.permute(0, 3, 1, 2)"
        )
    if shape[1] != channels:
        raise DataError(
            f"images have {shape[1]} channels (shape {shape}), but the model's first convolution "
            "takes "
            f"{channels}: convert the images, or build the model with in_channels={shape[1]}"
        )


def check_weighted_targets(targets: Tensor, loss_fn: Any) -> None:
    """Refuse targets that class weights can't be applied to.

    Raises:
        DataError: class indices have no weight, or soft targets have the wrong shape.
        ValueError: torch's weighted cross-entropy gets soft targets.
    """
    weight, ignored = class_weights(loss_fn), ignore_index(loss_fn)
    if weight is None:
        return
    if targets.ndim == 1:
        check_class_indices(
            targets if ignored is None else targets[targets != ignored], len(weight)
        )
    elif ignored is not None:
        raise ValueError(
            "with class weights, torch's CrossEntropyLoss divides by the number of samples for "
            "soft targets and by "
            "the sum of their weights for class indices, so mixing would change the effective "
            "learning rate. Use "
            "loss_fn=functools.partial(cnnlab.mixing.soft_cross_entropy, weight=weights)"
        )
    elif isinstance(loss_fn, partial) and loss_fn.func is soft_cross_entropy:
        if targets.shape == (len(targets), len(weight)) and targets.is_floating_point():
            return
        raise DataError(
            f"targets are {dtype_name(targets)} of shape {tuple(targets.shape)}; with "
            f"{len(weight)} class "
            f"weights they must be class indices (N,), or float (N, {len(weight)})"
        )


def check_class_indices(targets: Tensor, k: int) -> None:
    """Refuse targets that are not class indices from 0 to k - 1.

    Raises:
        DataError: they are not int64, or out of range.
    """
    if targets.dtype != torch.int64:
        raise DataError(
            f"class indices are {dtype_name(targets)}; they must be int64: use targets.long()"
        )
    indices = targets.tolist()  # one call into torch, where its min and max would be four
    low, high = min(indices, default=0), max(indices, default=0)
    if low < 0 or high >= k:
        raise DataError(
            f"labels run from {low} to {high}, but the model has {k} classes, 0 to {k - 1}: "
            "build it with num_classes=len(data.classes), or number the labels from 0"
        )


# Inside a step: predictions, loss, gradient.


def check_targets(logits: Tensor, targets: Tensor, loss_fn: Any = None) -> None:
    """Compare targets with the logits before the loss, which on CUDA would kill the process.

    Raises:
        DataError: the targets are neither class indices (N,) below K nor soft targets (N, K); or
            the loss compares entry by entry, and the shapes differ.
    """
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    if name in ELEMENTWISE and not (targets.shape == logits.shape and targets.is_floating_point()):
        raise DataError(
            f"{name} compares entry by entry, so targets must be float of shape "
            f"{tuple(logits.shape)}, as the "
            f"outputs are; got {dtype_name(targets)} of shape {tuple(targets.shape)}. Use "
            "targets.float() and "
            "view_as, or cross-entropy for class indices"
        )
    if logits.ndim != 2:
        return  # not a classifier: its loss decides what fits
    n, k = logits.shape
    weights = class_weights(loss_fn)
    if weights is not None and len(weights) != k:
        raise DataError(f"the loss has {len(weights)} class weights, but the model has {k} classes")
    if targets.shape == (n, k) and targets.is_floating_point():
        return
    if targets.shape == (n, k):
        raise DataError(
            f"targets are one-hot {dtype_name(targets)} of shape {tuple(targets.shape)}: use "
            "targets.argmax(1) for class indices, or targets.float() for soft targets"
        )
    if targets.shape == (n, 1):
        raise DataError(f"targets have shape {(n, 1)}: use targets.squeeze(1), shape {(n,)}")
    if targets.ndim != 1:
        raise DataError(
            f"targets have shape {tuple(targets.shape)}; they must be class indices ({n},) or "
            f"soft targets ({n}, {k})"
        )
    check_class_indices(targets, k)


def check_loss(loss: Any) -> Tensor:
    """Return the loss, if it has a gradient.

    Raises:
        TypeError: the loss is not a scalar tensor, or doesn't depend on the model.
    """
    if not (isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad):
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)[:60]
        raise TypeError(
            f"loss_fn must return a scalar tensor computed from the logits, got {got}; "
            "use reduction='mean', and only torch's operations"
        )
    return loss


def check_finite(
    loss: float, grad_norm: float, model: nn.Module, images: Tensor, where: str
) -> None:
    """Refuse a step whose loss or gradient is NaN or infinite, and name what went wrong first.

    Raises:
        NonFiniteError: the loss or the norm of the gradient is not finite.
    """
    if abs(loss) < float("inf") and abs(grad_norm) < float("inf"):
        return
    n_bad = int((~torch.isfinite(images)).sum())
    parameters = [n for n, p in model.named_parameters() if not torch.isfinite(p).all()]
    gradients = [
        n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    ]
    if n_bad:
        cause = f"{n_bad} of {images.numel()} pixel values are NaN or infinite; clean the data"
    elif parameters:
        cause = f"{parameters[0]} was not finite before this step; start again from a checkpoint"
    elif not abs(loss) < float("inf"):
        cause = f"the loss is {loss} although the images are finite"
    else:
        name = (gradients or ["the weights"])[0]
        cause = f"the loss is {loss:.4g}, but the gradient of {name} is not finite"
    raise NonFiniteError(
        f"{where}: {cause}. No step was taken: weights and batch-norm statistics are as before "
        "this "
        "batch. Try a smaller learning rate, clip_norm=1.0 or warm-up, or find the layer with "
        "cnnlab.diagnose.nan_hunt"
    )


# At the end of an epoch, and in a checkpoint.


def check_plateau(plateau: Any, value: float) -> None:
    """Refuse a relative threshold for a negative value, which would mistake worse for better.

    Raises:
        ValueError: torch's default threshold gets a negative loss.
    """
    if value < 0 and getattr(plateau, "threshold_mode", "abs") == "rel":
        raise ValueError(
            f"the monitored value is negative ({value:.4g}), and a threshold relative to it would "
            "count a worse "
            "value as an improvement: use cnnlab.schedules.Plateau, or threshold_mode='abs'"
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


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's number type, such as "int64"."""
    return str(tensor.dtype).removeprefix("torch.")
