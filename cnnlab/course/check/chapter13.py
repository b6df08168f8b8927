"""Check the exercises of chapter 13: leaked images, cross-validation, confident mistakes.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.compare import short
from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import generator


# --- leaks ----------------------------------------------------------------------------------------


def _observe_leaks(attempt: Callable[..., Any], seed: int) -> Observation:
    """Draw test images of which five are in the training set, two of them as the same image."""
    g = generator(seed, 13, 2)
    train = torch.randint(0, 256, (12, 3, 8, 8), generator=g, dtype=torch.uint8)
    test = torch.randint(0, 256, (9, 3, 8, 8), generator=g, dtype=torch.uint8)
    targets = torch.randperm(9, generator=g)
    # Copies come from beyond the length of the test set, so that they're at another position there.
    sources = 9 + torch.randperm(3, generator=g)
    test[targets[:3]] = train[sources]
    test[targets[3]] = train[sources[0]]
    # An image with the same channel means, and one that differs in a single pixel: no leaks.
    test[targets[4]] = train[0].flip(2)
    test[targets[5]] = train[1]
    test[targets[5], 0, 0, 0] ^= 1
    # An image that is in the test set twice, and a leak at the same position in both sets.
    test[targets[6]] = test[targets[7]]
    test[targets[8]] = train[targets[8]]
    few = {
        f"your list for one-pixel images train={known}, test={new}": _as_list(
            attempt(*(torch.tensor(x, dtype=torch.uint8).view(-1, 1, 1, 1) for x in (known, new)))
        )
        for known, new in (
            ([10, 50, 90], [90, 200, 10]),
            ([10, 50, 90], [50, 50]),
            ([70, 70, 30], [20, 70]),
        )
    }
    found = [*few.values(), _as_list(attempt(train, test))]
    return {
        "your list contains an index twice.": any(len({*f}) < len(f) for f in found),
        "your list isn't in rising order.": any(f != sorted(f) for f in found),
        **few,
        "your list for nine images": found[-1],
    }


def _as_list(answer: Any) -> Any:
    """Convert a tensor, or a list of tensors with one value, to a list."""
    if isinstance(answer, Tensor):
        return answer.tolist()
    if isinstance(answer, list | tuple):
        return [i.item() if isinstance(i, Tensor) and i.numel() == 1 else i for i in answer]
    return answer


def leaks(train: Tensor, test: Tensor) -> list[int]:
    """Return the indices of the test images that equal a training image pixel for pixel."""
    known = {image.numpy().tobytes() for image in train}
    return [i for i, image in enumerate(test) if image.numpy().tobytes() in known]


def _same_position(train, test):  # type: ignore[no-untyped-def]
    pairs = zip(train, test, strict=False)
    return [i for i, (a, b) in enumerate(pairs) if torch.equal(a, b)]


def _any_pixel(train, test):  # type: ignore[no-untyped-def]
    return [i for i, image in enumerate(test) if (train == image).any()]


def _by_mean(train, test):  # type: ignore[no-untyped-def]
    def channel_sums(image):  # type: ignore[no-untyped-def]
        return tuple(image.sum(dim=(1, 2)).tolist())

    known = {channel_sums(image) for image in train}
    return [i for i, image in enumerate(test) if channel_sums(image) in known]


def _nearly_equal(train, test):  # type: ignore[no-untyped-def]
    gaps = (test[:, None].int() - train[None].int()).abs().amax(dim=(2, 3, 4))
    return (gaps.amin(dim=1) <= 1).nonzero().flatten().tolist()


def _of_train(train, test):  # type: ignore[no-untyped-def]
    return leaks(test, train)


def _flags(train, test):  # type: ignore[no-untyped-def]
    indices = leaks(train, test)
    return [i in indices for i in range(len(test))]


def _also_within_test(train, test):  # type: ignore[no-untyped-def]
    return [
        i
        for i, a in enumerate(test)
        if any(torch.equal(a, b) for b in train)
        or any(torch.equal(a, b) for j, b in enumerate(test) if j != i)
    ]


def _first_copies(train, test):  # type: ignore[no-untyped-def]
    indices: list[int] = []
    for a in train:
        equal = [i for i, b in enumerate(test) if torch.equal(a, b)]
        indices += equal[:1]
    return sorted(indices)


def _for_each_training_image(train, test):  # type: ignore[no-untyped-def]
    return sorted(i for a in train for i, b in enumerate(test) if torch.equal(a, b))


def _by_identity(train, test):  # type: ignore[no-untyped-def]
    known = set(train)
    return [i for i, image in enumerate(test) if image in known]


LEAKS = Exercise(
    name="leaks",
    task="`leaks(train, test) -> list`, the indices of the test images that are also training "
    "images",
    observe=_observe_leaks,
    answer=leaks,
    praise="You find every test image that is also in the training set, at any position.",
    hint="which test images equal a training image in every pixel, wherever it is?",
    mistakes={
        "same place": Mistake(
            _same_position,
            "you compare image i only with image i, but a copy can be anywhere in the training "
            "set.",
            "look up each test image among all training images",
        ),
        "one equal pixel": Mistake(
            _any_pixel,
            "you count two images as equal if they share a single pixel, which nearly all images "
            "do.",
            "all pixels have to be equal at once: where do you need `any`, and where `all`?",
        ),
        "equal means": Mistake(
            _by_mean,
            "you compare sums or means of the pixels, but a mirrored image has the same ones.",
            "compare the pixels themselves",
        ),
        "nearly equal": Mistake(
            _nearly_equal,
            "you also report images that differ slightly, but the exercise asks for exact copies.",
            "near-duplicates are worth a look too, but not in this exercise",
        ),
        "training numbers": Mistake(
            _of_train,
            "you return the indices of training images.",
            "which of the two sets do you want to remove images from?",
        ),
        "flags": Mistake(
            _flags,
            "you return one True or False per image instead of a list of indices.",
            "`enumerate` and `nonzero` can both turn flags into indices",
        ),
        "twins in the test part": Mistake(
            _also_within_test,
            "you also report images that are in the test set twice but not in the training set.",
            "compare only images from different sets",
        ),
        "one copy each": Mistake(
            _first_copies,
            "if a training image is in the test set twice, you find only the first copy.",
            "loop over the test images, not over the training images",
        ),
        "once per training image": Mistake(
            _for_each_training_image,
            "you report a test image twice if two training images equal it.",
            "how many times should you look at each test image?",
        ),
        "compared as objects": Mistake(
            _by_identity,
            "you find nothing, because a set compares tensors by identity, not by their values.",
            "turn each image into something that is equal whenever the pixels are, such as its "
            "bytes",
        ),
    },
)


# --- out_of_fold ----------------------------------------------------------------------------------

Folds = Sequence[Sequence[int]]
Predict = Callable[[Sequence[int]], list[int]]
Fit = Callable[[Sequence[int]], Predict]


def _observe_out_of_fold(attempt: Callable[..., Any], seed: int) -> Observation:
    """Use models that predict which images they weren't fitted on."""
    g = generator(seed, 13, 4)
    shuffled = torch.randperm(9, generator=g).tolist()
    problems = ([[1, 3], [0, 2]], [[2, 0], [1, 5], [4, 3]], [shuffled[i::3] for i in range(3)])
    observation: dict[str, Any] = {}
    for folds in problems:
        n = sum(map(len, folds))
        fitted: list[list[int]] = []

        def fit(indices, n=n, fitted=fitted):  # type: ignore[no-untyped-def]
            known = sorted(_as_list(indices))
            fitted.append(known)
            unknown = "".join(str(i) for i in range(n) if i not in known) or "none"
            return lambda wanted: [f"{i}: without {unknown}" for i in _as_list(wanted)]

        found = attempt(folds, fit)
        problem = f"for folds={folds}"
        observation[f"the number of models that you fit {problem}"] = len(fitted)
        observation[f"the images that you fit on {problem}"] = sorted(fitted)
        observation[f"your list {problem}"] = _as_list(found)
    return observation


def out_of_fold(folds: Folds, fit: Fit) -> list[int]:
    """Return a prediction for every image, from the model that wasn't fitted on its fold."""
    predictions = [0] * sum(map(len, folds))
    for held_out in folds:
        predict = fit([i for fold in folds if fold is not held_out for i in fold])
        for i, prediction in zip(held_out, predict(held_out), strict=True):
            predictions[i] = prediction
    return predictions


def _scatter(folds, results):  # type: ignore[no-untyped-def]
    by_index: dict[int, int] = {}
    for fold, result in zip(folds, results, strict=True):
        by_index |= dict(zip(fold, result, strict=True))
    return [by_index[i] for i in sorted(by_index)]


def _others(folds, *left_out):  # type: ignore[no-untyped-def]
    return [i for k, fold in enumerate(folds) if k not in left_out for i in fold]


def _fit_on_everything(folds, fit):  # type: ignore[no-untyped-def]
    return _scatter(folds, [fit(_others(folds))(fold) for fold in folds])


def _fit_once_on_everything(folds, fit):  # type: ignore[no-untyped-def]
    return fit(_others(folds))(range(sum(map(len, folds))))


def _fit_on_the_fold(folds, fit):  # type: ignore[no-untyped-def]
    return _scatter(folds, [fit(fold)(fold) for fold in folds])


def _fit_on_the_fold_and_predict_others(folds, fit):  # type: ignore[no-untyped-def]
    by_index: dict[int, int] = {}
    for k, fold in enumerate(folds):
        others = _others(folds, k)
        by_index |= dict(zip(others, fit(fold)(others), strict=True))
    return [by_index[i] for i in sorted(by_index)]


def _in_the_order_of_folds(folds, fit):  # type: ignore[no-untyped-def]
    return [p for k, fold in enumerate(folds) for p in fit(_others(folds, k))(fold)]


def _leave_one_out(folds, fit):  # type: ignore[no-untyped-def]
    n = sum(map(len, folds))
    return [fit([j for j in range(n) if j != i])([i])[0] for i in range(n)]


def _last_model_for_all(folds, fit):  # type: ignore[no-untyped-def]
    models = [fit(_others(folds, k)) for k in range(len(folds))]
    return models[-1](range(sum(map(len, folds))))


def _first_fold_only(folds, fit):  # type: ignore[no-untyped-def]
    return fit(_others(folds, 0))(folds[0])


OUT_OF_FOLD = Exercise(
    name="out_of_fold",
    task="`out_of_fold(folds, fit) -> list`, a prediction for each image from a model that wasn't "
    "fitted on it",
    observe=_observe_out_of_fold,
    answer=out_of_fold,
    praise="Every image is predicted once, by the one model that has never seen it.",
    hint="for folds=[[1, 3], [0, 2]], which images does the model for image 1 learn from?",
    mistakes={
        "fitted on everything": Mistake(
            _fit_on_everything,
            "your models are fitted on all images, so they've seen the ones that they predict.",
            "which images must the model for a fold never see?",
        ),
        "one model, fitted on everything": Mistake(
            _fit_once_on_everything,
            "you fit one model on all images, and it predicts the images that it learnt from.",
            "how many models do you need, if none may predict an image that it has seen?",
        ),
        "fitted on the fold": Mistake(
            _fit_on_the_fold,
            "each model is fitted on a single fold and predicts the same fold.",
            "the fold is what's held out; what's left to learn from?",
        ),
        "fold and rest swapped": Mistake(
            _fit_on_the_fold_and_predict_others,
            "each model is fitted on one fold and predicts all the others. It's the other way "
            "round.",
            "with four folds, should a model learn from a quarter of the images or from three?",
        ),
        "in the order of the folds": Mistake(
            _in_the_order_of_folds,
            "your list is in the order of the folds. Position i has to hold the prediction for "
            "image i.",
            "where does the prediction for image folds[0][0] belong?",
        ),
        "leave one out": Mistake(
            _leave_one_out,
            "you fit one model per image. The exercise asks for one per fold.",
            "which images can share a model?",
        ),
        "the last model predicts all": Mistake(
            _last_model_for_all,
            "one model predicts all images, although it has seen most of them.",
            "which model may predict which images?",
        ),
        "only the first fold": Mistake(
            _first_fold_only,
            "you stop after the first fold, so most images have no prediction.",
            "how long should the list be?",
        ),
    },
)


# --- nested ---------------------------------------------------------------------------------------


_CHOICES_DIFFER = 15


def _observe_nested(attempt: Callable[..., Any], seed: int) -> Observation:
    """Use models whose predictions depend only on the setting and on what they were fitted on."""
    g = generator(seed, 13, 5)
    shuffled = torch.randperm(24, generator=g).tolist()
    problems = (
        # A fixed one, in which every known mistake makes choices of its own.
        (_CHOICES_DIFFER, [[0, 3], [4, 1], [5, 2]]),
        (seed, [shuffled[i::4] for i in range(4)]),
    )
    complaint, chosen, predictions = [], {}, {}
    for number, (start, folds) in enumerate(problems):
        n, settings = sum(map(len, folds)), [0.1, 0.01, 0.001]
        g = generator(start, 13, 7)
        labels = torch.randint(0, 3, (n,), generator=g).tolist()

        def fit(setting, indices, labels=labels, start=start):  # type: ignore[no-untyped-def]
            known = sorted(_as_list(indices))
            code = sum(2**i for i in known)

            def predict(wanted):  # type: ignore[no-untyped-def]
                found = []
                for i in _as_list(wanted):
                    complaint.append(i in known)
                    chance = generator(start, 13, 6, round(1 / setting), code, i)
                    offset = int(torch.randint(0, 4, (), generator=chance))
                    found.append((labels[i] + max(0, offset - 1)) % 3)  # correct: one in two
                return found

            return predict

        answer = attempt(folds, settings, labels, fit)
        both = answer if isinstance(answer, list | tuple) and len(answer) == 2 else (answer, answer)
        problem = f"for folds={folds}" if not number else "for four folds of six images"
        predictions[f"your list of predictions {problem}"] = _as_list(both[0])
        chosen[f"your list of settings {problem}"] = _as_list(both[1])
    return {
        "a model predicts an image that it was fitted on.": any(complaint),
        **chosen,
        **predictions,
    }


Settings = Sequence[float]


def nested(
    folds: Folds,
    settings: Settings,
    labels: Sequence[int],
    fit: Callable[[float, Sequence[int]], Predict],
) -> tuple[list[int], list[float]]:
    """Choose a setting without each fold, and predict the fold; return predictions and settings.

    Within the images outside of a fold, the setting is chosen by cross-validation.
    """

    def n_correct(setting: float, inner: Folds) -> int:
        correct = 0
        for held_out in inner:
            known = [i for fold in inner if fold is not held_out for i in fold]
            pairs = zip(held_out, fit(setting, known)(held_out), strict=True)
            correct += sum(prediction == labels[i] for i, prediction in pairs)
        return correct

    predictions, chosen = [0] * len(labels), []
    for held_out in folds:
        rest = [fold for fold in folds if fold is not held_out]
        scores = [n_correct(setting, rest) for setting in settings]
        best = settings[scores.index(max(scores))]
        chosen.append(best)
        predict = fit(best, [i for fold in rest for i in fold])
        for i, prediction in zip(held_out, predict(held_out), strict=True):
            predictions[i] = prediction
    return predictions, chosen


def _n_correct(folds: Folds, labels: Sequence[int], fit: Fit) -> int:
    """Return the number of correct out-of-fold predictions."""
    correct = 0
    for k, fold in enumerate(folds):
        pairs = zip(fit(_others(folds, k))(fold), fold, strict=True)
        correct += sum(prediction == labels[i] for prediction, i in pairs)
    return correct


def _nested_with(choose, refit=None, pick=max):  # type: ignore[no-untyped-def]
    """Return a wrong `nested`, which chooses, fits or picks in another way."""

    def attempt(folds, settings, labels, fit):  # type: ignore[no-untyped-def]
        results, chosen = [], []
        for k, fold in enumerate(folds):
            best = pick(settings, key=lambda s: choose(folds, k, labels, lambda idx: fit(s, idx)))
            chosen.append(best)
            known = _others(folds, k) if refit is None else refit(folds, k)
            results.append(fit(best, known)(fold))
        return _scatter(folds, results), chosen

    return attempt


def _inner(folds, k, labels, fit):  # type: ignore[no-untyped-def]
    return _n_correct([fold for j, fold in enumerate(folds) if j != k], labels, fit)


def _on_the_outer_fold(folds, k, labels, fit):  # type: ignore[no-untyped-def]
    pairs = zip(fit(_others(folds, k))(folds[k]), folds[k], strict=True)
    return sum(prediction == labels[i] for prediction, i in pairs)


def _on_all_folds(folds, k, labels, fit):  # type: ignore[no-untyped-def]
    return _n_correct(folds, labels, fit)


def _fitted_with_the_outer_fold(folds, k, labels, fit):  # type: ignore[no-untyped-def]
    """Score the inner folds with models that have seen the outer one."""
    correct = 0
    for j, fold in enumerate(folds):
        if j != k:
            pairs = zip(fit(_others(folds, j))(fold), fold, strict=True)
            correct += sum(prediction == labels[i] for prediction, i in pairs)
    return correct


def _on_one_inner_fold(folds, k, labels, fit):  # type: ignore[no-untyped-def]
    j = 0 if k else 1
    pairs = zip(fit(_others(folds, k, j))(folds[j]), folds[j], strict=True)
    return sum(prediction == labels[i] for prediction, i in pairs)


def _on_training_images(folds, k, labels, fit):  # type: ignore[no-untyped-def]
    known = _others(folds, k)
    return sum(p == labels[i] for p, i in zip(fit(known)(known), known, strict=True))


def _without_last_inner_fold(folds, k):  # type: ignore[no-untyped-def]
    j = len(folds) - 1 if k != len(folds) - 1 else len(folds) - 2
    return _others(folds, k, j)


def _all_images(folds, k):  # type: ignore[no-untyped-def]
    return _others(folds)


def _last_of_equals(settings, key):  # type: ignore[no-untyped-def]
    return max(reversed(settings), key=key)


def _nested_in_fold_order(folds, settings, labels, fit):  # type: ignore[no-untyped-def]
    predictions, chosen = nested(folds, settings, labels, fit)
    return [predictions[i] for i in _others(folds)], chosen


NESTED = Exercise(
    name="nested",
    task="`nested(folds, settings, labels, fit) -> (predictions, chosen)`, nested cross-validation",
    observe=_observe_nested,
    answer=nested,
    praise="Neither the choice of a setting nor the final fit has seen the fold that it's judged "
    "on.",
    hint="leave one fold out, forget that it exists, and solve the whole task with what's left",
    mistakes={
        "chosen on the outer fold": Mistake(
            _nested_with(_on_the_outer_fold),
            "you choose the setting by its accuracy on the fold that should judge the choice.",
            "which images may take part in the choice for a fold?",
        ),
        "chosen by ordinary cross-validation": Mistake(
            _nested_with(_on_all_folds),
            "you choose by cross-validation over all folds, so the choice has seen the fold that "
            "judges it.",
            "which folds are left once one of them is held out?",
        ),
        "inner models see the outer fold": Mistake(
            _nested_with(_fitted_with_the_outer_fold),
            "the models that choose a setting are fitted on the outer fold too.",
            "how many folds does an inner model leave out?",
        ),
        "a single inner fold": Mistake(
            _nested_with(_on_one_inner_fold),
            "you choose by one inner fold only. Each of the remaining folds should be held out "
            "once.",
            "with four folds, how many models does one setting need for one choice?",
        ),
        "chosen on training images": Mistake(
            _nested_with(_on_training_images),
            "you choose by the accuracy on images that the models were fitted on.",
            "what does a model that memorises everything score there?",
        ),
        "not fitted again": Mistake(
            _nested_with(_inner, _without_last_inner_fold),
            "the model that predicts a fold was fitted on too few images: an inner fold is "
            "missing.",
            "once the setting is chosen, which images may the final model learn from?",
        ),
        "final model sees everything": Mistake(
            _nested_with(_inner, _all_images),
            "the final models are fitted on all images, those of the outer fold included.",
            "may the final model see the images that judge it?",
        ),
        "the worst setting": Mistake(
            _nested_with(_inner, pick=min),
            "you choose the setting with the fewest correct predictions.",
            "is a larger score better or worse?",
        ),
        "the last of equals": Mistake(
            _nested_with(_inner, pick=_last_of_equals),
            "of several equally good settings you take the last one. The exercise asks for the "
            "first.",
            "when does a new setting replace the best one so far?",
        ),
        "in the order of the folds": Mistake(
            _nested_in_fold_order,
            "your predictions are in the order of the folds. Position i has to hold the "
            "prediction for image i.",
            "where does the prediction for image folds[0][0] belong?",
        ),
    },
)


# --- sure_mistakes --------------------------------------------------------------------------------


def _observe_mistakes(attempt: Callable[..., Any], seed: int) -> Observation:
    """Draw logits on different scales: the largest logit isn't the most confident prediction."""
    g = generator(seed, 13, 3)
    logits = torch.randn(40, 4, generator=g)
    # A constant per image changes its logits, but none of its probabilities.
    logits += 8 * torch.randn(40, 1, generator=g)
    logits *= 1 + 2 * torch.rand(40, 1, generator=g)
    labels = logits.argmax(1)
    incorrect = torch.randperm(40, generator=g)[:15]
    labels[incorrect] = (labels[incorrect] + 1 + torch.randint(0, 3, (15,), generator=g)) % 4
    three, truth = [[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], [1, 1, 0]  # only image 1 is correct
    few = {
        f"your list for logits={short(three)}, labels={truth}, n={n}": _as_list(
            attempt(torch.tensor(three), torch.tensor(truth), n)
        )
        for n in (2, 1, 3)
    }
    first, *_ = few.values()
    complaint = {"your list contains a correct prediction.": bool({*first} & {1})}
    many = {
        f"your list for 40 images and n={n}": _as_list(attempt(logits, labels, n))
        for n in (5, 15, 30)
    }
    return {**complaint, **few, **many}


def sure_mistakes(logits: Tensor, labels: Tensor, n: int) -> list[int]:
    """Return the indices of the n most confident incorrect predictions, most confident first."""
    confidence, predictions = logits.softmax(dim=1).max(dim=1)
    return _ranked(confidence, predictions != labels)[:n]


def _ranked(scores: Tensor, mask: Tensor) -> list[int]:
    """Return the indices where the mask is True, largest score first."""
    order = scores.argsort(descending=True)
    return order[mask[order]].tolist()


def _by_logit(logits, labels, n):  # type: ignore[no-untyped-def]
    largest, predictions = logits.max(dim=1)
    return _ranked(largest, predictions != labels)[:n]


def _correct_ones_too(logits, labels, n):  # type: ignore[no-untyped-def]
    return logits.softmax(dim=1).amax(dim=1).argsort(descending=True)[:n].tolist()


def _cut_first(logits, labels, n):  # type: ignore[no-untyped-def]
    predictions = logits.argmax(dim=1)
    return [i for i in _correct_ones_too(logits, labels, n) if predictions[i] != labels[i]]


def _least_confident_first(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, predictions = logits.softmax(dim=1).max(dim=1)
    return _ranked(-confidence, predictions != labels)[:n]


def _by_true_class(logits, labels, n):  # type: ignore[no-untyped-def]
    p = logits.softmax(dim=1)
    p_true = p[torch.arange(len(p)), labels]
    return _ranked(-p_true, p.argmax(1) != labels)[:n]


def _positions_among_incorrect(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, predictions = logits.softmax(dim=1).max(dim=1)
    return confidence[predictions != labels].argsort(descending=True)[:n].tolist()


def _unsorted(logits, labels, n):  # type: ignore[no-untyped-def]
    return (logits.argmax(1) != labels).nonzero().flatten()[:n].tolist()


def _softmax_over_images(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, predictions = logits.softmax(dim=0).max(dim=1)
    return _ranked(confidence, predictions != labels)[:n]


SURE = Exercise(
    name="sure_mistakes",
    task="`sure_mistakes(logits, labels, n) -> list`, the most confident incorrect predictions "
    "first",
    observe=_observe_mistakes,
    answer=sure_mistakes,
    praise="You return incorrect predictions only, the most confident first, sorted by the "
    "probability of the predicted class.",
    hint="which predictions are incorrect, how probable is each, and in which order?",
    mistakes={
        "largest logit": Mistake(
            _by_logit,
            "you sort by the largest logit, but logits of different images can't be compared: a "
            "constant added to all logits of an image changes none of its probabilities.",
            "what turns logits into probabilities?",
        ),
        "right answers too": Mistake(
            _correct_ones_too,
            "your list contains correct predictions.",
            "compare the predictions with the labels before you cut the list",
        ),
        "cut before the choice": Mistake(
            _cut_first,
            "you take the n most confident predictions first and then remove the correct ones, so "
            "fewer than n are left.",
            "in which order should you filter and cut?",
        ),
        "unsurest first": Mistake(
            _least_confident_first,
            "your order is reversed, with the least confident mistakes first.",
            "in which direction does `argsort` sort by default?",
        ),
        "by the true class": Mistake(
            _by_true_class,
            "you sort by the probability of the true class, but the exercise asks for the "
            "probability of the predicted class.",
            "is a network that hesitates between two wrong classes making a confident mistake?",
        ),
        "places among the wrong ones": Mistake(
            _positions_among_incorrect,
            "your indices count the incorrect predictions, not the images.",
            "once you have selected some rows, row 0 is no longer image 0",
        ),
        "not sorted": Mistake(
            _unsorted,
            "you return incorrect predictions, but they aren't sorted by confidence.",
            "look at `argsort`",
        ),
        "softmax over the pictures": Mistake(
            _softmax_over_images,
            "your softmax runs over the images instead of the classes.",
            "the probabilities of one image should add up to 1; which dimension holds its classes?",
        ),
    },
)

EXERCISES = (LEAKS, OUT_OF_FOLD, NESTED, SURE)

PREDICTIONS = (
    Prediction(
        question="Which rung is the longest step?",
        text=(
            "A network learns from 500 photographs of CIFAR-10, and one technique after the "
            "other is added: batch norm (2), flips and shifts (3), CutMix (4), a schedule (5), "
            "an average of the weights (6), tuning (8), the frozen features of a pretrained "
            "network with logistic regression (9), and fine-tuning that network (10). Which "
            "number gains the most accuracy?"
        ),
        answer="9",
        why=(
            "Its features come from 1.3 million photographs. All earlier techniques together "
            "gain less."
        ),
        section="The ladder",
        options=("2", "3", "4", "5", "6", "8", "9", "10"),
    ),
    Prediction(
        question="By how many points does fine-tuning win with equal labels?",
        text=(
            "Fine-tuning gets 60 photographs for training and 60 for choosing the epoch. A "
            "linear probe on the same pretrained features needs no validation images, so it "
            "trains on all 120. By how many points is fine-tuning ahead? (Negative if it's "
            "behind.)"
        ),
        answer=-1.5,
        why=(
            "If the probe gets only the first 60, fine-tuning looks better. The interval "
            "includes zero in both cases, so what decides is how you count the labels."
        ),
        section="Every label counts",
        within=3.6,
        unit="points",
    ),
    Prediction(
        question="What accuracy does cross-validation give the probe?",
        text=(
            "A linear probe on pretrained features learns three signs from a few images: no "
            "stopping, keep left and keep right. What accuracy does cross-validation give it? "
            "(Guessing gives one third.)"
        ),
        answer=0.67,
        why=(
            "Two thirds is what you'd expect from a classifier that recognises no stopping and "
            "tosses a coin between left and right."
        ),
        section="The probe, and what must beat it",
        within=0.12,
    ),
    Prediction(
        question="What fraction of the predictions for other things is above 0.9?",
        text=(
            "A network that knows three traffic signs is shown 23 photographs of other things, "
            "such as a cat and a cup of coffee. What fraction of its predictions, from 0 to 1, "
            "has a probability above 0.9?"
        ),
        answer=0.783,
        why=(
            "A softmax divides a total probability of one among the classes it knows, and none "
            "of these isn't among them."
        ),
        section="The test set, once",
    ),
)
