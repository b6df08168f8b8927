"""Measurements for a run that doesn't learn: losses, gradients and updates of a model.

None of these functions changes the model, its running statistics or the random generators. Where
training is needed, a copy is trained.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.diagnose.finding import Finding
from cnnlab.losses import normalizer
from cnnlab.rng import fork_rng
from cnnlab.training.batches import evaluation_batches
from cnnlab.training.checks import check_batch, check_targets
from cnnlab.training.modes import train_mode


Loss = Callable[[Tensor, Tensor], Tensor]


def initial_loss(model: nn.Module, loader: Iterable, loss_fn: Loss) -> tuple[float, float]:
    """Compute the loss of a fresh model, and the loss of predicting every class equally often.

    If the observed loss is much larger than the expected one, the first steps are wasted on undoing
    the initialisation.

    Args:
        model: a freshly initialised model. It is evaluated in training mode, because its running
            statistics don't contain anything yet.
        loader: yields (images, targets); at most ten batches are read.
        loss_fn: the cross-entropy, with or without label smoothing and class weights.

    Returns:
        (observed, expected), where expected is log K for K classes.

    Raises:
        ValueError: the loader gives no batch.

    >>> batches = [(torch.zeros(5, 4), torch.arange(5))]
    >>> observed, expected = initial_loss(nn.Linear(4, 10), batches, nn.CrossEntropyLoss())
    >>> round(expected, 3)
    2.303
    """
    total = total_weight = 0.0
    num_classes = 1
    with _training_copy(model) as model_copy, torch.no_grad():
        for images, targets in islice(map(check_batch, evaluation_batches(loader)), 10):
            logits = model_copy(images.to(_device(model_copy)))
            targets = targets.to(logits.device)
            check_targets(logits, targets)
            weight = normalizer(loss_fn, targets)
            total += loss_fn(logits, targets).item() * weight
            total_weight += weight
            num_classes = logits.shape[1]
    if not total_weight:
        raise ValueError("the loader gave no batch to compute the loss on; check its data set")
    return total / total_weight, math.log(num_classes)


def overfit_one_batch(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss_fn: Loss,
    steps: int = 100,
    lr: float = 0.01,
) -> list[float]:
    """Train a copy of the model on one small batch again and again, and return the losses.

    If a network can't memorise ten images, there is a bug in the model, the loss or the labels, and
    no learning rate will fix it. Dropout is switched off. The optimizer is Adam, because it
    tolerates a learning rate that isn't well chosen.

    Args:
        model: the model; it isn't changed.
        batch: (images, targets), with ten to fifty samples.
        loss_fn: (logits, targets) -> mean loss.
        steps: the number of optimizer steps.
        lr: the learning rate of Adam.

    Returns:
        `steps` + 1 losses: one before each step, and one after the last step. If the last one is
        below 0.01, the network has passed the test.

    >>> images, labels = torch.eye(4), torch.arange(4)
    >>> net, loss_fn = nn.Linear(4, 4), nn.CrossEntropyLoss()
    >>> losses = overfit_one_batch(net, (images, labels), loss_fn, lr=0.5)
    >>> losses[-1] < 0.01
    True
    """
    images, targets = check_batch(batch)
    losses = []
    with _training_copy(model) as model_copy:
        for module in model_copy.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        images, targets = images.to(_device(model_copy)), targets.to(_device(model_copy))
        optimizer = torch.optim.Adam(model_copy.parameters(), lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            logits = model_copy(images)
            check_targets(logits, targets, loss_fn)
            loss = loss_fn(logits, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            losses.append(loss_fn(model_copy(images), targets).item())
    return losses


def nan_hunt(model: nn.Module, batch: tuple[Tensor, Tensor], loss_fn: Loss) -> Finding | None:
    """Find where NaN or infinity first appears: images, weights, a module, the loss or a gradient.

    Args:
        model: the model; it isn't changed.
        batch: the (images, targets) on which a run failed.
        loss_fn: (logits, targets) -> mean loss.

    Returns:
        A finding named "images", "weights", "forward", "loss" or "gradient"; None if everything is
        finite.

    >>> bad = torch.full((1, 2), float("inf"))
    >>> nan_hunt(nn.Linear(2, 2), (bad, torch.tensor([0])), nn.CrossEntropyLoss()).name
    'images'
    """
    images, targets = check_batch(batch)
    if n_bad := int((~images.isfinite()).sum()):
        place = f"{n_bad} of {images.numel()} values of the images"
        return _non_finite("images", place, "clean the data")
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.isfinite().all():
            advice = "load an earlier checkpoint, and use a smaller learning rate"
            return _non_finite("weights", name, advice)
    with _training_copy(model) as model_copy, torch.enable_grad():
        modules = _record_non_finite_outputs(model_copy)
        device = _device(model_copy)
        loss = loss_fn(model_copy(images.to(device)), targets.to(device))
        if modules:
            advice = "a smaller learning rate, normalised inputs, He initialisation"
            return _non_finite("forward", f"the output of {modules[0]}", advice)
        if not loss.isfinite():
            advice = "look for log(0) or a division by 0 in the loss function"
            return _non_finite("loss", "the loss of finite logits", advice)
        loss.backward()
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
        ValueError: `before` contains the parameters themselves instead of copies.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> before = {"weight": torch.tensor([[2.0]])}
    >>> net.weight.data.fill_(2.02)
    tensor([[2.0200]])
    >>> round(update_ratios(before, net)["weight"], 4)
    0.01
    """
    ratios = {}
    for name, parameter in model.named_parameters():
        if name in before:
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
        f"{place} {'are' if name == 'images' else 'is'} NaN or infinite",
        "it spreads to every weight within one step",
        advice,
    )


@contextmanager
def _training_copy(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy of the model in training mode; restore the random generators on exit."""
    with fork_rng():
        yield train_mode(copy.deepcopy(model))


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
