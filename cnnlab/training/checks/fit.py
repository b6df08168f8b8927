"""Checks when a fit starts: epochs, loaders, optimizer."""

import math
import warnings
from collections.abc import Iterable, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, SequentialSampler, Subset, TensorDataset

from cnnlab.data.samplers import check_sampler, sampler_of
from cnnlab.errors import CheckpointError, DataError, holds
from cnnlab.losses import class_weights, is_elementwise
from cnnlab.training.checks.options import positive_int
from cnnlab.training.checks.schedule import refuse_learning_rate
from cnnlab.training.checks.wording import classify_call, few, is_picture, kind_of_picture
from cnnlab.training.modes import frozen_norms


Options = Any  # `TrainerOptions`, which this file checks and so can't import


def check_fit(options: Options, train: Any, valid: Any, epochs: int) -> int:
    """Refuse arguments of `Trainer.fit` that can't work, and return the number of epochs.

    Raises:
        TypeError: a loader can't be iterated over.
        ValueError: there are no epochs, no validation data for the plateau, unusable class weights,
            or nothing that the optimizer could train.
        DataError: a loader is empty, or its last batch has a single image, which batch norm can't
            use.
    """
    epochs = positive_int("epochs", epochs, "the total number of epochs")
    check_loader(train)
    _check_last_batch(train, options.model)
    if options.plateau is not None and valid is None:
        raise ValueError("plateau needs validation data to watch: fit(train, valid, epochs=...)")
    if valid is not None:
        check_loader(valid)
        check_classes(class_lists(train), valid)
    check_balance(train, options.loss_fn)
    check_optimizer(options.model, options.optimizer, options.loss_fn)
    _check_groups(options)
    _check_initial_rates(options)
    _warn_about_foreign_tensors(options)
    if not is_elementwise(options.loss_fn):
        _warn_if_sorted(train)
    return epochs


def check_loader(loader: Any) -> None:
    """Refuse something that yields no batches, such as a data set or an empty loader.

    Raises:
        TypeError: it can't be iterated over; a data set can't.
        DataError: it has no batch, or its sampler was made for another data set.
    """
    if is_picture(loader):
        raise TypeError(
            f"expected a loader that yields batches, got {kind_of_picture(loader)}. To classify a "
            f"single image, call {classify_call(loader)}"
        )
    if loader is None:
        raise TypeError(
            "expected a loader that yields batches, got None; make one with cnnlab.loader(dataset, "
            f"batch_size=64). To classify a single image, call {classify_call()}"
        )
    if isinstance(loader, Tensor):
        raise TypeError(
            f"expected a loader that yields batches, got a tensor of shape {tuple(loader.shape)}; "
            "for a single batch, pass a list: [images] or [(images, targets)]"
        )
    if not isinstance(loader, Iterable):  # torch's data sets are not
        raise TypeError(
            f"expected a loader that yields batches, got {type(loader).__name__}; make one from a "
            "data set with cnnlab.loader(dataset, batch_size=64)"
        )
    if n_batches(loader) == 0:
        size = len(getattr(loader, "dataset", ()))
        raise DataError(
            f"the loader is empty, it gave no batch: {size} samples, batch size "
            f"{getattr(loader, 'batch_size', '?')}, drop_last={getattr(loader, 'drop_last', '?')}; "
            "add data, or make the batches smaller"
        )
    if (
        isinstance(loader, tuple)
        and len(loader) == 2
        and all(isinstance(part, Tensor) for part in loader)
        and loader[0].ndim != loader[1].ndim
    ):
        raise TypeError(
            "expected a loader that yields batches, got a pair of tensors of shapes "
            f"{tuple(loader[0].shape)} and {tuple(loader[1].shape)}; for a single batch, pass a "
            "list: [(images, targets)]"
        )
    check_sampler(sampler_of(loader), getattr(loader, "dataset", None))


def _check_last_batch(loader: Any, model: nn.Module) -> None:
    frozen = set(frozen_norms(model))
    normalises = any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) and m not in frozen for m in model.modules()
    )
    if normalises and last_batch_size(loader) == 1 and loader.batch_size != 1:
        raise DataError(
            f"with batches of {loader.batch_size}, the last batch has a single image, and "
            "BatchNorm can't compute a variance from one: use drop_last=True or another batch size"
        )


def check_classes(trained: list[list[Any]], loader: Any) -> None:
    """Refuse data whose classes are numbered differently from those in training.

    Args:
        trained: `class_lists` of the training loader.
        loader: the one to evaluate on.

    Raises:
        ValueError: two of all the data sets have different lists of classes.
    """
    own, *others = [*trained, *class_lists(loader)] or [[]]
    other = next((classes for classes in others if classes != own), None)
    if other is not None:
        raise ValueError(
            f"training and validation data have different classes, {few(own)} and {few(other)}, "
            "so the same label means different things: make both from one data set, or give both "
            "the same list of classes"
        )


def class_lists(loader: Any) -> list[list[Any]]:
    """Return the names of the classes of each data set that a loader reads, where it has any."""
    return _class_lists(getattr(loader, "dataset", None))


def _class_lists(dataset: Any) -> list[list[Any]]:
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, Iterable):
        return [list(classes)]
    if isinstance(dataset, ConcatDataset):
        return [classes for part in dataset.datasets for classes in _class_lists(part)]
    return _class_lists(dataset.dataset) if isinstance(dataset, Subset) else []


def count_classes(dataset: Any) -> int | None:
    """Return the number of classes of a data set, as far as it says so; of few labels, None.

    >>> count_classes(TensorDataset(torch.zeros(200, 1), torch.arange(200) % 3))
    3
    """
    for classes in _class_lists(dataset):
        return len(classes)
    labels = _labels(dataset)
    return int(labels.max()) + 1 if labels is not None and len(labels) >= 100 else None


def _warn_if_sorted(loader: Any) -> None:
    """Warn about training data that come class by class."""
    labels, batch_size = sorted_labels(loader), _batch_size(loader)
    if labels is None or not batch_size or batch_size < 2:
        return
    batches = labels.split(batch_size)
    pure = sum(bool((batch == batch[0]).all()) for batch in batches)
    if len(batches) > 1 and pure > len(batches) / 2:
        warnings.warn(
            f"the training data are sorted by class and not shuffled: {pure} of {len(batches)} "
            "batches contain a single class, so the model forgets one class while it learns the "
            "next. Use cnnlab.loader(..., shuffle=True)",
            UserWarning,
            stacklevel=4,
        )


def sorted_labels(loader: Any) -> Tensor | None:
    """Return the labels of a loader that yields them class by class; None in any other case."""
    sampler = sampler_of(loader)
    sequential = sampler is None or isinstance(sampler, SequentialSampler | range)
    if not sequential or getattr(loader, "shuffle", False):
        return None
    labels = _labels(getattr(loader, "dataset", None))
    if labels is None or len(labels) < 2:
        return None
    n_classes, changes = len(labels.unique()), int((labels[1:] != labels[:-1]).sum())
    in_runs = n_classes > 1 and changes < 2 * n_classes < len(labels) / 2
    return labels if in_runs else None


def _labels(dataset: Any) -> Tensor | None:
    """Return the class indices of a data set without reading its images; None if it has none."""
    if isinstance(dataset, ConcatDataset):
        parts = [_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if known and len(known) == len(parts) else None
    if isinstance(dataset, Subset):
        labels = _labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices)]
    labels = getattr(dataset, "labels", getattr(dataset, "targets", None))
    if labels is None and isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        labels = dataset.tensors[1]
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        return None
    return labels if labels.ndim == 1 and not labels.is_floating_point() else None


def _batch_size(loader: Any) -> int | None:
    """Return the batch size of a loader, also that of its `BatchSampler`."""
    own = getattr(loader, "batch_size", None)
    return own or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)


def check_balance(loader: Any, loss_fn: Any) -> None:
    """Refuse class weights that are not positive, or that a weighted sampler makes redundant.

    Raises:
        ValueError: a weight is not a positive number, or the loader has a weighted sampler and the
            loss class weights.
    """
    weights = class_weights(loss_fn)
    if weights is not None and not ((weights > 0) & weights.isfinite()).all():
        raise ValueError(
            f"class weights must be positive numbers, got {weights.tolist()}; leave classes that "
            "don't occur out of the data"
        )
    sampler = sampler_of(loader)
    other = getattr(loss_fn, "weight", None)  # of a loss that is no cross-entropy
    per_class = (
        isinstance(other, Tensor) and other.ndim == 1 and not isinstance(other, nn.Parameter)
    )
    if (weights is not None or per_class) and hasattr(sampler, "weights"):
        raise ValueError(
            f"{type(sampler).__name__} and class weights together correct the imbalance twice, so "
            "the rare classes are predicted too often: leave out the sampler, or the weight of the "
            "loss"
        )


def check_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Any = None
) -> None:
    """Refuse an optimizer that trains nothing, only a part, or an earlier version of the model.

    Raises:
        ValueError: everything is frozen, the optimizer was made for another model, or a parameter
            is neither frozen nor in the optimizer.
    """
    loss_parameters = dict(loss_fn.named_parameters()) if isinstance(loss_fn, nn.Module) else {}
    own = {id(p) for p in model.parameters()}
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    if not own & held.keys():
        raise ValueError(
            "the optimizer holds no parameter of this model; create it from model.parameters()"
        )
    unknown = held.keys() - own - {id(p) for p in loss_parameters.values()}
    missing = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if unknown and missing:
        raise ValueError(
            f"the optimizer holds {len(unknown)} tensors that are not in the model, and "
            f"{missing[0]} is missing from it: the model was changed after the optimizer was made. "
            "Create the optimizer after replace_head"
        )
    if not any(p.requires_grad for p in held.values()):
        raise ValueError(
            "every parameter is frozen, so there is nothing to train: unfreeze a part of the model"
        )
    if missing:
        raise ValueError(
            f"{len(missing)} parameters are neither frozen nor in the optimizer, so they would "
            f"never train: {few(missing)}. Freeze them with cnnlab.transfer.freeze(module), or "
            "create the optimizer from model.parameters()"
        )
    untrained = [n for n, p in loss_parameters.items() if p.requires_grad and id(p) not in held]
    if untrained:
        raise ValueError(
            f"the loss has parameters that are not in the optimizer, so they would never train: "
            f"{few(untrained)}. Create it from [*model.parameters(), *loss_fn.parameters()]"
        )


def _warn_about_foreign_tensors(options: Options) -> None:
    """Warn about parameters that are trained, but belong to neither the model nor the loss."""
    loss_fn = options.loss_fn
    loss_parameters = loss_fn.parameters() if isinstance(loss_fn, nn.Module) else ()
    own = {id(p) for p in [*options.model.parameters(), *loss_parameters]}
    held = (p for group in options.optimizer.param_groups for p in group["params"])
    foreign = sum(id(p) not in own for p in held)
    if foreign:
        warnings.warn(
            f"the optimizer holds {foreign} tensors that are in neither the model nor the loss, so "
            "they are not saved with the run: pass a loss with parameters as an nn.Module, or "
            "create the optimizer from model.parameters()",
            UserWarning,
            stacklevel=4,
        )


def _check_groups(options: Options) -> None:
    """Refuse a scheduler or an average that was made before the optimizer or the model changed."""
    groups = len(options.optimizer.param_groups)
    planned = len(getattr(options.scheduler, "base_lrs", ())) or groups
    if planned != groups:
        raise ValueError(
            f"the optimizer has {groups} parameter groups, but the scheduler was made for "
            f"{planned}: attach it again after add_param_group"
        )
    averaged = getattr(options.ema, "model", None)
    if averaged is None:
        return
    source = getattr(options.ema, "source", options.model)  # perhaps the model in a compiled one
    own, other = ({n: p.shape for n, p in m.named_parameters()} for m in (source, averaged))
    if own != other:
        name = min(n for n in own.keys() | other.keys() if own.get(n) != other.get(n))
        raise ValueError(
            f"the ema was made before the model changed ({name} differs): create EMA(model) after "
            "replace_head"
        )


def _check_initial_rates(options: Options) -> None:
    """Refuse a learning rate that can't work, and warn if nothing will be trained with it."""
    rates = [group["lr"] for group in options.optimizer.param_groups]
    for number, lr in enumerate(rates):
        if not holds(lambda lr=lr: 0 <= lr < math.inf):  # type: ignore[misc]
            refuse_learning_rate(number, lr)
    own = any(not type(c).__module__.startswith("cnnlab.") for c in options.callbacks)
    if options.scheduler is not None or own:  # a callback of somebody's own may set it
        return
    if "attached" in vars(options.optimizer) and options.plateau is None:
        warnings.warn(
            "a schedule is attached to the optimizer, but the trainer doesn't know it, so the "
            f"learning rate stays at {float(rates[0]):g}: pass what attach returned as "
            "Trainer(..., scheduler=...)",
            UserWarning,
            stacklevel=4,
        )
    elif not any(rates):
        warnings.warn(
            "every learning rate is 0 and there is no schedule, so nothing will be trained: create "
            "the optimizer with lr=0.1",
            UserWarning,
            stacklevel=4,
        )


def check_same_batches(batch: int, saved: Any, loader: Any) -> None:
    """Refuse to continue in the middle of an epoch with batches of another size.

    Args:
        batch: finished batches of the epoch in progress.
        saved: `batch_layout` of the loader that they came from.
        loader: the one to continue with.

    Raises:
        CheckpointError: the loader cuts the epoch into other batches.
    """
    now = batch_layout(loader)
    differ = any(None not in pair and pair[0] != pair[1] for pair in zip(saved or (), now))  # noqa: B905
    if batch and differ:
        way_out = "the same loader" if saved[0] is None else f"batch_size={saved[0]}"
        raise CheckpointError(
            f"the epoch in progress has {saved[1]} batches of {saved[0] or 'unknown size'} and "
            f"{batch} of them are done, but this loader has {now[1]} batches of "
            f"{now[0] or 'unknown size'}: continue with {way_out}, or load a checkpoint from the "
            "end of an epoch"
        )


def batch_layout(loader: Any) -> tuple[int | None, int | None]:
    """Return the batch size of a loader and its number of batches; None where it doesn't know."""
    return _batch_size(loader), n_batches(loader)


def n_batches(loader: Iterable) -> int | None:
    """Return the number of batches in one pass, or None if the loader doesn't know."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def one_step_note(loader: Any) -> str | None:
    """Return a remark about an epoch of a single step, if the data are no batch by design.

    A batch of exactly all samples is a choice; a batch size that they don't fill often isn't.

    >>> from torch.utils.data import DataLoader
    >>> one_step_note(DataLoader(range(40), batch_size=64))
    'each epoch is one step, because 40 samples are less than a batch of 64; batch_size=8 takes 5'
    >>> one_step_note(DataLoader(range(40), batch_size=40))
    """
    batch_size, batches = batch_layout(loader)
    samples = _samples(loader)
    if batches != 1 or not batch_size or not isinstance(samples, Sized):
        return None
    n = len(samples)
    if n < 8 or n == batch_size:
        return None
    why = f"{n} samples are less than a batch of {batch_size}"
    if n > batch_size:
        why = f"of {n} samples only one batch of {batch_size} is used in each epoch"
    smaller = 2 ** ((n // 4).bit_length() - 1)
    return f"each epoch is one step, because {why}; batch_size={smaller} takes {n // smaller}"


def _samples(loader: Any) -> Any:
    """Return what a loader reads in an epoch: its sampler, or else its data set."""
    samples = sampler_of(loader)
    return getattr(loader, "dataset", None) if samples is None else samples


def last_batch_size(loader: Any) -> int | None:
    """Return the size of the last batch, or None if the loader doesn't know.

    >>> from torch.utils.data import DataLoader
    >>> last_batch_size(DataLoader(range(9), batch_size=4))
    1
    >>> last_batch_size(DataLoader(range(9), batch_size=4, drop_last=True))
    4
    """
    batch_size, batches = batch_layout(loader)
    samples = _samples(loader)
    if not batch_size or not batches or not isinstance(samples, Sized):
        return None
    return min(batch_size, len(samples) - (batches - 1) * batch_size)
