"""First aid for a run that does not learn: what to measure, and what the measurement says.

None of these functions changes the model, its statistics or the random numbers: what has to be trained is a copy.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cnnlab.batches import in_order
from cnnlab.guards import check_batch, check_targets, mass
from cnnlab.history import History
from cnnlab.modes import train_mode
from cnnlab.patterns import PATTERNS, Finding
from cnnlab.rng import preserved


if TYPE_CHECKING:
    from pandas import DataFrame

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
        for images, targets in islice(map(check_batch, in_order(loader)), 10):
            logits = fresh(images.to(_device(fresh)))
            targets = targets.to(logits.device)
            check_targets(logits, targets)
            share = mass(loss_fn, targets)
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


def check_data(dataset: Any, limit: int = 2000) -> list[Finding]:
    """Look for what spoils training before it begins: values, constants, copies, labels.

    Args:
        dataset: items are (image, label); the image float (C, H, W), meant to lie in [0, 1].
        limit: samples to look at, spread evenly over the data set.

    Returns:
        The findings; an empty list when nothing was seen.

    >>> from torch.utils.data import TensorDataset
    >>> [f.name for f in check_data(TensorDataset(torch.full((4, 1, 2, 2), 200.0), torch.arange(4)))]
    ['range', 'constant images', 'duplicates']
    """
    if len(dataset) == 0:
        return [
            Finding("empty", "the data set holds no image", "there is nothing to learn", "add data")
        ]
    step = max(1, math.ceil(len(dataset) / limit))
    items = [dataset[i] for i in range(0, len(dataset), step)]
    images = [torch.as_tensor(image) for image, _ in items]
    labels = torch.tensor([int(label) for _, label in items])
    return [f for f in (*_look_at_images(images), *_look_at_labels(labels, dataset)) if f]


def diagnose(history: "History | DataFrame") -> list[Finding]:
    """Read learning curves: say which of the known patterns they show.

    The patterns are "flat then a drop", "plateau", "decayed too early", "still rising", "overfitting" and
    "underfitting". Their thresholds are rules of thumb, each given in the finding; a healthy run gives none.

    Args:
        history: of a fit of at least six epochs, or its `.frame()`.

    Returns:
        The findings; an empty list when no pattern fits, or the run is too short to tell.

    >>> import pandas as pd
    >>> down = [2.5 * 0.7**k for k in range(12)]
    >>> up = [2.0, 1.5, 1.1, 0.9, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    >>> [f.name for f in diagnose(pd.DataFrame({"train_loss": down, "valid_loss": up}))]
    ['overfitting']
    """
    frame = history.frame() if isinstance(history, History) else history
    if len(frame) < 6:
        return []
    curve = {str(name): frame[name].tolist() for name in frame if frame[name].notna().all()}
    return [f for f in (look(curve) for look in PATTERNS) if f is not None]


def _look_at_images(images: list[Tensor]) -> Iterator[Finding | None]:
    low = min(float(image.min()) for image in images)
    high = max(float(image.max()) for image in images)
    broken = sum(not image.isfinite().all() for image in images)
    flat = sum(float(image.min()) == float(image.max()) for image in images)
    shapes = {tuple(image.shape) for image in images}
    copies = len(images) - len({image.numpy().tobytes() for image in images})
    if broken:
        yield Finding(
            "not finite",
            f"{broken} of {len(images)} images hold NaN or infinity",
            "one of them makes every weight NaN",
            "find and remove them",
        )
    elif low < -0.01:
        yield Finding(
            "normalised already",
            f"pixels run from {low:.3g} to {high:.3g}",
            "the models normalise by themselves; twice is once too often",
            "leave the pixels in [0, 1]",
        )
    elif high > 1.5:
        yield Finding(
            "range",
            f"pixels run from {low:.3g} to {high:.3g}",
            "the models and augmentations expect [0, 1]; large inputs make large gradients",
            "divide by 255",
        )
    if len(shapes) > 1:
        yield Finding(
            "shapes",
            f"there are {len(shapes)} shapes, such as {sorted(shapes)[:3]}",
            "a batch holds images of one shape",
            "resize and crop them: from_folder(path, size=...)",
        )
    if flat:
        yield Finding(
            "constant images",
            f"{flat} of {len(images)} images have one value everywhere",
            "they teach nothing and may be files that failed to load",
            "look at them",
        )
    if copies > len(images) // 100:
        yield Finding(
            "duplicates",
            f"{copies} of {len(images)} images are copies of others",
            "a copy in training and validation makes the validation too good",
            "remove copies before splitting",
        )


def _look_at_labels(labels: Tensor, dataset: Any) -> Iterator[Finding | None]:
    classes = len(getattr(dataset, "classes", ())) or int(labels.max()) + 1
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        yield Finding(
            "labels out of range",
            f"labels run from {int(labels.min())} to {int(labels.max())}, there are {classes} classes",
            "the loss cannot be computed; on CUDA the process dies",
            "number the classes from 0",
        )
        return
    counts = torch.bincount(labels, minlength=classes)
    if (counts == 0).any():
        missing = (counts == 0).nonzero().flatten().tolist()
        yield Finding(
            "missing classes",
            f"no sample of class {missing[:5]} among {len(labels)}",
            "a class without samples is never predicted",
            "check the folders and the split",
        )
    elif counts.max() > 10 * counts.min():
        yield Finding(
            "imbalance",
            f"the largest class has {int(counts.max())} samples, the smallest {int(counts.min())}",
            "accuracy hides the rare classes",
            "look at per-class recall; class_weights or balanced_sampler",
        )


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
    with preserved():
        yield train_mode(copy.deepcopy(model))


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
