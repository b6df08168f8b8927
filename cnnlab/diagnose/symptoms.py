"""What else a broken run gives away: numbers to measure on it, and what each of them says.

`diagnose` looks at a data set, a fresh model and the curves. Here are the questions between these: do the labels go
with the images, does every unit get a gradient, is the validation what it should be? `judge` holds the numbers
against thresholds; they are rules of thumb, and each finding tells its own.
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.diagnose.finding import Finding
from cnnlab.rng import fork_rng
from cnnlab.training.modes import eval_mode, train_mode


__all__ = [
    "asked",
    "judge",
    "label_signal",
    "moved_statistics",
    "recalls",
    "shared_share",
    "silent_share",
    "sums_to_one",
]


Loss = Callable[[Tensor, Tensor], Tensor]


def silent_share(model: nn.Module, batch: tuple[Tensor, Tensor], loss_fn: Loss) -> float:
    """Return the share of units that no gradient reaches on a batch: filters whose every weight gets exactly 0.

    A ReLU that is never on passes no gradient to the unit before it, so this unit never moves. Frozen weights are
    asked as well.

    Args:
        model: not changed.
        batch: (images, targets), thirty samples or more: a unit may rest on a few.
        loss_fn: (logits, targets) -> mean loss.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    >>> net[0].weight.data = torch.tensor([[1.0], [-1.0]])  # on for positive inputs, and off
    >>> silent_share(net, (torch.ones(3, 1), torch.tensor([0, 1, 1])), F.cross_entropy)
    0.25
    """
    images, targets = batch
    with fork_rng(), torch.enable_grad():
        asked = train_mode(copy.deepcopy(model)).requires_grad_(True)
        asked.zero_grad()
        loss_fn(asked(images), targets).backward()
    weights = [p.grad.flatten(1) for p in asked.parameters() if p.grad is not None and p.ndim > 1]
    silent = torch.cat([(grad == 0).all(dim=1) for grad in weights])
    return silent.float().mean().item()


def label_signal(images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Ask whether labels have to do with their images: fit a linear rule on one half, test it on the other.

    Ridge regression on pictures of 8 x 8 pixels. It is a poor classifier, but better than chance wherever the
    labels belong to the images.

    Args:
        images: (N, C, H, W), as they come to the model, in random order; two hundred or more.
        labels: class numbers (N,).

    Returns:
        (share of right answers, share of the most frequent class).

    >>> labels = torch.arange(200) % 2
    >>> label_signal(labels.float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8), labels)
    (1.0, 0.5)
    """
    x = F.adaptive_avg_pool2d(images, 8).flatten(1).double()
    x = (x - x.mean(dim=0)) / x.std(dim=0).clamp(min=1e-6)
    y = F.one_hot(labels).double()
    half, right = len(x) // 2, 0
    halves = (slice(0, half), slice(half, None))
    for fit, test in (halves, halves[::-1]):
        share = y[fit].mean(dim=0)
        ridge = x[fit].T @ x[fit] + 100 * torch.eye(x.shape[1], dtype=x.dtype)
        rule = torch.linalg.solve(ridge, x[fit].T @ (y[fit] - share))
        right += int(((x[test] @ rule + share).argmax(dim=1) == labels[test]).sum())
    return right / len(x), y.mean(dim=0).max().item()


def shared_share(train: Any, valid: Any) -> float:
    """Return the share of validation images that are in the training part too, byte for byte.

    Args:
        train: a dataset of (image, label), without random transforms.
        valid: likewise.

    >>> from torch.utils.data import TensorDataset
    >>> images, labels = torch.rand(6, 1, 2, 2), torch.zeros(6)
    >>> shared_share(TensorDataset(images[:4], labels[:4]), TensorDataset(images[2:], labels[2:]))
    0.5
    """
    seen = {_bytes(image) for image, _ in train}
    return sum(_bytes(image) in seen for image, _ in valid) / len(valid)


def recalls(logits: Tensor, labels: Tensor) -> list[float]:
    """Return the share of right answers of each class; NaN for a class without samples.

    Args:
        logits: (N, K).
        labels: (N,).

    >>> recalls(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0, 1]))
    [1.0, 0.0]
    """
    right = (logits.argmax(dim=1) == labels).float()
    return [right[labels == k].mean().item() for k in range(logits.shape[1])]


def moved_statistics(before: nn.Module, after: nn.Module) -> list[str]:
    """Return the running statistics that moved although the weights beside them are frozen.

    Args:
        before: a copy of the model from before the training.
        after: the model itself.

    >>> norm = nn.Sequential(nn.BatchNorm1d(2)).requires_grad_(False)
    >>> before = copy.deepcopy(norm)
    >>> norm(torch.rand(4, 2)).shape  # in training mode
    torch.Size([4, 2])
    >>> moved_statistics(before, norm)
    ['0.running_mean', '0.running_var']
    """
    moved = []
    for name, module in after.named_modules():
        own = list(module.parameters(recurse=False))
        if not own or any(p.requires_grad for p in own):
            continue
        then = before.get_submodule(name)
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and not torch.equal(buffer, then.get_buffer(key)):
                moved.append(f"{name}.{key}")
    return moved


def asked(model: nn.Module, images: Tensor) -> Tensor:
    """Return the outputs (N, K) in evaluation mode, without leaving a trace.

    >>> asked(nn.Dropout(0.5), torch.ones(1, 3))
    tensor([[1., 1., 1.]])
    """
    with torch.no_grad(), eval_mode(model):
        return torch.cat([model(part) for part in images.split(256)])


def sums_to_one(outputs: Tensor) -> bool:
    """Tell whether a model gives probabilities, where a loss such as cross-entropy wants logits.

    Args:
        outputs: (N, K).

    >>> sums_to_one(torch.tensor([[0.25, 0.75]])), sums_to_one(torch.tensor([[-1.0, 2.0]]))
    (True, False)
    """
    sums = outputs.sum(dim=1)
    return bool((outputs >= 0).all() and (sums - 1).abs().max() < 1e-3)


def judge(vitals: Mapping[str, float]) -> list[Finding]:
    """Hold the vital signs of a run against thresholds.

    Args:
        vitals: any of these, the rest is not judged.

            | name | what it is |
            |---|---|
            | `first_loss`, `log_classes` | loss of the fresh model, and log K |
            | `silent_share` | see `silent_share` |
            | `label_signal`, `chance` | see `label_signal` |
            | `log10_update_ratio` | median of the first epoch, as `UpdateRatioLog` measures it |
            | `grad_norm_peak` | largest gradient norm of a step, in units of the median of all steps |
            | `sums_to_one` | 1 when the outputs are probabilities |
            | `valid_acc`, `valid_acc_again` | as the run wrote it down, and in evaluation mode |
            | `worst_recall` | the lowest recall of a class |
            | `shared_share` | see `shared_share` |
            | `moved_statistics` | how many statistics of frozen norms moved |

    Returns:
        The findings; an empty list when nothing is wrong.

    >>> [f.name for f in judge({"shared_share": 0.4, "silent_share": 0.0})]
    ['leak']
    """
    v = {name: vitals.get(name, math.nan) for name in VITALS}  # nothing holds of NaN
    step = f"in the first epoch a step changes a weight by 10^{v['log10_update_ratio']:.1f}"
    rules = (
        (
            v["first_loss"] > 2 * v["log_classes"],
            "initial loss",
            f"a fresh model has a loss of {v['first_loss']:.3g}, more than twice log K = {v['log_classes']:.2f}",
            "the first steps are spent on undoing the start, and may be too large to survive",
            "look at the range of the inputs and the size of the first weights",
        ),
        (
            v["silent_share"] > 0.5,
            "dead units",
            f"no gradient reaches {v['silent_share']:.0%} of the units of the fresh model; half is suspicious",
            "a ReLU that is never on never moves again",
            "He weights and biases of 0; batch norm; a smaller rate if they die during training",
        ),
        (
            v["label_signal"] < v["chance"] + 0.1,
            "labels without images",
            f"a linear rule gets {v['label_signal']:.0%} of the labels right, one answer for all {v['chance']:.0%}",
            "where labels do not belong to their images there is nothing to learn",
            "show a batch as the model gets it, with its labels",
        ),
        (
            v["log10_update_ratio"] > -1.2,
            "steps too large",
            f"{step} of its size; 10^-3 is usual, 10^-1.2 the limit",
            "each step undoes the one before",
            "a rate ten times smaller, or warm-up",
        ),
        (
            -11 < v["log10_update_ratio"] < -4.2,
            "steps too small",
            f"{step} of its size; 10^-3 is usual, 10^-4.2 the limit",
            "at this pace nothing is learnt in the life of the run",
            "a rate ten times larger; the learning-rate finder",
        ),
        (
            v["grad_norm_peak"] > 50,
            "exploding gradients",
            f"the largest gradient norm is {v['grad_norm_peak']:.3g} times the median; 50 is the limit",
            "one such step throws the weights away",
            "clip_norm=1.0, batch norm, a smaller rate",
        ),
        (
            v["sums_to_one"] > 0,
            "softmax inside",
            "the outputs of the model are positive and sum to one",
            "cross-entropy applies the softmax itself; twice, its gradients are small and its loss cannot reach 0",
            "let the model return logits",
        ),
        (
            abs(v["valid_acc"] - v["valid_acc_again"]) > 0.1,
            "measured otherwise",
            f"an accuracy of {v['valid_acc']:.2f} is written down, evaluation mode gives {v['valid_acc_again']:.2f}",
            "what is measured is not the model that will be used",
            "model.eval() before every measurement",
        ),
        (
            v["worst_recall"] < 0.2 and v["valid_acc"] > 0.6,
            "missed class",
            f"the accuracy is {v['valid_acc']:.2f}, but of one class {v['worst_recall']:.0%} are found",
            "accuracy counts samples, so frequent classes hide the rare ones",
            "per-class recall, balanced accuracy; class weights or balanced sampling",
        ),
        (
            v["shared_share"] > 0.01,
            "leak",
            f"{v['shared_share']:.0%} of the validation images are in the training part",
            "on these the validation measures memory",
            "remove the copies before splitting, then measure again",
        ),
        (
            v["moved_statistics"] > 0,
            "frozen statistics move",
            f"{v['moved_statistics']:.0f} running statistics of frozen norms have moved",
            "the frozen part no longer computes what it did when it was loaded",
            "frozen norms in evaluation mode, in every step: cnnlab.transfer.train_mode",
        ),
    )
    return [Finding(*told) for holds, *told in rules if holds]


VITALS = (
    "first_loss",
    "log_classes",
    "silent_share",
    "label_signal",
    "chance",
    "log10_update_ratio",
    "grad_norm_peak",
    "sums_to_one",
    "valid_acc",
    "valid_acc_again",
    "worst_recall",
    "shared_share",
    "moved_statistics",
)


def _bytes(image: Any) -> bytes:
    return torch.as_tensor(image).numpy().tobytes()
