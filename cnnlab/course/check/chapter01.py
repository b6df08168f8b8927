"""Check the exercises of chapter 1: split, train for one epoch, evaluate, and test a loop.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.course.spelling import recognise
from cnnlab.rng import generator


Batches = list[tuple[Tensor, Tensor]]


def _problem(seed: int, *, samples: int = 22) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small network with batch norm, images and labels."""
    g = generator(seed, 1)
    images = torch.rand(samples, 2, 6, 6, generator=g)
    labels = torch.randint(0, 3, (samples,), generator=g)
    labels[-2:] = (labels[-2:] + 1) % 3
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    return model, images, labels


def _loader(images: Tensor, labels: Tensor, size: int) -> DataLoader:
    """Return batches of which the last one is shorter."""
    return DataLoader(TensorDataset(images, labels), size, generator=torch.Generator())


class _ForwardRecorder:
    """Record the mode of the model and the state of autograd in each forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.training: list[bool] = []
        self.gradients: list[bool] = []
        model.register_forward_hook(self._record)

    def _record(self, model: nn.Module, inputs: Any, output: Any) -> None:
        self.training.append(model.training)
        self.gradients.append(torch.is_grad_enabled())


def _observe_epoch(attempt: Callable[..., Any], seed: int) -> Observation:
    model, images, labels = _problem(seed)
    model.eval()  # the mode in which an evaluation before the epoch leaves the model
    before = _weights(model)
    recorder = _ForwardRecorder(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    steps: list[bool] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(True))
    returned = attempt(model, _loader(images, labels, 4), optimizer, F.cross_entropy)
    after = _weights(model)
    return {
        "your epoch never calls the model.": not recorder.training,
        "the model is in evaluation mode while it trains.": not all(recorder.training),
        "you end your epoch after the first of six batches.": len(recorder.training) == 1,
        "the number of optimizer steps for six batches": len(steps),
        "no weight changes in your epoch.": all(map(torch.equal, before, after)),
        "the list of weights after your epoch": after,
        "your mean loss over 22 samples in six batches": returned,
    }


def _weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def train_one_epoch(
    model: nn.Module, loader: Iterable, optimizer: Optimizer, loss_fn: Callable
) -> float:
    """Train for one epoch, with one step per batch; return the mean loss over the samples."""
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


def _reports(summary: Callable[[list[float]], float]) -> Callable[..., float]:
    """Return an epoch that trains correctly, but returns a summary of the batch losses."""

    def attempt(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
        losses: list[float] = []

        def recording_loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
            loss = loss_fn(outputs, labels)
            losses.append(loss.item())
            return loss

        train_one_epoch(model, loader, optimizer, recording_loss_fn)
        return summary(losses)

    return attempt


_mean_of_batch_losses = _reports(lambda losses: sum(losses) / len(losses))


def _means_over_samples(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
    batches = list(loader)
    total = _reports(sum)(model, batches, optimizer, loss_fn)
    return total / sum(len(labels) for _, labels in batches)


def _softmax_first(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
    return train_one_epoch(model, loader, optimizer, lambda z, y: loss_fn(z.softmax(dim=1), y))


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


def _one_step_per_epoch(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
    model.train()
    optimizer.zero_grad()
    total, count = 0.0, 0
    for images, labels in loader:
        loss = loss_fn(model(images), labels)
        loss.backward()
        total, count = total + loss.item() * len(labels), count + len(labels)
    optimizer.step()
    return total / count


def _return_inside_the_loop(model, loader, optimizer, loss_fn):  # type: ignore[no-untyped-def]
    return train_one_epoch(model, [next(iter(loader))], optimizer, loss_fn)


EPOCH = Exercise(
    name="train_one_epoch",
    task="`train_one_epoch(model, loader, optimizer, loss_fn) -> mean loss`",
    observe=_observe_epoch,
    answer=train_one_epoch,
    praise="Your weights after the epoch and your mean loss over the samples match the reference.",
    hint="take the loop of this section line by line: what is missing, or in another order?",
    mistakes={
        "no zero_grad": Mistake(
            _no_zero_grad,
            "the gradients of earlier batches are never cleared, so each step follows the sum of "
            "all gradients so far.",
            "`backward()` adds to `.grad`; which call clears it, and when should you make it?",
        ),
        "no train mode": Mistake(
            _no_train_mode,
            "your model is in evaluation mode while it trains, so batch norm never updates its "
            "running statistics.",
            "your function may get a model that was evaluated just before",
        ),
        "mean of batch means": Mistake(
            _mean_of_batch_losses,
            "you return the mean of the batch losses, so the shorter last batch counts as much as "
            "a full one.",
            "how many samples does each batch loss stand for?",
        ),
        "sum of batch losses": Mistake(
            _reports(sum),
            "you return the sum of the batch losses, which grows with the number of batches.",
            "which mean does the exercise ask for?",
        ),
        "batch means over samples": Mistake(
            _means_over_samples,
            "you add up the means of the batches, but divide by the number of samples, so your "
            "loss is several times too small.",
            "a batch loss is a mean; which sum over its samples does it come from?",
        ),
        "loss of the last batch": Mistake(
            _reports(lambda losses: losses[-1]),
            "you return the loss of the last batch alone.",
            "which variable has to survive from one batch to the next?",
        ),
        "softmax before the loss": Mistake(
            _softmax_first,
            "you apply a softmax before the loss, so your gradients are too small.",
            "what does `F.cross_entropy` expect: probabilities or logits?",
        ),
        "zero_grad before step": Mistake(
            _zero_grad_before_step,
            "all gradients are 0 or missing at each `step()`, so the weights never change.",
            "in which order should you clear, compute and use the gradients?",
        ),
        "one step per epoch": Mistake(
            _one_step_per_epoch,
            "you take one optimizer step for the whole epoch, but there should be one per batch.",
            "look at the indentation of `optimizer.step()`",
        ),
        "return inside the loop": Mistake(
            _return_inside_the_loop,
            "your function ends after the first batch, so it takes a single step.",
            "look at the indentation of `return`",
        ),
    },
)


def _observe_evaluate(attempt: Callable[..., Any], seed: int) -> Observation:
    model, images, labels = _problem(seed, samples=23)
    # Running statistics unlike those of any batch, and more errors in the last batch than in the
    # others, so that every mistake changes the accuracy.
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    mean += torch.randn(4, generator=generator(seed, 2))
    variance *= 0.1
    model.eval()
    with torch.no_grad():
        labels = model(images).argmax(1)
    for wrong in (slice(2), slice(21, 23)):
        labels[wrong] = (labels[wrong] + 1) % 3
    model.train()  # the mode in which an epoch of training leaves the model
    recorder = _ForwardRecorder(model)
    before = mean.clone()
    returned = attempt(model, _loader(images, labels, 5))
    return {
        "your evaluation never calls the model.": not recorder.training,
        "the model is in training mode while you evaluate it.": any(recorder.training),
        "autograd records your forward passes.": any(recorder.gradients),
        "your evaluation changes the running statistics of batch norm.": not torch.equal(
            before, mean
        ),
        "your accuracy for 23 samples in five batches": returned,
    }


def evaluate(model: nn.Module, loader: Iterable) -> float:
    """Return the accuracy over all samples, computed in evaluation mode and without gradients."""
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
    accuracies = []
    with torch.no_grad():
        for images, labels in loader:
            accuracies.append((model(images).argmax(dim=1) == labels).float().mean().item())
    return sum(accuracies) / len(accuracies)


def _batches_times_size(model, loader):  # type: ignore[no-untyped-def]
    model.eval()
    correct, batches, size = 0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(dim=1) == labels).sum().item()
            batches, size = batches + 1, max(size, len(labels))
    return correct / (batches * size)


def _count_of_correct_predictions(model, loader):  # type: ignore[no-untyped-def]
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(dim=1) == labels).sum().item()
    return correct


EVALUATE = Exercise(
    name="evaluate",
    task="`evaluate(model, loader) -> accuracy`, a fraction between 0 and 1",
    observe=_observe_evaluate,
    answer=evaluate,
    praise="You use evaluation mode, record no gradients, and count every sample equally.",
    hint="which predictions are correct, and out of how many? Print both counts",
    mistakes={
        "no eval mode": Mistake(
            _no_eval_mode,
            "you evaluate the model in training mode, so batch norm uses the statistics of each "
            "batch, and updates its running statistics.",
            "which call puts a model in evaluation mode?",
        ),
        "no no_grad": Mistake(
            _no_no_grad,
            "autograd records your forward passes, which wastes memory and time.",
            "torch has a context manager for code that needs no gradients",
        ),
        "mean of batch means": Mistake(
            _mean_of_batch_accuracies,
            "you average the accuracies of the batches, so a sample in the shorter last batch "
            "counts more than the others.",
            "count over the whole loader; when should you divide?",
        ),
        "errors": Mistake(
            lambda model, loader: 1 - evaluate(model, loader),
            "you return the fraction of incorrect predictions.",
            "is a perfect model at 0 or at 1?",
        ),
        "in per cent": Mistake(
            lambda model, loader: 100 * evaluate(model, loader),
            "you return a percentage, but the exercise asks for a fraction between 0 and 1.",
            "what should a perfect model get?",
        ),
        "batches times size": Mistake(
            _batches_times_size,
            "you divide by the number of batches times the batch size, but the last batch is "
            "shorter.",
            "count the samples that the loader really yields",
        ),
        "count instead of share": Mistake(
            _count_of_correct_predictions,
            "you return the number of correct predictions, but the exercise asks for a fraction "
            "between 0 and 1.",
            "a fraction of what?",
        ),
    },
)


def _observe_split(attempt: Callable[..., Any], seed: int) -> Observation:
    n, n_valid, n_test = 20 + seed % 3, 8, 7

    def call(n_test: int, seed: int) -> list[list[int]]:
        train, valid, test = attempt(n, n_valid, n_test, seed)
        return [[operator.index(i) for i in part] for part in (train, valid, test)]

    parts, again, other = call(n_test, seed), call(n_test, seed), call(n_test, seed + 1)
    train, valid, test = parts
    no_test = call(0, seed)
    return {
        "your training and validation sets share indices.": bool({*train} & {*valid}),
        "your training and test sets share indices.": bool({*train} & {*test}),
        "your validation and test sets share indices.": bool({*valid} & {*test}),
        "one of your sets contains an index twice.": any(len({*p}) < len(p) for p in parts),
        f"with n={n}, some indices below {n} are in none of your sets.": not (
            {*range(n)} <= {*train, *valid, *test}
        ),
        f"the tuple (train, valid, test) of sizes for n={n}, n_valid=8, n_test=7": _sizes(parts),
        "your validation set holds consecutive indices: nothing is shuffled.": all(
            b - a == 1 for a, b in itertools.pairwise(valid)
        ),
        "two calls with the same seed give different splits.": [*map(set, parts)]
        != [*map(set, again)],
        "two different seeds give the same split.": [*map(set, parts)] == [*map(set, other)],
        "with n_test=0, your test set isn't empty.": bool(no_test[2]),
        f"the tuple (train, valid, test) of sizes for n={n}, n_valid=8, n_test=0": _sizes(no_test),
    }


def _sizes(parts: Iterable[list[int]]) -> tuple[int, ...]:
    return tuple(map(len, parts))


def split(n: int, n_valid: int, n_test: int, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Return training, validation and test indices: three slices of a permutation from the seed."""
    order = torch.randperm(n, generator=generator(seed)).tolist()
    return order[n_valid + n_test :], order[:n_valid], order[n_valid : n_valid + n_test]


def _in_order(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    order = list(range(n))
    n_train = n - n_valid - n_test
    return order[:n_train], order[n_train : n_train + n_valid], order[n_train + n_valid :]


def _ignores_the_seed(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    return split(n, n_valid, n_test, 0)


def _new_split_every_call(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    return split(n, n_valid, n_test, int(torch.empty((), dtype=torch.int64).random_()))


def _train_contains_all(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    _, valid, test = split(n, n_valid, n_test, seed)
    return list(range(n)), valid, test


def _independent_draws(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    _, valid, _ = split(n, n_valid, n_test, seed)
    test = split(n, n_test, 0, seed + 10**6)[1]
    return [i for i in range(n) if i not in {*valid, *test}], valid, test


def _slices_from_the_end(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    order = torch.randperm(n, generator=generator(seed)).tolist()
    return order[: n - n_valid - n_test], order[-n_test - n_valid : -n_test], order[-n_test:]


def _validation_first(n, n_valid, n_test, seed):  # type: ignore[no-untyped-def]
    train, valid, test = split(n, n_valid, n_test, seed)
    return valid, test, train


SPLIT = Exercise(
    name="split",
    task="`split(n, n_valid, n_test, seed) -> (train, valid, test)`, index lists",
    observe=_observe_split,
    answer=split,
    praise="Every index is in exactly one of the three sets, and the seed alone decides in which.",
    hint="call it with n=6, n_valid=2, n_test=1: where does each of the six indices end up?",
    mistakes={
        "in the order of the data": Mistake(
            _in_order,
            "your three sets are consecutive slices of the data, which are often sorted by class "
            "or by date.",
            "what should happen to the order of the indices before you slice it?",
        ),
        "the seed is not used": Mistake(
            _ignores_the_seed,
            "you get the same split for every seed, so you can't repeat an experiment with a "
            "different split.",
            "where does the seed enter your random numbers?",
        ),
        "another split at each call": Mistake(
            _new_split_every_call,
            "the same seed gives a different split at every call, so tomorrow you would test on "
            "images that you trained on today.",
            "`torch.randperm` takes a `generator`",
        ),
        "training holds everything": Mistake(
            _train_contains_all,
            "your training set still contains the validation and test images. That is a leak, and "
            "it makes the test accuracy too high.",
            "which indices are already in another set?",
        ),
        "two independent draws": Mistake(
            _independent_draws,
            "you draw the validation and test sets independently, so they share images.",
            "how many random permutations do you need?",
        ),
        "another order of the sets": Mistake(
            _validation_first,
            "you return the validation set first.",
            "in which order does the docstring list the sets?",
        ),
        "slices from the end": Mistake(
            _slices_from_the_end,
            "you slice from the end of the list, which goes wrong for `n_test=0`: `order[-0:]` is "
            "the whole list.",
            "where does each slice start if you count from the beginning?",
        ),
    },
)


FAULTS: dict[str, Callable[..., float]] = {
    "none": train_one_epoch,
    "evaluation mode": _no_train_mode,
    "no step": _zero_grad_before_step,
    "no zero_grad": _no_zero_grad,
    "mean of batch means": _mean_of_batch_losses,
}


def _observe_fault(attempt: Callable[..., Any], seed: int) -> Observation:
    torch.manual_seed(seed)
    strange, verdicts = set(), {}
    for name, fault in FAULTS.items():
        typed = attempt(lambda *a, f=fault: f(*a))
        verdict = recognise(typed, FAULTS) if isinstance(typed, str) else typed
        if verdict is None and typed is not None:
            strange.add(typed)
        verdicts[f"your verdict on an epoch with the fault {name!r}"] = verdict or typed
    return {"the set of names that you return": strange, **verdicts}


def _fault_problem(
    epoch: Callable[..., float], *, evaluated: bool, sizes: tuple[int, ...]
) -> tuple[nn.Module, Batches, list[bool], float]:
    """Run an epoch with learning rate 0; return the model, the batches, the modes and the loss."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).train(not evaluated)
    modes: list[bool] = []
    model.register_forward_hook(lambda *_: modes.append(model.training))
    x, y = torch.randn(sum(sizes), 4), torch.arange(sum(sizes)) % 3
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    returned = epoch(model, batches, optimizer, F.cross_entropy)
    return model, batches, modes, returned


def _fault(
    epoch: Callable[..., float], *, evaluated: bool = True, sizes: tuple[int, ...] = (8, 2)
) -> str:
    model, batches, modes, returned = _fault_problem(epoch, evaluated=evaluated, sizes=sizes)
    weight = model.get_parameter("weight")
    left, weight.grad = weight.grad, None
    if not all(modes):
        return "evaluation mode"
    if left is None or not left.any():
        return "no step"
    images, labels = batches[-1]
    F.cross_entropy(model(images), labels).backward()
    if weight.grad is None or not torch.allclose(left, weight.grad):
        return "no zero_grad"
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    if abs(returned - F.cross_entropy(model(images), labels).item()) > 1e-5:
        return "mean of batch means"
    return "none"


def find_fault(epoch: Callable[..., float]) -> str:
    """Return the fault of an epoch: run it with learning rate 0, and look at modes and gradients.

    The model comes from an evaluation, and the last of the two batches is shorter.
    """
    return _fault(epoch)


def _always_none(epoch):  # type: ignore[no-untyped-def]
    return "none"


def _new_model(epoch):  # type: ignore[no-untyped-def]
    return _fault(epoch, evaluated=False)


def _equal_batches(epoch):  # type: ignore[no-untyped-def]
    return _fault(epoch, sizes=(5, 5))


def _one_batch(epoch):  # type: ignore[no-untyped-def]
    return _fault(epoch, sizes=(10,))


def _nothing_can_move(epoch):  # type: ignore[no-untyped-def]
    verdict = _fault(epoch)
    return verdict if verdict == "evaluation mode" else "no step"


def _gradients_are_left(epoch):  # type: ignore[no-untyped-def]
    verdict = _fault(epoch)
    return "no zero_grad" if verdict in ("none", "mean of batch means") else verdict


FIND_FAULT = Exercise(
    name="find_fault",
    task='`find_fault(epoch) -> name of the fault`, or "none"',
    observe=_observe_fault,
    answer=find_fault,
    praise="Your test finds each of the four faults, and accepts a correct epoch.",
    hint="call your function on your own `train_one_epoch`, and on a copy with that fault",
    mistakes={
        "always none": Mistake(
            _always_none,
            "your function finds no fault in any epoch.",
            "take one fault: what does it change in the model, its gradients or the result?",
        ),
        "a new model": Mistake(
            _new_model,
            "you miss the missing `train()`.",
            "in which mode is your model before the epoch: is it new, or was it evaluated?",
        ),
        "equal batches": Mistake(
            _equal_batches,
            "you miss the mean of batch means.",
            "in which batches does a mean of means differ from the mean?",
        ),
        "one batch": Mistake(
            _one_batch,
            'you miss two faults, "no zero_grad" and "mean of batch means".',
            "can your epoch show them: how many batches has it, and how long are they?",
        ),
        "nothing can move": Mistake(
            _nothing_can_move,
            'you report "no step" for epochs that do take their steps.',
            "can the weights move in your problem, and do you compare them with a copy?",
        ),
        "gradients are left": Mistake(
            _gradients_are_left,
            "you take any gradient that is left after the epoch for a missing `zero_grad`. A "
            "correct epoch leaves the gradient of its last batch.",
            "which gradient should be left, and can you compute it yourself?",
        ),
    },
)

EXERCISES = (SPLIT, EPOCH, EVALUATE, FIND_FAULT)

PREDICTIONS = (
    Prediction(
        question="What is the first loss of a new network?",
        text=(
            "What cross-entropy does a new, untrained network have on a batch, if there are "
            "twelve classes?"
        ),
        answer=2.89,
        why=(
            "Equal probabilities would give log 12 = 2.48. A new network starts somewhat "
            "higher, because it has random preferences and most of them are wrong."
        ),
        section="What should the loss be before training?",
        within=0.5,
    ),
    Prediction(
        question="Does the loss go to zero with two softmaxes?",
        text=(
            "A network ends with a softmax and is trained with `F.cross_entropy`, which applies "
            "a softmax itself. You train it on ten images for a hundred steps. Does the loss go "
            "to zero (below 0.1)?"
        ),
        answer="no",
        why=(
            "Probabilities lie between 0 and 1, so to the second softmax even the most "
            "confident correct prediction looks hesitant. With twelve classes, the loss can't "
            "fall below 1.62."
        ),
        section="One step, and ten images",
        options=("yes", "no"),
    ),
    Prediction(
        question="How is the accuracy without zero_grad, with small steps?",
        text=(
            "You forget `zero_grad`, so the gradients add up. The learning rate is very small, "
            "there's no other momentum, and training takes only three epochs. How is the "
            "accuracy, compared with the correct loop?"
        ),
        answer="higher",
        why=(
            "The correct run has hardly moved in three epochs, and the accumulated gradients "
            "act like a larger learning rate. A bug can hide behind a good number."
        ),
        section="Many steps",
        options=("lower", "higher", "the same"),
    ),
    Prediction(
        question="How accurate is training mode with single images?",
        text=(
            "Networks with batch norm, trained on batches of 64, reach an accuracy of about "
            "0.75 on twelve classes. You evaluate them with batches of a single image, but "
            "forget `model.eval()`. What is the accuracy?"
        ),
        answer=0.121,
        why=(
            "The networks were trained with the statistics of 64 images, and now they get those "
            "of one. This mismatch hurts, and not the small batch as such."
        ),
        section="Training mode and evaluation mode",
    ),
    Prediction(
        question="How far does Adam's first step move the third weight?",
        text=(
            "Three weights have the gradients 100, 1 and 0.01, and the learning rate is 0.1. "
            "How far does Adam move the third weight in its first step?"
        ),
        answer=0.1,
        why=(
            "Adam divides out the size of the gradient, so in the first step each weight moves "
            "by about the learning rate."
        ),
        section="Optimizers",
        within=0.01,
    ),
)
