"""Chapter 1: one epoch of training, an honest measurement, an honest split."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import generator


Batches = list[tuple[Tensor, Tensor]]


def _problem(seed: int, *, samples: int = 22, batch: int = 4) -> tuple[nn.Module, Batches]:
    """A small network with batch norm and dropout, and batches of which the last one is short."""
    g = generator(seed, 1)
    images = torch.rand(samples, 2, 6, 6, generator=g)
    labels = torch.randint(0, 3, (samples,), generator=g)
    labels[-2:] = (labels[-2:] + 1) % 3
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    return model, list(zip(images.split(batch), labels.split(batch), strict=True))


class _Watch:
    """Note at each forward pass whether the model trains and whether gradients are recorded."""

    def __init__(self, model: nn.Module) -> None:
        self.training: set[bool] = set()
        self.gradients: set[bool] = set()
        model.register_forward_hook(self._note)

    def _note(self, model: nn.Module, inputs: Any, output: Any) -> None:
        self.training.add(model.training)
        self.gradients.add(torch.is_grad_enabled())


def _observe_epoch(attempt: Callable[..., Any], seed: int) -> Observation:
    model, batches = _problem(seed)
    model.eval()  # as a measurement before the epoch leaves it
    watch = _Watch(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    returned = attempt(model, batches, optimizer, F.cross_entropy)
    weights = [p.detach().clone() for p in model.parameters()]
    return {
        "the mode of the model": watch.training,
        "the weights after the epoch": weights,
        "what you return": returned,
    }


def train_one_epoch(
    model: nn.Module, loader: Iterable, optimizer: Optimizer, loss_fn: Callable
) -> float:
    """The answer: one step a batch; returns the mean loss over the samples."""
    model.train()
    total, count = 0.0, 0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        count += len(labels)
    return total / count


def _no_zero_grad(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
    model.train()
    total, count = 0.0, 0
    for images, labels in loader:
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        total, count = total + loss.item() * len(labels), count + len(labels)
    return total / count


def _no_train_mode(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
    total, count = 0.0, 0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        total, count = total + loss.item() * len(labels), count + len(labels)
    return total / count


def _mean_of_batch_losses(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
    model.train()
    losses = []
    for images, labels in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def _zero_grad_before_step(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
    model.train()
    total, count = 0.0, 0
    for images, labels in loader:
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
        total, count = total + loss.item() * len(labels), count + len(labels)
    return total / count


def _one_step_an_epoch(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
    model.train()
    optimizer.zero_grad()
    total, count = 0.0, 0
    for images, labels in loader:
        loss = loss_fn(model(images), labels)
        loss.backward()
        total, count = total + loss.item() * len(labels), count + len(labels)
    optimizer.step()
    return total / count


def _returns_a_tensor(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
    return torch.tensor(train_one_epoch(model, loader, optimizer, loss_fn))


EPOCH = Exercise(
    name="train_one_epoch",
    observe=_observe_epoch,
    answer=train_one_epoch,
    praise="The weights after the epoch and the mean loss over the samples agree with the reference.",
    mistakes={
        "no zero_grad": Mistake(
            _no_zero_grad,
            "the gradients of earlier batches are still there: each step follows the sum of all of them.",
            "`backward()` adds to `.grad`; what clears it, and when?",
        ),
        "no train mode": Mistake(
            _no_train_mode,
            "the model is in evaluation mode while it trains, so batch norm learns no statistics.",
            "the function may get a model that was measured just before",
        ),
        "mean of batch means": Mistake(
            _mean_of_batch_losses,
            "the loss is a mean of batch means: the short last batch weighs as much as a full one.",
            "weigh each batch with the number of its samples",
        ),
        "zero_grad before step": Mistake(
            _zero_grad_before_step,
            "the gradients are cleared between `backward()` and `step()`, so the weights never move.",
            "in which order do clear, compute, use come?",
        ),
        "one step an epoch": Mistake(
            _one_step_an_epoch,
            "there is one optimizer step for the whole epoch; there should be one a batch.",
            "look at the indentation of `step()`",
        ),
        "returns a tensor": Mistake(
            _returns_a_tensor,
            "you return a tensor; a plain number is asked for.",
            "`.item()` reads the number out of a tensor",
        ),
    },
)


def _observe_evaluate(attempt: Callable[..., Any], seed: int) -> Observation:
    model, batches = _problem(seed, samples=23, batch=5)
    # Statistics that no single batch has, and a last batch with more wrong answers: each mistake then shows.
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    mean += torch.randn(4, generator=generator(seed, 2))
    variance *= 0.1
    model.eval()
    with torch.no_grad():
        logits = [model(images) for images, _ in batches]
        batches = [(i, out.argmax(1)) for (i, _), out in zip(batches, logits, strict=True)]
        batches[0][1][:2] += 1
        batches[0][1].remainder_(3)
        batches[-1][1][1:] += 1
        batches[-1][1].remainder_(3)
    model.train()  # as an epoch of training leaves it
    watch = _Watch(model)
    before = mean.clone()
    returned = attempt(model, batches)
    return {
        "the mode of the model while it is measured": watch.training,
        "gradients recorded": watch.gradients,
        "the running statistics untouched": torch.equal(before, mean),
        "what you return": returned,
    }


def evaluate(model: nn.Module, loader: Iterable) -> float:
    """The answer: share of right answers over all samples, in evaluation mode, without gradients."""
    model.eval()
    correct, count = 0, 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(dim=1) == labels).sum().item()
            count += len(labels)
    return correct / count


def _no_eval_mode(model, loader):  # type: ignore[no-untyped-def]
    correct, count = 0, 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(dim=1) == labels).sum().item()
            count += len(labels)
    return correct / count


def _no_no_grad(model, loader):  # type: ignore[no-untyped-def]
    model.eval()
    correct, count = 0, 0
    for images, labels in loader:
        correct += (model(images).argmax(dim=1) == labels).sum().item()
        count += len(labels)
    return correct / count


def _mean_of_batch_accuracies(model, loader):  # type: ignore[no-untyped-def]
    model.eval()
    shares = []
    with torch.no_grad():
        for images, labels in loader:
            shares.append((model(images).argmax(dim=1) == labels).float().mean().item())
    return sum(shares) / len(shares)


def _batches_times_size(model, loader):  # type: ignore[no-untyped-def]
    model.eval()
    correct, batches, size = 0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(dim=1) == labels).sum().item()
            batches, size = batches + 1, max(size, len(labels))
    return correct / (batches * size)


def _count_of_right_answers(model, loader):  # type: ignore[no-untyped-def]
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(dim=1) == labels).sum().item()
    return correct


EVALUATE = Exercise(
    name="evaluate",
    observe=_observe_evaluate,
    answer=evaluate,
    praise="Evaluation mode, no gradients, and every sample counts the same.",
    mistakes={
        "no eval mode": Mistake(
            _no_eval_mode,
            "the model is measured in training mode: batch norm uses the statistics of each batch, and even "
            "moves its running ones. Measuring must not change the model.",
            "which call puts a model in evaluation mode?",
        ),
        "no no_grad": Mistake(
            _no_no_grad,
            "the accuracy is right, but gradients are recorded, which costs memory and time for nothing.",
            "there is a context for code that needs no gradients",
        ),
        "mean of batch means": Mistake(
            _mean_of_batch_accuracies,
            "this is a mean of batch means: a sample of the short last batch weighs more than the others.",
            "add up right answers and samples; divide once, at the end",
        ),
        "batches times size": Mistake(
            _batches_times_size,
            "you divide by batches times batch size, but the last batch is shorter.",
            "count the samples that really came",
        ),
        "count instead of share": Mistake(
            _count_of_right_answers,
            "you return how many answers are right; the share between 0 and 1 is asked for.",
            "divide by the number of samples",
        ),
    },
)


def _observe_split(attempt: Callable[..., Any], seed: int) -> Observation:
    n, n_valid, n_test = 90 + seed % 7, 24, 18
    first, again, other = (attempt(n, n_valid, n_test, s) for s in (seed, seed, seed + 1))
    train, valid, test = ([int(i) for i in part] for part in first)
    return {
        "the sizes": (len(train), len(valid), len(test)),
        "indices that are in no part": sorted(set(range(n)) - {*train, *valid, *test}),
        "indices in both train and valid": sorted({*train} & {*valid}),
        "indices in both train and test": sorted({*train} & {*test}),
        "indices in both valid and test": sorted({*valid} & {*test}),
        "drawn from everywhere": max(valid) - min(valid) > len(valid) < max(test) - min(test),
        "the same seed, the same parts": _parts(first) == _parts(again),
        "another seed, other parts": _parts(first) != _parts(other),
    }


def _parts(split: Iterable) -> list[set[int]]:
    return [{int(i) for i in part} for part in split]


def split(n: int, n_valid: int, n_test: int, seed: int) -> tuple[list[int], list[int], list[int]]:
    """The answer: a permutation drawn from the seed, cut in three."""
    order = torch.randperm(n, generator=generator(seed)).tolist()
    return order[n_valid + n_test :], order[:n_valid], order[n_valid : n_valid + n_test]


def _in_order(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    order = list(range(n))
    n_train = n - n_valid - n_test
    return order[:n_train], order[n_train : n_train + n_valid], order[n_train + n_valid :]


def _always_the_same(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    return split(n, n_valid, n_test, 0)


def _another_each_time(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    return split(n, n_valid, n_test, int(torch.empty((), dtype=torch.int64).random_()))


def _train_holds_all(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    _, valid, test = split(n, n_valid, n_test, seed)
    return list(range(n)), valid, test


def _drawn_apart(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    _, valid, _ = split(n, n_valid, n_test, seed)
    test = split(n, n_test, 0, seed + 10**6)[1]
    return [i for i in range(n) if i not in {*valid, *test}], valid, test


SPLIT = Exercise(
    name="split",
    observe=_observe_split,
    answer=split,
    praise="Every index is in one part, and the seed alone decides in which.",
    mistakes={
        "in the order of the data": Mistake(
            _in_order,
            "the parts are consecutive pieces. Data often lie sorted by class or by day, and then the parts "
            "differ in kind.",
            "shuffle before you cut",
        ),
        "the seed is not used": Mistake(
            _always_the_same,
            "every seed gives the same parts, so nobody can repeat the experiment with another split.",
            "where does the seed enter your random numbers?",
        ),
        "another split at each call": Mistake(
            _another_each_time,
            "the same seed gives other parts at the next call: tomorrow you would test on images that you "
            "trained on today.",
            "make a generator from the seed",
        ),
        "training holds everything": Mistake(
            _train_holds_all,
            "the training part still holds the images of the other two: a leak, and a flattering number.",
            "take out what you have given away",
        ),
        "two independent draws": Mistake(
            _drawn_apart,
            "validation and test were drawn apart from each other, so they share images.",
            "draw one order and cut it",
        ),
    },
)
