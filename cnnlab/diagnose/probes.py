"""Measurements for a run that doesn't learn: losses, gradients and updates of a model.

None of these functions changes the model, its running statistics or the random generators. Where
training is needed, a copy is trained.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.diagnose.finding import Finding
from cnnlab.errors import DataError, holds
from cnnlab.losses import is_elementwise, loss_name, normalizer
from cnnlab.rng import fork_rng
from cnnlab.training.batches import evaluation_batches
from cnnlab.training.checks import (
    as_inputs,
    as_targets,
    check_batch,
    check_images,
    check_loss,
    check_targets,
    check_weighted_targets,
)
from cnnlab.training.checks.options import check_loss_type, positive_int
from cnnlab.training.explain import explain_shape_errors
from cnnlab.training.modes import check_model, eager_mode, train_mode
from cnnlab.training.outputs import as_float
from cnnlab.training.preparation import prepare_loss, takes_indices, weights_dtype


Loss = Callable[[Tensor, Tensor], Tensor]


def initial_loss(model: nn.Module, loader: Iterable, loss_fn: Loss) -> tuple[float, float]:
    """Compute the loss of a fresh model, and the loss of giving every class the same probability.

    If the observed loss is much larger than the expected one, the first steps are wasted on undoing
    the initialisation.

    Args:
        model: a freshly initialised model. It is evaluated in training mode, because its running
            statistics don't contain anything yet.
        loader: yields (images, targets); at most ten batches are read.
        loss_fn: the cross-entropy, with or without label smoothing and class weights.

    Returns:
        (observed, expected), where expected is log K for K classes. It is log 2 for a binary
        cross-entropy, and NaN for a loss without classes, such as the mean squared error.

    Raises:
        TypeError: it is a data set instead of a loader.
        ValueError: an iterable without a length gives no batch, or every target is ignored.
        DataError: the loader is empty, or a batch doesn't fit the model or the loss.

    >>> batches = [(torch.zeros(5, 4), torch.arange(5))]
    >>> observed, expected = initial_loss(nn.Linear(4, 10), batches, nn.CrossEntropyLoss())
    >>> round(expected, 3)
    2.303
    """
    if isinstance(loader, tuple) and len(loader) == 2:
        raise TypeError("initial_loss takes a loader; for a single batch pass [(images, targets)]")
    total = total_weight = 0.0
    expected, n_batches = math.nan, 0
    with _training_copy(model, loss_fn) as (model_copy, loss_copy), torch.no_grad():
        for batch in islice(evaluation_batches(loader), 10):
            n_batches += 1
            images, targets = _prepare(batch, model_copy, loss_copy)
            outputs = as_float(model_copy(images))
            check_targets(outputs, targets, loss_copy)
            weight = normalizer(loss_copy, targets)
            if weight:  # else every target is ignored
                total += loss_copy(outputs, targets).item() * weight
            total_weight += weight
            expected = _loss_of_equal_probabilities(outputs, loss_copy)
    if not n_batches:
        raise ValueError("the loader gave no batch; pass a list or a cnnlab.loader")
    if not total_weight:
        raise ValueError(
            "every target of the first ten batches is ignored, so there is no loss; check the "
            "labels and ignore_index"
        )
    return total / total_weight, expected


def _loss_of_equal_probabilities(outputs: Any, loss_fn: Any) -> float:
    """Return the loss of giving every class the same probability; NaN without classes."""
    if loss_name(loss_fn).lower().replace("_", "").startswith(("bce", "binarycrossentropy")):
        return math.log(2)
    if is_elementwise(loss_fn) or not isinstance(outputs, Tensor) or outputs.ndim < 2:
        return math.nan
    return math.log(outputs.shape[1]) if outputs.shape[1] > 1 else math.nan


def overfit_one_batch(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss_fn: Loss,
    steps: int = 100,
    lr: float = 0.01,
) -> list[float]:
    """Train a copy of the model on one small batch again and again, and return the losses.

    If a network can't memorise ten images, suspect a bug in the model, the loss or the labels
    before you change a hyperparameter. Dropout is switched off. The optimizer is Adam, because it
    tolerates a learning rate that isn't well chosen.

    Args:
        model: the model; it isn't changed.
        batch: (images, targets), with ten to fifty samples.
        loss_fn: (logits, targets) -> mean loss.
        steps: the number of optimizer steps.
        lr: the learning rate of Adam.

    Returns:
        `steps` + 1 losses: one before each step, and one after the last step. If the last one is
        between 0 and 0.01, the network has passed the test. A loss that falls below 0 gives a
        warning, because a cross-entropy or a squared error can't, and so does a last loss that is
        NaN or infinite.

    Raises:
        DataError: the batch doesn't fit the model or the loss.
        ValueError: every parameter is frozen, or steps or lr isn't positive.
        TypeError: the loss isn't a single number.

    >>> images, labels = torch.eye(4), torch.arange(4)
    >>> net, loss_fn = nn.Linear(4, 4), nn.CrossEntropyLoss()
    >>> losses = overfit_one_batch(net, (images, labels), loss_fn, lr=0.5)
    >>> losses[-1] < 0.01
    True
    """
    steps = positive_int("steps", steps, "a number of optimizer steps")
    losses = []
    with _training_copy(model, loss_fn) as (model_copy, loss_copy), torch.enable_grad():
        for module in model_copy.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        images, targets = _prepare(_single(batch), model_copy, loss_copy)
        if not normalizer(loss_copy, targets):
            raise DataError(
                "every target of this batch is ignored, so there is nothing to learn: pass a batch "
                "with labels other than ignore_index"
            )
        parameters = [p for p in _parameters(model_copy, loss_copy) if p.requires_grad]
        if not parameters:
            raise ValueError(
                "every parameter is frozen, so there is nothing to train: unfreeze a part of the "
                "model with cnnlab.transfer.unfreeze"
            )
        if not holds(lambda: 0 < lr < math.inf):
            raise ValueError(f"lr must be a positive number, got {lr!r}; 0.01 is common")
        optimizer = torch.optim.Adam(parameters, lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            with explain_shape_errors(len(images)):
                outputs = model_copy(images)
            check_targets(outputs, targets, loss_copy)
            loss = check_loss(loss_copy(outputs, targets), outputs)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            losses.append(loss_copy(model_copy(images), targets).item())
    if not math.isfinite(losses[-1]):
        warnings.warn(
            f"the loss is {losses[-1]} after {steps} steps, so the model failed the test. Try a "
            "smaller lr, or find the cause with nan_hunt(model, batch, loss_fn)",
            UserWarning,
            stacklevel=2,
        )
    if losses[-1] < 0:
        warnings.warn(
            f"the loss fell to {losses[-1]:.3g}, but a cross-entropy or a squared error is never "
            "below 0, so the result is not a pass. Check the inputs of loss_fn (NLLLoss takes "
            "log-probabilities). If your loss can be negative, compare it with its own minimum",
            UserWarning,
            stacklevel=2,
        )
    return losses


def nan_hunt(model: nn.Module, batch: tuple[Tensor, Tensor], loss_fn: Loss) -> Finding | None:
    """Find where NaN or infinity first appears: data, weights, a module, the loss or a gradient.

    Args:
        model: the model; it isn't changed.
        batch: the (images, targets) on which a run failed.
        loss_fn: (logits, targets) -> mean loss.

    Returns:
        A finding named "images", "targets", "weights", "forward", "loss" or "gradient"; None if
        everything is finite.

    Raises:
        DataError: the batch doesn't fit the model or the loss.
        TypeError: the model or the loss has the wrong type.

    >>> bad = torch.full((1, 2), float("inf"))
    >>> nan_hunt(nn.Linear(2, 2), (bad, torch.tensor([0])), nn.CrossEntropyLoss()).name
    'images'
    """
    images, targets = check_batch(_single(batch))
    if n_bad := int((~images.isfinite()).sum()):
        place = f"{n_bad} of {images.numel()} values of the images"
        return _non_finite("images", place, "clean the data")
    if n_bad := int((~targets.isfinite()).sum()):
        place = f"{n_bad} of {targets.numel()} values of the targets"
        return _non_finite("targets", place, "leave out the samples without a target")
    check_model(model)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.isfinite().all():
            advice = "load an earlier checkpoint, and use a smaller learning rate"
            return _non_finite("weights", name, advice)
    with _training_copy(model, loss_fn) as (model_copy, loss_copy), torch.enable_grad():
        images, targets = _prepare((images, targets), model_copy, loss_copy)
        modules = _record_non_finite_outputs(model_copy)
        outputs = model_copy(images)
        if not modules:
            check_targets(outputs, targets, loss_copy)
        loss = loss_copy(outputs, targets)
        if modules:
            advice = "a smaller learning rate, normalised inputs, He initialisation"
            return _non_finite("forward", f"the output of {modules[0]}", advice)
        if not loss.isfinite().all():
            advice = "look for log(0) or a division by 0 in the loss function"
            return _non_finite("loss", "the loss of finite logits", advice)
        if any(p.requires_grad for p in _parameters(model_copy, loss_copy)):
            check_loss(loss, outputs).backward()
        for name, parameter in model_copy.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                advice = "clip_norm=1.0; look for sqrt or log at 0 in the forward pass"
                return _non_finite("gradient", f"the gradient of {name}", advice)
    return None


def grad_norms(model: nn.Module) -> dict[str, float]:
    """Return the norm of each parameter's gradient, bottom to top, leaving out those without one.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> net(torch.ones(1, 1)).sum().backward()
    >>> grad_norms(net)
    {'weight': 1.0}
    """
    return {
        name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None
    }


def update_ratios(before: Mapping[str, Tensor], model: nn.Module) -> dict[str, float]:
    """Compute how far each parameter moved, relative to its size: |w - w_before| / |w_before|.

    About 1e-3 per step is healthy. If the ratio is far larger, the learning rate is too large; if
    it is far smaller, the model learns very slowly.

    Args:
        before: name -> copy of the parameter before the step. Make the copies with
            `{name: p.detach().clone() for name, p in model.named_parameters()}`.
        model: the model after the step.

    Raises:
        ValueError: `before` contains the parameters themselves instead of copies, or none of this
            model.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> before = {"weight": torch.tensor([[2.0]])}
    >>> net.weight.data.fill_(2.02)
    tensor([[2.0200]])
    >>> round(update_ratios(before, net)["weight"], 4)
    0.01
    """
    parameters = dict(model.named_parameters())
    names = [name for name in parameters if name in before] if isinstance(before, Mapping) else []
    if parameters and not names:
        raise ValueError(
            "before has none of the model's parameters: make it with "
            "{name: p.detach().clone() for name, p in model.named_parameters()} before the step"
        )
    ratios = {}
    for name, parameter in parameters.items():
        if name in before:
            if before[name].shape != parameter.shape:
                raise ValueError(
                    f"before[{name!r}] has shape {tuple(before[name].shape)}, the parameter "
                    f"{tuple(parameter.shape)}: copy the parameters of this model"
                )
            if before[name].data_ptr() == parameter.data_ptr():
                raise ValueError(
                    f"before[{name!r}] is the live parameter, which changes with each step; store "
                    "parameter.detach().clone() instead"
                )
            old = before[name].to(parameter.device)
            update = (parameter.detach() - old).norm().item()
            size = old.norm().item()
            ratios[name] = update / size if size else math.inf if update else 0.0
    return ratios


def _record_non_finite_outputs(model: nn.Module) -> list[str]:
    """Return a list to which the forward pass appends each module whose output isn't finite.

    Modules append themselves when they finish, so the innermost one comes first.
    """
    names: list[str] = []

    def record_as(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                names.append(f"{name} ({type(module).__name__})")

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(record_as(name or "the model"))
    return names


def _non_finite(name: str, place: str, advice: str) -> Finding:
    return Finding(
        name,
        f"{place} {'are' if name in ('images', 'targets') else 'is'} NaN or infinite",
        "it spreads to every weight within one step",
        advice,
    )


@contextmanager
def _training_copy(model: nn.Module, loss_fn: Any) -> Iterator[tuple[nn.Module, Any]]:
    """Yield copies of model and loss, the model in training mode; restore the random generators.

    A compiled model runs uncompiled, because hooks need it and a few steps are faster so.
    """
    check_model(model)
    check_loss_type(loss_fn)
    with fork_rng(), eager_mode():
        model_copy = train_mode(copy.deepcopy(model))
        loss_copy = copy.deepcopy(loss_fn) if isinstance(loss_fn, nn.Module) else loss_fn
        yield model_copy, prepare_loss(loss_copy, model_copy, _device(model_copy))


def _single(batch: Any) -> Any:
    """Refuse a loader or a data set where a single batch is expected."""
    if isinstance(batch, Tensor | list | tuple):
        return batch
    is_loader = hasattr(batch, "__iter__")
    hint = "next(iter(loader))" if is_loader else "next(iter(cnnlab.loader(data, 16)))"
    raise DataError(
        f"this takes a single batch (images, targets), got {type(batch).__name__}: use {hint}"
    )


def _prepare(batch: Any, model: nn.Module, loss_fn: Any) -> tuple[Tensor, Tensor]:
    """Return the images and targets of a batch as the trainer gives them to model and loss."""
    images, targets = check_batch(batch)
    images = as_inputs(images, weights_dtype(model), takes_indices(model))
    check_images(images, model, len(targets))
    targets = as_targets(targets, loss_fn, weights_dtype(model))
    check_weighted_targets(targets, loss_fn)
    return images.to(_device(model)), targets.to(_device(model))


def _parameters(model: nn.Module, loss_fn: Any) -> list[nn.Parameter]:
    own = list(loss_fn.parameters()) if isinstance(loss_fn, nn.Module) else []
    return [*model.parameters(), *own]


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
