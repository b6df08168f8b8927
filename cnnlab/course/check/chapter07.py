"""Check the exercises of chapter 7: a starting bias, dependencies between images, a diagnosis.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import copy
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.course.spelling import recognise
from cnnlab.rng import fold_in, generator


# --- starting_bias --------------------------------------------------------------------------------


def _observe_bias(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = generator(seed, 7, 1)
    counts = (2 + torch.randint(1, 20, (5,), generator=rng)).tolist()
    many = torch.arange(5).repeat_interleave(torch.tensor(counts))
    problems = {
        "labels=[1, 0, 1, 1], num_classes=2": (torch.tensor([1, 0, 1, 1]), 2),
        "labels=[2, 2, 0, 1, 2, 0], num_classes=3": (torch.tensor([2, 2, 0, 1, 2, 0]), 3),
        f"labels of 5 classes, {counts} of each": (
            many[torch.randperm(len(many), generator=rng)],
            5,
        ),
    }
    biases = {name: attempt(*arguments) for name, arguments in problems.items()}
    shapes = {f"the shape of your bias for {k}": list(bias.shape) for k, bias in biases.items()}
    probabilities = {
        f"softmax(bias) for {name}": bias.softmax(dim=-1) for name, bias in biases.items()
    }
    return {**shapes, **probabilities}


def starting_bias(labels: Tensor, num_classes: int) -> Tensor:
    """Return the logarithms of the class frequencies, (K,)."""
    counts = torch.bincount(labels, minlength=num_classes)
    return (counts / counts.sum()).log()


def _frequencies(labels, num_classes):  # type: ignore[no-untyped-def]
    return torch.bincount(labels, minlength=num_classes) / len(labels)


def _counts(labels, num_classes):  # type: ignore[no-untyped-def]
    return torch.bincount(labels, minlength=num_classes).float()


def _favours_rare(labels, num_classes):  # type: ignore[no-untyped-def]
    return -starting_bias(labels, num_classes)


def _weights(labels, num_classes):  # type: ignore[no-untyped-def]
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts)


def _log_odds(labels, num_classes):  # type: ignore[no-untyped-def]
    return _frequencies(labels, num_classes).logit()


def _zeros(labels, num_classes):  # type: ignore[no-untyped-def]
    return torch.zeros(num_classes)


def _decimal(labels, num_classes):  # type: ignore[no-untyped-def]
    return _frequencies(labels, num_classes).log10()


def _by_appearance(labels, num_classes):  # type: ignore[no-untyped-def]
    counts = torch.tensor(list(Counter(labels.tolist()).values()))
    return (counts / counts.sum()).log()


def _one_per_label(labels, num_classes):  # type: ignore[no-untyped-def]
    return starting_bias(labels, num_classes)[labels]


BIAS = Exercise(
    name="starting_bias",
    task="`starting_bias(labels, num_classes) -> bias (K,)`",
    observe=_observe_bias,
    answer=starting_bias,
    praise="A softmax of your bias gives each class its frequency, so the first loss is the lowest "
    "that is possible without looking at an image.",
    hint="take two classes with frequencies 1/4 and 3/4: what does the softmax make of your bias?",
    mistakes={
        "frequencies": Mistake(
            _frequencies,
            "you return frequencies, and a softmax of numbers between 0 and 1 is almost uniform.",
            "which function undoes the exponential in the softmax?",
        ),
        "counts": Mistake(
            _counts,
            "you return counts, and in a softmax a difference of one already means a factor of "
            "2.7.",
            "which function turns a factor between two counts into a difference?",
        ),
        "favours rare classes": Mistake(
            _favours_rare,
            "the sign of your bias is turned around, so the rarest class gets the largest "
            "probability.",
            "is the logarithm of a small frequency large or small?",
        ),
        "class weights": Mistake(
            _weights,
            "you return class weights for a loss, which are largest for the rarest class.",
            "the bias is a logit: it enters an exponential, and the most frequent class needs the "
            "largest",
        ),
        "log-odds": Mistake(
            _log_odds,
            "you return log-odds, log(p / (1 - p)), which belong to a sigmoid.",
            "what does a *softmax* divide each exponential by?",
        ),
        "zeros": Mistake(
            _zeros,
            "your bias gives every class the same probability, whatever the labels are.",
            "how often does each class occur among the labels?",
        ),
        "another base": Mistake(
            _decimal,
            "your logarithm has base 10, but the softmax uses powers of e.",
            "which logarithm undoes `exp`?",
        ),
        "order of appearance": Mistake(
            _by_appearance,
            "you count in the order in which the classes first appear in `labels`.",
            "entry k of the bias belongs to class k",
        ),
        "one per label": Mistake(
            _one_per_label,
            "you return one value per image, but the bias has one per class.",
            "how many outputs does the last layer have?",
        ),
    },
)


# --- reads_from -----------------------------------------------------------------------------------


IN_EVAL = "treats each image alone"
FROZEN = "has a frozen batch norm"


class _Mixer(nn.Module):
    """Add the next image of the batch to each image, so that output i reads i and i + 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * x.roll(-1, 0)


class _WithConstant(nn.Module):
    """Add a logit that is larger than the others and the same for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.full((len(x), 1), 100.0)], dim=1)


class _ConstantFirst(nn.Module):
    """Put a logit before the others that is zero for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(x), 1), x], dim=1)


class _Opposed(nn.Module):
    """Return the logits z and -z, whose sum is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], dim=1)


def _single(rng: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.Flatten(), _linear(4, 3, rng))


def _normalised(rng: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), _linear(4, 3, rng))


def _mixed(rng: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.Flatten(), _Mixer(), _linear(4, 3, rng))


def _opposed(rng: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.Flatten(), _linear(4, 1, rng), _Opposed())


def _with_constant(rng: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.Flatten(), _linear(4, 1, rng), _WithConstant())


def _constant_first(rng: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.Flatten(), _linear(4, 2, rng), _ConstantFirst())


def _edges(rng: torch.Generator) -> nn.Module:
    """Return logits whose gradient with respect to an image has the sum zero."""
    linear = _linear(4, 3, rng)
    with torch.no_grad():
        linear.weight[:, 2:] = -linear.weight[:, :2]
    return nn.Sequential(nn.Flatten(), linear)


def _linear(inputs: int, outputs: int, rng: torch.Generator) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.5 + torch.rand(parameter.shape, generator=rng))
    return layer


def _observe_reading(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = generator(seed, 7, 2)
    n = 4
    images, i = torch.rand(n, 1, 2, 2, generator=rng), int(torch.randint(n, (), generator=rng))
    models = {
        IN_EVAL: _single(rng),
        "adds to each image the next one": _mixed(rng),
        "has a batch norm": _normalised(rng),
        FROZEN: _normalised(rng),
        "returns the logits z and -z": _opposed(rng),
        "returns a small logit and the constant 100": _with_constant(rng),
        "returns a first logit of zero": _constant_first(rng),
        "compares the left with the right pixels": _edges(rng),
    }
    found, changes = (
        {},
        dict.fromkeys(("eval", "train", "layer", "statistics", "gradients", "images"), False),
    )
    for what, model in models.items():
        model.train(what != IN_EVAL)
        if what == FROZEN:
            model.get_submodule("1").eval()
        modes = [module.training for module in model.modules()]
        before = copy.deepcopy(model.state_dict())
        given = images.clone()
        found[what] = attempt(model, given, i)
        after = model.state_dict()
        modes_after = [module.training for module in model.modules()]
        changes["eval"] |= modes[0] > modes_after[0]
        changes["train"] |= modes[0] < modes_after[0]
        changes["layer"] |= modes[0] == modes_after[0] and modes != modes_after
        changes["statistics"] |= any(not torch.equal(before[k], after[k]) for k in before)
        changes["gradients"] |= any(p.grad is not None for p in model.parameters())
        changes["images"] |= given.requires_grad
    return {
        "you leave the model in evaluation mode.": changes["eval"],
        "you leave a model in training mode that came in evaluation mode.": changes["train"],
        "after your call, a layer inside the model is in another mode.": changes["layer"],
        "the running statistics of the model have changed.": changes["statistics"],
        "your call leaves gradients in the model's parameters.": changes["gradients"],
        "after your call, the images require a gradient.": changes["images"],
        **{
            f"for {n} images, i={i} and a model that {what}, your list": list(result)
            if isinstance(result, range | tuple | set)
            else result
            for what, result in found.items()
        },
    }


def _table(model: nn.Module, images: Tensor) -> Tensor:
    """Return the absolute derivatives of each output (rows) by each image (columns), summed."""
    model = copy.deepcopy(model).eval()
    jacobian = torch.autograd.functional.jacobian(model, images.detach().clone())
    return jacobian.abs().flatten(3).sum(dim=(1, 3))


def _indices(row: Tensor) -> list[int]:
    return row.nonzero().flatten().tolist()


def reads_from(model: nn.Module, images: Tensor, i: int) -> list[int]:
    """Return the indices of the images on which the logits for image i depend."""
    return _indices(_table(model, images)[i])


def _in_training_mode(model, images, i):  # type: ignore[no-untyped-def]
    copied = copy.deepcopy(model)
    inputs = images.detach().clone()
    jacobian = torch.autograd.functional.jacobian(copied, inputs)
    return _indices(jacobian[i].abs().flatten(2).sum(dim=(0, 2)) > 1e-9)


def _leaves_eval(model, images, i):  # type: ignore[no-untyped-def]
    model.eval()
    return reads_from(model, images, i)


def _ends_in_training_mode(model, images, i):  # type: ignore[no-untyped-def]
    model.train()
    return reads_from(model, images, i)


def _sets_every_layer(model, images, i):  # type: ignore[no-untyped-def]
    model.train(model.training)
    return reads_from(model, images, i)


def _runs_in_training_mode(model, images, i):  # type: ignore[no-untyped-def]
    model(images)  # a look at the outputs before anything else
    return reads_from(model, images, i)


def _gradient_of(scalar, model, images):  # type: ignore[no-untyped-def]
    inputs = images.detach().clone().requires_grad_()
    copied = copy.deepcopy(model).eval()
    return torch.autograd.grad(scalar(copied(inputs)), inputs)[0].flatten(1)


def _sum_of_logits(model, images, i):  # type: ignore[no-untyped-def]
    return _indices(_gradient_of(lambda z: z[i].sum(), model, images).abs().sum(dim=1))


def _first_logit(model, images, i):  # type: ignore[no-untyped-def]
    return _indices(_gradient_of(lambda z: z[i, 0], model, images).abs().sum(dim=1))


def _largest_logit(model, images, i):  # type: ignore[no-untyped-def]
    return _indices(_gradient_of(lambda z: z[i].max(), model, images).abs().sum(dim=1))


def _no_absolute_value(model, images, i):  # type: ignore[no-untyped-def]
    copied = copy.deepcopy(model).eval()
    inputs = images.detach().clone()
    jacobian = torch.autograd.functional.jacobian(copied, inputs)[i].flatten(2)
    return _indices(jacobian.sum(dim=2).abs().sum(dim=0) > 1e-6)


def _whole_batch(model, images, i):  # type: ignore[no-untyped-def]
    return _indices(_table(model, images).sum(dim=0))


def _is_read_by(model, images, i):  # type: ignore[no-untyped-def]
    return _indices(_table(model, images)[:, i])


def _others_only(model, images, i):  # type: ignore[no-untyped-def]
    return [k for k in reads_from(model, images, i) if k != i]


def _as_booleans(model, images, i):  # type: ignore[no-untyped-def]
    return (_table(model, images)[i] > 0).tolist()


def _backward(model, images, i):  # type: ignore[no-untyped-def]
    inputs = images.detach().clone().requires_grad_()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    model(inputs)[i].square().sum().backward()
    for module, training in modes:
        module.training = training
    return reads_from(model, images, i)


def _requires_grad(model, images, i):  # type: ignore[no-untyped-def]
    images.requires_grad_()
    return reads_from(model, images, i)


READS = Exercise(
    name="reads_from",
    task="`reads_from(model, images, i) -> sorted list of indices`",
    observe=_observe_reading,
    answer=reads_from,
    praise="You find every dependency, even where derivatives would cancel in a sum, and you leave "
    "no traces.",
    hint="for which images is the derivative of at least one logit of image i not zero?",
    mistakes={
        "training mode": Mistake(
            _in_training_mode,
            "you compute the gradients in training mode, in which batch norm mixes the images.",
            "in which mode does a network predict?",
        ),
        "stays in evaluation mode": Mistake(
            _leaves_eval,
            "you leave the model in evaluation mode, but you got it in training mode.",
            "a copy of the model may be in any mode you like",
        ),
        "ends in training mode": Mistake(
            _ends_in_training_mode,
            "you always leave the model in training mode, even if it came in evaluation mode.",
            "a deep copy of the model may be in any mode you like",
        ),
        "sets every layer": Mistake(
            _sets_every_layer,
            "your last `train(...)` sets the mode of every layer, but a frozen batch norm was in "
            "another mode than the model.",
            "a deep copy of the model may be in any mode you like",
        ),
        "moves the statistics": Mistake(
            _runs_in_training_mode,
            "you run the model in training mode, which changes its running statistics.",
            "what does batch norm do in each forward pass in training mode?",
        ),
        "sum of the logits": Mistake(
            _sum_of_logits,
            "you differentiate the sum of the logits, in which the logits of an image may cancel.",
            "what is the sum of z and -z?",
        ),
        "first logit": Mistake(
            _first_logit,
            "you differentiate only the first logit, but each logit is an output.",
            "can the first logit be the same for every image?",
        ),
        "largest logit": Mistake(
            _largest_logit,
            "you differentiate only the largest logit, but each logit is an output.",
            "can the largest logit be the same for every image?",
        ),
        "no absolute value": Mistake(
            _no_absolute_value,
            "you add up derivatives with their signs, so those of different pixels cancel.",
            "is a pixel with a negative derivative used?",
        ),
        "all outputs": Mistake(
            _whole_batch,
            "you differentiate the outputs for all images, and each one depends at least on "
            "itself.",
            "which row of the logits belongs to image i?",
        ),
        "is read by": Mistake(
            _is_read_by,
            "you return the outputs that depend on image i, and not the images on which output i "
            "depends.",
            "which of the two indices of the derivative have you fixed?",
        ),
        "only the others": Mistake(
            _others_only,
            "you leave out image i itself.",
            "does the output for image i depend on image i?",
        ),
        "truth values": Mistake(
            _as_booleans,
            "you return a truth value per image, but the exercise asks for indices.",
            "`nonzero` turns one into the other",
        ),
        "leaves gradients": Mistake(
            _backward,
            "your `backward` writes gradients into the model's parameters.",
            "`torch.autograd.grad` returns a gradient without storing it",
        ),
        "changes the images": Mistake(
            _requires_grad,
            "you make the caller's images require a gradient.",
            "`detach().clone()` gives you images of your own",
        ),
    },
)


# --- diagnose_case --------------------------------------------------------------------------------

OTHER = "something else"
NAMES = (
    "not normalised",
    "dead ReLUs",
    "rate too high",
    "rate too low",
    "eval mode forgotten",
    "class imbalance",
    OTHER,
)
# The correct answer to the last three cases is `OTHER`.
CASES = (
    "not normalised",
    "dead ReLUs",
    "rate too high",
    "rate too low",
    "eval mode forgotten",
    "class imbalance",
    "standardised pixels",
    "shuffled labels",
    "overfitting",
)


def _draw_vitals(case: str, rng: random.Random) -> tuple[dict[str, float], dict[str, float]]:
    """Draw the vital signs of a run in the given case, at a safe distance from every limit.

    Returns:
        The vital signs of a healthy run, and those in which this case differs.
    """

    def draw(low: float, high: float) -> float:
        return round(rng.uniform(low, high), 3)

    high_accuracy, low_accuracy = draw(0.85, 0.97), draw(0.12, 0.25)
    healthy = {
        "pixel_low": 0.0,
        "pixel_high": draw(0.98, 1.0),
        "silent_share": draw(0.0, 0.1),
        "log10_update_ratio": draw(-3.0, -1.7),
        "train_acc": draw(0.9, 1.0),
        "valid_acc": high_accuracy,
        "valid_acc_again": high_accuracy,
        "worst_recall": draw(0.6, 0.8),
    }
    untrained = {
        "train_acc": low_accuracy,
        "valid_acc": low_accuracy,
        "valid_acc_again": low_accuracy,
        "worst_recall": 0.0,
    }
    overfit_accuracy = draw(0.5, 0.6)
    changes: Mapping[str, dict[str, float]] = {
        "not normalised": {"pixel_high": 255.0},
        "dead ReLUs": {"silent_share": draw(0.8, 1.0), "log10_update_ratio": -12.0} | untrained,
        "rate too high": {"log10_update_ratio": draw(-0.9, -0.2)} | untrained,
        "rate too low": {"log10_update_ratio": draw(-7.0, -5.0)} | untrained,
        "eval mode forgotten": {
            "valid_acc": draw(0.3, 0.5),
            "valid_acc_again": high_accuracy,
            "worst_recall": draw(0.3, 0.5),
        },
        "class imbalance": {"worst_recall": draw(0.0, 0.08)},
        "standardised pixels": {"pixel_low": draw(-2.4, -1.8), "pixel_high": draw(2.3, 2.8)},
        "shuffled labels": untrained,
        "overfitting": {
            "train_acc": 1.0,
            "valid_acc": overfit_accuracy,
            "valid_acc_again": overfit_accuracy,
        },
    }
    return healthy, changes[case]


def _observe_diagnosis(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 7, 3))
    cases = list(CASES)
    rng.shuffle(cases)
    strange, diagnoses = set(), {}
    for case in cases:
        healthy, signs = _draw_vitals(case, rng)
        typed = attempt(healthy | signs)
        name = recognise(typed, NAMES) if isinstance(typed, str) else typed
        if name is None and typed is not None:
            strange.add(typed)
        few = ", ".join(f"{sign}={value:g}" for sign, value in list(signs.items())[:3])
        diagnoses[f"your diagnosis of a run with {few}"] = name or typed
    return {"the set of names that you return": strange, **diagnoses}


def diagnose_case(vitals: Mapping[str, float]) -> str:
    """Return the name of the fault, looking at inputs, gradients, steps and evaluation in turn."""
    if vitals["pixel_high"] > 2 and vitals["pixel_low"] >= 0:
        return "not normalised"
    if vitals["silent_share"] > 0.5:
        return "dead ReLUs"
    if vitals["log10_update_ratio"] > -1.2:
        return "rate too high"
    if vitals["log10_update_ratio"] < -4.2:
        return "rate too low"
    if abs(vitals["valid_acc"] - vitals["valid_acc_again"]) > 0.1:
        return "eval mode forgotten"
    if vitals["worst_recall"] < 0.2 and vitals["valid_acc"] > 0.6:
        return "class imbalance"
    return OTHER


def _swapped(vitals):  # type: ignore[no-untyped-def]
    opposite = {"rate too high": "rate too low", "rate too low": "rate too high"}
    answer = diagnose_case(vitals)
    return opposite.get(answer, answer)


def _no_logarithm(vitals):  # type: ignore[no-untyped-def]
    answer = diagnose_case(vitals)
    before_steps = answer in ("not normalised", "dead ReLUs")
    return answer if before_steps else "rate too low"  # a negative number is below 10^-4.2


def _rate_before_units(vitals):  # type: ignore[no-untyped-def]
    return diagnose_case({**vitals, "silent_share": 0.0})


def _high_pixels(vitals):  # type: ignore[no-untyped-def]
    return "not normalised" if vitals["pixel_high"] > 2 else diagnose_case(vitals)


def _gap_is_eval(vitals):  # type: ignore[no-untyped-def]
    if vitals["train_acc"] - vitals["valid_acc"] > 0.2 and diagnose_case(vitals) == OTHER:
        return "eval mode forgotten"
    return diagnose_case(vitals)


def _recall_alone(vitals):  # type: ignore[no-untyped-def]
    if vitals["worst_recall"] < 0.2 and diagnose_case(vitals) == OTHER:
        return "class imbalance"
    return diagnose_case(vitals)


def _one_direction(vitals):  # type: ignore[no-untyped-def]
    if vitals["valid_acc"] < vitals["valid_acc_again"]:
        return diagnose_case({**vitals, "valid_acc_again": vitals["valid_acc"]})
    return diagnose_case(vitals)


def _accuracy_alone(vitals):  # type: ignore[no-untyped-def]
    return diagnose_case({**vitals, "worst_recall": 1.0})


DIAGNOSIS = Exercise(
    name="diagnose_case",
    task="`diagnose_case(vitals) -> name of the fault`, or 'something else'",
    observe=_observe_diagnosis,
    answer=diagnose_case,
    praise="You look at the inputs first, then at the gradients, the steps and the evaluation.",
    hint="what does each of these signs say, and which one do you look at first?",
    mistakes={
        "high and low swapped": Mistake(
            _swapped,
            "you read large steps as a low learning rate, and small steps as a high one.",
            "a logarithm of -0.5 means a ratio of about 0.3; a logarithm of -6 means one millionth",
        ),
        "no logarithm": Mistake(
            _no_logarithm,
            "you treat the logarithm of the ratio as the ratio itself, so every healthy run looks "
            "too slow.",
            "-2 stands for 0.01",
        ),
        "rate before units": Mistake(
            _rate_before_units,
            "you blame a low learning rate, but weights without any gradient stand still at every "
            "learning rate.",
            "which number tells you whether there is a gradient at all, and when is it read?",
        ),
        "high pixels alone": Mistake(
            _high_pixels,
            "you judge by the largest pixel alone, but normalised pixels can be 2 or more as well.",
            "look at the smallest pixel too",
        ),
        "any gap": Mistake(
            _gap_is_eval,
            "you treat any gap between training and validation as a forgotten eval mode, but "
            "overfitting causes a gap as well.",
            "what happens without eval mode when the validation is computed again?",
        ),
        "one direction": Mistake(
            _one_direction,
            "you find two different validation accuracies suspicious only if the second is lower.",
            "which function gives the size of a difference, whatever its sign is?",
        ),
        "recall alone": Mistake(
            _recall_alone,
            "you judge by the worst recall alone, but a run that has learnt nothing misses "
            "classes too.",
            "class imbalance hides behind a good accuracy: look at two numbers",
        ),
        "accuracy alone": Mistake(
            _accuracy_alone,
            "you trust a good accuracy, although the model misses almost all images of one class.",
            "which number looks at each class separately?",
        ),
    },
)

EXERCISES = (BIAS, READS, DIAGNOSIS)

PREDICTIONS = (
    Prediction(
        question="Does the network memorise shuffled labels?",
        text=(
            "You train a network on ten images, each with another image's label. Can it still "
            "memorise them?"
        ),
        answer="yes",
        why=(
            "A network with more weights than images can memorise any labels. So this check "
            "shows that the loss can fall, and not that the labels belong to the images."
        ),
        section="Ten images, and no images at all",
        options=("yes", "no"),
    ),
    Prediction(
        question="What is the training loss with blank images?",
        text=(
            "There are twelve classes, all equally frequent, and every training image is "
            "replaced by a blank one. What is the training loss after four epochs?"
        ),
        answer=2.52,
        why=(
            "All that the network can learn is how frequent the classes are, and log 12 is "
            "2.48. A real run has to be clearly better than this baseline."
        ),
        section="Ten images, and no images at all",
        within=0.2,
    ),
    Prediction(
        question="Accuracy with clipping?",
        text=(
            "Without batch norm and at a learning rate of 0.4, a residual network falls to "
            "chance (0.08) within its first steps. What accuracy does it reach if the gradients "
            "are clipped to a norm of 0.3?"
        ),
        answer=0.613,
        why=(
            "Clipping bounds the length of each step, so no single large gradient can ruin the "
            "weights."
        ),
        section="Exploding gradients, and clipping",
    ),
)
