"""More symptoms of a broken run: functions that measure them, and rules that judge the results.

`diagnose` looks at the data set, the fresh model and the learning curves. The functions here answer
other questions: do the labels belong to the images, does every unit get a gradient, is the
validation set independent? `judge` compares the answers with thresholds. These are rules of thumb,
and each finding states its own.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.diagnose.finding import Finding
from cnnlab.rng import fork_rng
from cnnlab.training.modes import eager_mode, eval_mode, train_mode


__all__ = [
    "eval_outputs",
    "judge",
    "label_signal",
    "moved_statistics",
    "recalls",
    "shared_share",
    "silent_share",
    "sums_to_one",
    "unregistered_layers",
]


Loss = Callable[[Tensor, Tensor], Tensor]


def silent_share(model: nn.Module, batch: tuple[Tensor, Tensor], loss_fn: Loss) -> float:
    """Compute the fraction of units that get no gradient: every weight's gradient is exactly 0.

    A ReLU that is always off passes no gradient to the unit before it, so that unit never changes.
    Units with frozen weights count too.

    Args:
        model: the model; it isn't changed.
        batch: (images, targets), with at least thirty samples, because a unit may be active for
            only a few of them.
        loss_fn: (logits, targets) -> mean loss.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    >>> net[0].weight.data = torch.tensor([[1.0], [-1.0]])  # for positive inputs: on, off
    >>> silent_share(net, (torch.ones(3, 1), torch.tensor([0, 1, 1])), F.cross_entropy)
    0.25
    """
    images, targets = batch
    with fork_rng(), eager_mode(), torch.enable_grad():
        model = train_mode(copy.deepcopy(model)).requires_grad_(True)
        model.zero_grad()
        loss_fn(model(images), targets).backward()
    grads = [p.grad.flatten(1) for p in model.parameters() if p.grad is not None and p.ndim > 1]
    silent = torch.cat([(grad == 0).all(dim=1) for grad in grads])
    return silent.float().mean().item()


def label_signal(images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Test whether labels belong to their images: cross-validate a linear classifier on them.

    The classifier is a ridge regression on images reduced to 8 x 8 pixels, fitted on one half and
    tested on the other, both ways. It is a poor classifier, but it beats chance wherever the labels
    belong to the images.

    Args:
        images: (N, C, H, W), as the model gets them and in random order, with N at least 200.
        labels: class indices (N,).

    Returns:
        (accuracy, chance), where chance is the accuracy of always predicting the most frequent
        class.

    >>> labels = torch.arange(200) % 2
    >>> label_signal(labels.float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8), labels)
    (1.0, 0.5)
    """
    x = F.adaptive_avg_pool2d(images, 8).flatten(1).double()
    x = (x - x.mean(dim=0)) / x.std(dim=0).clamp(min=1e-6)
    y = F.one_hot(labels).double()
    half, n_correct = len(x) // 2, 0
    halves = (slice(0, half), slice(half, None))
    for train, test in (halves, halves[::-1]):
        bias = y[train].mean(dim=0)
        gram = x[train].T @ x[train] + 100 * torch.eye(x.shape[1], dtype=x.dtype)
        weight = torch.linalg.solve(gram, x[train].T @ (y[train] - bias))
        n_correct += int(((x[test] @ weight + bias).argmax(dim=1) == labels[test]).sum())
    return n_correct / len(x), y.mean(dim=0).max().item()


def shared_share(train: Any, valid: Any) -> float:
    """Compute the fraction of validation images that are also in the training set, byte for byte.

    Args:
        train: a data set of (image, label), without random transforms.
        valid: another one.

    >>> from torch.utils.data import TensorDataset
    >>> images, labels = torch.rand(6, 1, 2, 2), torch.zeros(6)
    >>> shared_share(TensorDataset(images[:4], labels[:4]), TensorDataset(images[2:], labels[2:]))
    0.5
    """
    train_images = {_bytes(image) for image, _ in train}
    return sum(_bytes(image) in train_images for image, _ in valid) / len(valid)


def recalls(logits: Tensor, labels: Tensor) -> list[float]:
    """Compute the recall of each class: the fraction of its samples that are predicted correctly.

    A class without samples gets NaN.

    Args:
        logits: (N, K).
        labels: class indices (N,).

    >>> recalls(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0, 1]))
    [1.0, 0.0]
    """
    correct = (logits.argmax(dim=1) == labels).float()
    return [correct[labels == k].mean().item() for k in range(logits.shape[1])]


def moved_statistics(before: nn.Module, after: nn.Module) -> list[str]:
    """List the running statistics that changed although the weights of their layer are frozen.

    Args:
        before: a copy of the model from before the training.
        after: the model after the training.

    >>> norm = nn.Sequential(nn.BatchNorm1d(2)).requires_grad_(False)
    >>> before = copy.deepcopy(norm)
    >>> norm(torch.rand(4, 2)).shape  # in training mode
    torch.Size([4, 2])
    >>> moved_statistics(before, norm)
    ['0.running_mean', '0.running_var']
    """
    moved = []
    for name, module in after.named_modules():
        parameters = list(module.parameters(recurse=False))
        if not parameters or any(p.requires_grad for p in parameters):
            continue
        module_before = before.get_submodule(name)
        for key, buffer in module.named_buffers(recurse=False):
            buffer_before = module_before.get_buffer(key)
            if buffer.is_floating_point() and not torch.equal(buffer, buffer_before):
                moved.append(f"{name}.{key}")
    return moved


def eval_outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Return the outputs (N, K) of a model in evaluation mode, without side effects.

    >>> eval_outputs(nn.Dropout(0.5), torch.ones(1, 3))
    tensor([[1., 1., 1.]])
    """
    with torch.no_grad(), eval_mode(model):
        return torch.cat([model(batch) for batch in images.split(256)])


def sums_to_one(outputs: Tensor) -> bool:
    """Check whether a model returns probabilities, although the cross-entropy expects logits.

    Args:
        outputs: (N, K).

    >>> sums_to_one(torch.tensor([[0.25, 0.75]])), sums_to_one(torch.tensor([[-1.0, 2.0]]))
    (True, False)
    """
    sums = outputs.sum(dim=1)
    return bool((outputs >= 0).all() and (sums - 1).abs().max() < 1e-3)


def unregistered_layers(model: nn.Module) -> list[str]:
    """List the attributes that hold layers in a plain list or dictionary, which torch doesn't see.

    Their weights are not in `model.parameters()`, so they are neither trained nor saved nor moved
    to another device. `nn.ModuleList` and `nn.ModuleDict` are seen.

    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layers = [nn.Linear(2, 2), nn.ReLU()]
    >>> unregistered_layers(Net())
    ['layers']
    """
    seen = {id(p) for p in model.parameters()}
    names = []
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            layers = value.values() if isinstance(value, dict) else value
            hidden = [p for m in layers if isinstance(m, nn.Module) for p in m.parameters()]
            if any(id(p) not in seen for p in hidden):
                names.append(f"{prefix}.{name}".lstrip("."))
    return names


def judge(vitals: Mapping[str, float]) -> list[Finding]:
    """Compare the vital signs of a run with thresholds.

    Args:
        vitals: any of these; missing ones are not judged.

            | name | meaning |
            |---|---|
            | `first_loss`, `log_classes` | loss of the fresh model, and log K |
            | `silent_share` | see `silent_share` |
            | `label_signal`, `chance` | see `label_signal` |
            | `log10_update_ratio` | median of the first epoch, from `UpdateRatioLog` |
            | `grad_norm_peak` | largest gradient norm of a step / median of all steps |
            | `sums_to_one` | 1 if the outputs are probabilities |
            | `valid_acc`, `valid_acc_again` | as the run recorded it, and in evaluation mode |
            | `worst_recall` | the lowest recall of a class |
            | `shared_share` | see `shared_share` |
            | `moved_statistics` | number of running statistics of frozen layers that changed |
            | `unregistered_layers` | number of lists of layers that torch doesn't see |
            | `n_outputs`, `n_classes` | outputs of the model, and classes of the data |
            | `lowest_output` | smallest output of the model on many images |

    Returns:
        The findings; an empty list if nothing is wrong.

    >>> [f.name for f in judge({"shared_share": 0.4, "silent_share": 0.0})]
    ['leak']
    """
    # No rule applies to a missing vital sign, because comparisons with NaN are false.
    values = {name: vitals.get(name, math.nan) for name in VITALS}
    return [rule.finding(values) for rule in RULES if rule.applies(values)]


@dataclass(frozen=True)
class Rule:
    """A condition on the vital signs, and the finding that it leads to.

    Attributes:
        name: the name of the finding.
        applies: whether the vital signs lead to this finding.
        seen: the evidence, as a format string with the names of vital signs.
        why: why it matters.
        advice: what to try.
    """

    name: str
    applies: Callable[[Mapping[str, float]], bool]
    seen: str
    why: str
    advice: str

    def finding(self, vitals: Mapping[str, float]) -> Finding:
        """Return the finding, with the vital signs filled in."""
        return Finding(self.name, self.seen.format(**vitals), self.why, self.advice)


# In the order in which the findings are reported.
RULES = (
    Rule(
        "initial loss",
        applies=lambda v: v["first_loss"] > 2 * v["log_classes"],
        seen="the loss of the fresh model is {first_loss:.3g}, more than twice log K = "
        "{log_classes:.2f}",
        why="the first steps are spent on undoing the initialisation, and may be large enough to "
        "break the model",
        advice="check the range of the inputs and the size of the initial weights",
    ),
    Rule(
        "dead units",
        applies=lambda v: v["silent_share"] > 0.5,
        seen="{silent_share:.0%} of the units of the fresh model get no gradient; the limit is 50%",
        why="a ReLU that is always off never changes again",
        advice="He initialisation with biases of 0; batch norm; a smaller learning rate if units "
        "die during training",
    ),
    Rule(
        "labels without images",
        applies=lambda v: v["label_signal"] < v["chance"] + 0.1,
        seen="a linear classifier predicts {label_signal:.0%} of the labels correctly, and always "
        "predicting the most frequent class {chance:.0%}",
        why="if the labels don't belong to their images, there is nothing to learn",
        advice="show a batch with its labels, exactly as the model gets it",
    ),
    Rule(
        "steps too large",
        applies=lambda v: v["log10_update_ratio"] > -1.2,
        seen="in the first epoch, one step changes a weight by 10^{log10_update_ratio:.1f} of its "
        "size; 10^-3 is usual, the limit is 10^-1.2",
        why="each step undoes the one before",
        advice="a learning rate that is ten times smaller, or warm-up",
    ),
    Rule(
        "steps too small",
        applies=lambda v: -11 < v["log10_update_ratio"] < -4.2,
        seen="in the first epoch, one step changes a weight by 10^{log10_update_ratio:.1f} of its "
        "size; 10^-3 is usual, the limit is 10^-4.2",
        why="at this pace the model learns almost nothing during the whole run",
        advice="a learning rate that is ten times larger; the learning-rate finder",
    ),
    Rule(
        "exploding gradients",
        applies=lambda v: v["grad_norm_peak"] > 50,
        seen="the largest gradient norm is {grad_norm_peak:.3g} times the median; the limit is 50",
        why="a single step of this size destroys what the weights have learnt",
        advice="clip_norm=1.0, batch norm, or a smaller learning rate",
    ),
    Rule(
        "softmax inside",
        applies=lambda v: v["sums_to_one"] > 0,
        seen="the outputs of the model are positive and sum to one",
        why="the cross-entropy applies the softmax itself; applied twice, it makes the gradients "
        "small and keeps the loss above 0",
        advice="let the model return logits",
    ),
    Rule(
        "activation at the end",
        applies=lambda v: v["lowest_output"] >= 0 and not v["sums_to_one"] > 0,
        seen="no output of the model is below 0; the smallest is {lowest_output:.3g}",
        why="a ReLU or a sigmoid after the last layer keeps the cross-entropy from lowering the "
        "score of a wrong class, and often stops the gradient",
        advice="let the model return the values of its last linear layer",
    ),
    Rule(
        "too many outputs",
        applies=lambda v: v["n_outputs"] > v["n_classes"],
        seen="the model has {n_outputs:.0f} outputs for {n_classes:.0f} classes",
        why="classes that don't exist take part in every prediction and in the loss",
        advice="cnnlab.replace_head(model, n_classes), before you create the optimizer",
    ),
    Rule(
        "unregistered layers",
        applies=lambda v: v["unregistered_layers"] > 0,
        seen="{unregistered_layers:.0f} lists or dictionaries hold layers that are not in "
        "model.parameters()",
        why="these layers are neither trained nor saved nor moved to the GPU",
        advice="nn.ModuleList or nn.Sequential instead of a list, nn.ModuleDict instead of a dict",
    ),
    Rule(
        "train-mode validation",
        applies=lambda v: abs(v["valid_acc"] - v["valid_acc_again"]) > 0.1,
        seen="the run recorded a validation accuracy of {valid_acc:.2f}, but in evaluation mode it "
        "is {valid_acc_again:.2f}",
        why="the recorded accuracy is not that of the model you will use",
        advice="call model.eval() before every evaluation",
    ),
    Rule(
        "missed class",
        applies=lambda v: v["worst_recall"] < 0.2 and v["valid_acc"] > 0.6,
        seen="the accuracy is {valid_acc:.2f}, but the recall of one class is {worst_recall:.0%}",
        why="accuracy counts samples, so the frequent classes hide the rare ones",
        advice="recall per class, balanced accuracy; class weights or balanced sampling",
    ),
    Rule(
        "leak",
        applies=lambda v: v["shared_share"] > 0.01,
        seen="{shared_share:.0%} of the validation images are also in the training set",
        why="on these images the validation only measures what the model has memorised",
        advice="remove the copies before you split the data, then evaluate again",
    ),
    Rule(
        "frozen statistics move",
        applies=lambda v: v["moved_statistics"] > 0,
        seen="{moved_statistics:.0f} running statistics of frozen batch-norm layers have changed",
        why="the frozen layers no longer compute what they did when they were loaded",
        advice="keep frozen batch-norm layers in evaluation mode: cnnlab.transfer.train_mode",
    ),
)


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
    "unregistered_layers",
    "n_outputs",
    "n_classes",
    "lowest_output",
)


def _bytes(image: Any) -> bytes:
    array = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    return array.tobytes()
