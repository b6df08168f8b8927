"""First aid for a run that does not learn: what to measure, and what the measurement says.

None of these functions changes the model, its statistics or the random numbers: what has to be trained is a copy.
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
    """Measure the loss of a fresh model, beside that of one that gives every class the same probability.

    Args:
        model: fresh; measured in training mode, since its running statistics hold nothing yet.
        loader: yields (images, targets); up to ten batches are read.
        loss_fn: cross-entropy, with or without label smoothing and class weights.

    Returns:
        (observed, expected); expected is log K. Much more than that, and the first steps are spent on undoing
        the initialisation.

    >>> observed, expected = initial_loss(
    ...     nn.Linear(4, 10), [(torch.zeros(5, 4), torch.arange(5))], nn.CrossEntropyLoss())
    >>> round(expected, 3)
    2.303
    """
    total = weight = 0.0
    classes = 1
    with _copied(model) as fresh, torch.no_grad():
        for images, targets in islice(map(check_batch, evaluation_batches(loader)), 10):
            logits = fresh(images.to(_device(fresh)))
            targets = targets.to(logits.device)
            check_targets(logits, targets)
            share = normalizer(loss_fn, targets)
            total, weight = total + loss_fn(logits, targets).item() * share, weight + share
            classes = logits.shape[1]
    if not weight:
        raise ValueError("the loader gave no batch to measure the loss on")
    return total / weight, math.log(classes)


def overfit_one_batch(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss_fn: Loss,
    steps: int = 100,
    lr: float = 0.01,
) -> list[float]:
    """Train a copy on the same few images, again and again, and return the losses.

    A network that cannot learn ten images by heart has a bug in the model, the loss or the labels; no setting of
    the rate will help it. Dropout is left out. The optimizer is Adam, which forgives a rate that does not fit.

    Args:
        model: not changed.
        batch: (images, targets), ten to fifty samples.
        loss_fn: (logits, targets) -> mean loss.
        steps: optimizer steps.
        lr: learning rate of Adam.

    Returns:
        `steps` + 1 losses, the last one after the last step. Below 0.01 is passed.

    >>> images, labels = torch.eye(4), torch.arange(4)
    >>> losses = overfit_one_batch(nn.Linear(4, 4), (images, labels), nn.CrossEntropyLoss(), lr=0.5)
    >>> losses[-1] < 0.01
    True
    """
    images, targets = check_batch(batch)
    losses = []
    with _copied(model) as learner:
        for module in learner.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        images, targets = images.to(_device(learner)), targets.to(_device(learner))
        optimizer = torch.optim.Adam(learner.parameters(), lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            logits = learner(images)
            check_targets(logits, targets, loss_fn)
            loss = loss_fn(logits, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            losses.append(loss_fn(learner(images), targets).item())
    return losses


def nan_hunt(model: nn.Module, batch: tuple[Tensor, Tensor], loss_fn: Loss) -> Finding | None:
    """Find where NaN or infinity first appears: images, weights, a module, the loss, or a gradient.

    Args:
        model: not changed.
        batch: the (images, targets) on which a run broke.
        loss_fn: (logits, targets) -> mean loss.

    Returns:
        A finding named "images", "weights", "forward", "loss" or "gradient", or None when all is finite.

    >>> bad = torch.full((1, 2), float("inf"))
    >>> nan_hunt(nn.Linear(2, 2), (bad, torch.tensor([0])), nn.CrossEntropyLoss()).name
    'images'
    """
    images, targets = check_batch(batch)
    if bad := int((~images.isfinite()).sum()):
        return _non_finite(
            "images", f"{bad} of {images.numel()} values of the images", "clean the data"
        )
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.isfinite().all():
            return _non_finite("weights", name, "load a checkpoint from before, and lower the rate")
    with _copied(model) as suspect, torch.enable_grad():
        culprits = _watch_outputs(suspect)
        loss = loss_fn(suspect(images.to(_device(suspect))), targets.to(_device(suspect)))
        if culprits:
            return _non_finite(
                "forward",
                f"the output of {culprits[0]}",
                "a smaller rate, normalised inputs, He weights",
            )
        if not loss.isfinite():
            return _non_finite(
                "loss",
                "the loss of finite logits",
                "log(0) or a division by 0 in the loss function",
            )
        loss.backward()
        for name, parameter in suspect.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                return _non_finite(
                    "gradient",
                    f"the gradient of {name}",
                    "clip_norm=1.0; sqrt or log at 0 in the forward pass",
                )
    return None


def grad_norms(model: nn.Module) -> dict[str, float]:
    """Return the norm of each parameter's gradient, bottom to top; parameters without one are left out.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> net(torch.ones(1, 1)).sum().backward()
    >>> grad_norms(net)
    {'weight': 1.0}
    """
    return {
        name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None
    }


def update_ratios(before: Mapping[str, Tensor], model: nn.Module) -> dict[str, float]:
    """Return how far each parameter moved, as a share of its size: |w - w_before| / |w_before|.

    About 1e-3 a step is healthy. Far more, and the rate is too large; far less, and little is learnt.

    Args:
        before: name -> copy of the parameter before the step, `{n: p.clone() for n, p in ...}`.
        model: after the step.

    Raises:
        ValueError: `before` holds the live parameters instead of copies.

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
                    f"before[{name!r}] is the live parameter; keep parameter.detach().clone()"
                )
            old = before[name].to(parameter.device)
            moved = (parameter.detach() - old).norm().item()
            size = old.norm().item()
            ratios[name] = moved / size if size else math.inf if moved else 0.0
    return ratios


def _watch_outputs(model: nn.Module) -> list[str]:
    """Note, in order, the innermost modules whose output stopped being finite."""
    culprits: list[str] = []

    def watcher(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                culprits.append(f"{name} ({type(module).__name__})")

        return note

    for name, module in model.named_modules():
        module.register_forward_hook(watcher(name or "the model"))
    return culprits


def _non_finite(name: str, what: str, advice: str) -> Finding:
    return Finding(
        name,
        f"{what} {'are' if name == 'images' else 'is'} NaN or infinite",
        "from there it reaches every weight within one step",
        advice,
    )


@contextmanager
def _copied(model: nn.Module) -> Iterator[nn.Module]:
    """A copy in training mode to try things on; random generators are put back on exit."""
    with fork_rng():
        yield train_mode(copy.deepcopy(model))


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
