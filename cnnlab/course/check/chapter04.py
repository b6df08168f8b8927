"""Check the exercises of chapter 4: mixup, CutMix and temperature scaling.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import generator


Pair = tuple[Tensor, Tensor]
Box = tuple[int, int, int, int]
N, K, HEIGHT, WIDTH = 6, 9, 8, 10  # not square, to reveal a mix-up of rows and columns


def _batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return random images, one-hot targets and a permutation.

    The targets are of N different classes, and the permutation isn't its own inverse.
    """
    g = generator(seed, 4)
    images = torch.rand(N, 3, HEIGHT, WIDTH, generator=g)
    targets = F.one_hot(torch.randperm(K, generator=g)[:N], K).float()
    cycle = torch.randperm(N, generator=g)  # the partner of each image is the one before it
    permutation = torch.empty_like(cycle)
    permutation[cycle] = cycle.roll(1)
    return images, targets, permutation


def _observe_mixing(
    attempt: Callable[..., Any], problem: str, images: Tensor, targets: Tensor, *settings: Any
) -> Observation:
    """Observe the images and targets that an attempt returns."""
    mixed_images, mixed_targets = attempt(images, targets, *settings)
    return {
        f"your tensor of mixed images for {problem}": mixed_images,
        f"your tensor of mixed targets for {problem}": mixed_targets,
    }


def _new_permutation(images: Tensor) -> Tensor:
    return torch.randperm(len(images))


# --- mixup ----------------------------------------------------------------------------------------


def _observe_mixup(attempt: Callable[..., Any], seed: int) -> Observation:
    torch.manual_seed(1)  # for an attempt that draws its own permutation
    pixels, swap = torch.tensor([0.0, 8.0]).view(2, 1, 1, 1), torch.tensor([1, 0])
    images, targets = attempt(pixels, torch.eye(2), 0.75, swap)
    mix = "with lam=0.75, permutation=[1, 0]"
    small = {
        f"your mix of the pixels [0, 8] {mix}": images.flatten().tolist(),
        f"your mix of the targets [[1, 0], [0, 1]] {mix}": targets.tolist(),
    }
    images, targets, permutation = _batch(seed)
    lam = 0.6 + 0.3 * torch.rand((), generator=generator(seed, 5)).item()
    many = _observe_mixing(attempt, "six images", images, targets, lam, permutation)
    return {**small, **many}


def mixup(images: Tensor, targets: Tensor, lam: float, permutation: Tensor) -> Pair:
    """Mix each image and its target with its partner's, with weights λ and 1 - λ."""
    return (
        lam * images + (1 - lam) * images[permutation],
        lam * targets + (1 - lam) * targets[permutation],
    )


def _mixup_swapped(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return mixup(images, targets, 1 - lam, permutation)


def _mixup_labels_swapped(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return (
        mixup(images, targets, lam, permutation)[0],
        mixup(images, targets, 1 - lam, permutation)[1],
    )


def _mixup_new_partner(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return (
        mixup(images, targets, lam, permutation)[0],
        mixup(images, targets, lam, _new_permutation(images))[1],
    )


def _mixup_inverse(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return (
        mixup(images, targets, lam, permutation)[0],
        mixup(images, targets, lam, permutation.argsort())[1],
    )


def _mixup_own_permutation(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return mixup(images, targets, lam, _new_permutation(images))


def _mixup_reversed(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return mixup(images, targets, lam, torch.arange(len(images) - 1, -1, -1))


def _mixup_hard_labels(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return mixup(images, targets, lam, permutation)[0], targets.clone()


def _mixup_images_swapped(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return (
        mixup(images, targets, 1 - lam, permutation)[0],
        mixup(images, targets, lam, permutation)[1],
    )


def _mixup_in_place_too_early(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    images *= lam
    images += (1 - lam) * images[permutation]
    return images, mixup(targets, targets, lam, permutation)[1]


MIXUP = Exercise(
    name="mixup",
    task="`mixup(images, targets, lam, permutation) -> (images, targets)`",
    observe=_observe_mixup,
    answer=mixup,
    praise="You mix images and labels with the same λ and the same partner, and leave the inputs "
    "unchanged.",
    hint="try two images of one pixel: what do λ = 1 and λ = 0.75 give?",
    mistakes={
        "lambda swapped": Mistake(
            _mixup_swapped,
            "you swap λ and 1 - λ, so each image keeps a weight of 1 - λ instead of λ.",
            "what should λ = 1 do to a batch?",
        ),
        "lambda swapped for the images": Mistake(
            _mixup_images_swapped,
            "each of your images keeps a weight of 1 - λ instead of λ, unlike its label.",
            "what should λ = 1 do to an image?",
        ),
        "lambda swapped for the labels": Mistake(
            _mixup_labels_swapped,
            "each of your labels keeps a weight of 1 - λ instead of λ, unlike its image.",
            "what should λ = 1 do to a label?",
        ),
        "another permutation for the labels": Mistake(
            _mixup_new_partner,
            "you draw a new permutation for the labels, so images and labels mix with different "
            "partners.",
            "how many permutations does a batch need?",
        ),
        "inverse permutation for the labels": Mistake(
            _mixup_inverse,
            "you use the inverse permutation for the labels: if image i has partner j, label j "
            "gets partner i.",
            "how do you index the images, and how the targets?",
        ),
        "own permutation": Mistake(
            _mixup_own_permutation,
            "you don't use the permutation that was passed in.",
            "the fourth argument gives the partner of each image",
        ),
        "batch reversed": Mistake(
            _mixup_reversed,
            "you take the batch in reverse order as partners, as `flip(0)` does, and not those of "
            "`permutation`.",
            "what is `permutation[0]`, the partner of the first image?",
        ),
        "labels not mixed": Mistake(
            _mixup_hard_labels,
            "you mix the images, but each label is still the label of the first image alone.",
            "what should a network predict when it sees two images at once?",
        ),
        "in place, partner changed too early": Mistake(
            _mixup_in_place_too_early,
            "you change the batch in place before you read the partners, so the partners are "
            "scaled by λ too.",
            "make a new tensor instead of changing one that you still need",
        ),
    },
)


# --- cutmix ---------------------------------------------------------------------------------------


def _boxes(seed: int) -> list[Box]:
    """Return three boxes: two that reach beyond opposite corners of the image, and one inside."""
    g = generator(seed, 6)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    return [
        (-between(1, 2), -between(1, 2), between(3, 5), between(3, 5)),
        (between(4, 5), between(4, 6), HEIGHT + between(1, 3), WIDTH + between(1, 3)),
        (between(1, 2), between(4, 5), between(4, 5), between(7, 8)),
    ]


def _observe_cutmix(attempt: Callable[..., Any], seed: int) -> Observation:
    torch.manual_seed(1)  # for an attempt that draws its own permutation
    observation: dict[str, Any] = {}
    for row in ((0, 1, 1, 2), (0, 3, 1, 6)):
        pixels = torch.tensor([4.0, 8.0]).view(2, 1, 1, 1).repeat(1, 1, 1, 4)
        mixed, soft = attempt(pixels, torch.eye(2), row, torch.tensor([1, 0]))
        problem = f"when you paste [8, 8, 8, 8] into [4, 4, 4, 4], box={row},"
        observation[f"your row {problem}"] = mixed[0].flatten().tolist()
        observation[f"your target {problem}"] = soft[0].tolist()
    for place, box in zip(("top left", "bottom right", "middle"), _boxes(seed), strict=True):
        images, targets, permutation = _batch(seed)
        observation |= _observe_mixing(
            attempt, f"a box at the {place}", images, targets, box, permutation
        )
    return observation


def _clip(box: Box, images: Tensor) -> Box:
    top, left, bottom, right = box
    height, width = images.shape[2:]
    return max(top, 0), max(left, 0), min(bottom, height), min(right, width)


def _paste(images: Tensor, partners: Tensor, box: Box) -> Tensor:
    top, left, bottom, right = box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed


def _fraction_outside(box: Box, images: Tensor) -> float:
    """Return the fraction of an image's pixels that lie outside the box."""
    top, left, bottom, right = box
    height, width = images.shape[2:]
    return 1 - (bottom - top) * (right - left) / (height * width)


def cutmix(images: Tensor, targets: Tensor, box: Box, permutation: Tensor) -> Pair:
    """Paste the partner's pixels into the clipped box; λ is the fraction of pixels outside it."""
    clipped = _clip(box, images)
    lam = _fraction_outside(clipped, images)
    mixed = _paste(images, images[permutation], clipped)
    return mixed, lam * targets + (1 - lam) * targets[permutation]


def _cutmix_unclipped_lambda(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    lam = _fraction_outside(box, images)
    mixed = _paste(images, images[permutation], _clip(box, images))
    return mixed, lam * targets + (1 - lam) * targets[permutation]


def _cutmix_no_clipping(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    lam = _fraction_outside(box, images)
    mixed = _paste(images, images[permutation], box)
    return mixed, lam * targets + (1 - lam) * targets[permutation]


def _cutmix_negative_slices(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    mixed = _paste(images, images[permutation], box)
    return mixed, cutmix(images, targets, box, permutation)[1]


def _cutmix_swapped(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    pasted = 1 - _fraction_outside(_clip(box, images), images)
    mixed = cutmix(images, targets, box, permutation)[0]
    return mixed, pasted * targets + (1 - pasted) * targets[permutation]


def _cutmix_new_partner(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    soft = cutmix(images, targets, box, _new_permutation(images))[1]
    return cutmix(images, targets, box, permutation)[0], soft


def _cutmix_own_permutation(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    return cutmix(images, targets, box, _new_permutation(images))


def _cutmix_hard_labels(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    return cutmix(images, targets, box, permutation)[0], targets.clone()


def _cutmix_rows_for_columns(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    top, left, bottom, right = box
    return cutmix(images, targets, (left, top, right, bottom), permutation)


CUTMIX = Exercise(
    name="cutmix",
    task="`cutmix(images, targets, box, permutation) -> (images, targets)`",
    observe=_observe_cutmix,
    answer=cutmix,
    praise="You clip the box, compute λ from the pixels that remain, and leave the inputs "
    "unchanged.",
    hint="draw a small image: which pixels are in the box, and how many are outside?",
    mistakes={
        "lambda of the unclipped box": Mistake(
            _cutmix_unclipped_lambda,
            "you compute λ from the box before clipping, so the label gives the partner a larger "
            "weight than its area in the image.",
            "how many pixels do you really replace?",
        ),
        "no clipping": Mistake(
            _cutmix_no_clipping,
            "you don't clip the box, so λ counts pixels outside the image, and a negative index "
            "counts from the other end.",
            "what does `x[-2:4]` select from ten values?",
        ),
        "negative slices": Mistake(
            _cutmix_negative_slices,
            "you paste with the unclipped box, and a negative index counts from the other end.",
            "what does `x[-2:4]` select from ten values?",
        ),
        "lambda swapped": Mistake(
            _cutmix_swapped,
            "you swap λ and 1 - λ in the labels, but a small box should leave a label almost "
            "unchanged.",
            "is your λ the fraction of pixels that remain, or the fraction that you replace?",
        ),
        "another permutation for the labels": Mistake(
            _cutmix_new_partner,
            "you draw a new permutation for the labels, so the box and the label come from "
            "different partners.",
            "how many permutations does a batch need?",
        ),
        "own permutation": Mistake(
            _cutmix_own_permutation,
            "you don't use the permutation that was passed in.",
            "the fourth argument gives the partner of each image",
        ),
        "labels not mixed": Mistake(
            _cutmix_hard_labels,
            "you paste the box, but each label is still the label of the first image alone, as in "
            "random erasing.",
            "what fraction of the image comes from the partner, and what fraction of the label "
            "should?",
        ),
        "rows taken for columns": Mistake(
            _cutmix_rows_for_columns,
            "you swap rows and columns: a batch of images has shape (N, C, H, W), with rows "
            "before columns.",
            "the box is (top, left, bottom, right); which two of them are rows?",
        ),
    },
)


# --- temperature ----------------------------------------------------------------------------------

SAMPLES, CLASSES = 200, 3


def _observe_temperature(attempt: Callable[..., Any], seed: int) -> Observation:
    problems = {
        "logits=[[2, 0]] * 4, labels=[0, 0, 0, 1]": (
            torch.tensor([[2.0, 0.0]] * 4),
            torch.tensor([0, 0, 0, 1]),
        )
    }
    for name, scale in (("overconfident", 3.0), ("under-confident", 0.4)):
        g = generator(seed, 8)
        calibrated = 1.5 * torch.randn(SAMPLES, CLASSES, generator=g)
        labels = torch.multinomial(calibrated.softmax(dim=1), 1, generator=g).squeeze(1)
        problems[f"{name} logits"] = scale * calibrated, labels
    temperatures: dict[str, Any] = {}
    complaints: dict[str, bool] = {}
    for name, (logits, labels) in problems.items():
        returned = attempt(logits, labels)
        if isinstance(returned, int | float) and returned:
            best = fit_temperature(logits, labels)
            at_one, at_best, reached = (
                F.cross_entropy(logits / t, labels).item() for t in (1, best, returned)
            )
            complaints |= {
                f"you return the lowest loss for {name} instead of T.": math.isclose(
                    returned, at_best, rel_tol=0.01
                ),
                f"the loss with your T for {name} is larger than with T = 1.": (
                    reached > at_one + 1e-3
                ),
            }
            returned = _near(returned, best)
        temperatures[f"your T for {name}"] = returned
    return {**complaints, **temperatures}


def _near(value: float, best: float) -> float:
    """Return a known value that is within 3 % of a temperature, so that any method passes."""
    known = (best, 1 / best, math.log(best), math.sqrt(best), best * best, 1.0)
    return next((k for k in known if abs(value - k) <= 0.03 * abs(k)), value)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T with the lowest cross-entropy of logits / T."""
    low, high = math.log(0.05), math.log(20.0)
    golden = (math.sqrt(5) - 1) / 2

    def loss(log_t: float) -> float:
        return F.cross_entropy(logits / math.exp(log_t), labels).item()

    for _ in range(18):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return math.exp((low + high) / 2)


def _inverse_temperature(logits, labels):  # type: ignore[no-untyped-def]
    return 1 / fit_temperature(logits, labels)


def _log_temperature(logits, labels):  # type: ignore[no-untyped-def]
    return math.log(fit_temperature(logits, labels))


def _temperature_of_accuracy(logits, labels):  # type: ignore[no-untyped-def]
    candidates = [0.05 * 1.06**i for i in range(103)]
    hits = [(logits / t).argmax(dim=1).eq(labels).sum().item() for t in candidates]
    return candidates[hits.index(max(hits))]


def _temperature_of_probabilities(logits, labels):  # type: ignore[no-untyped-def]
    return fit_temperature(logits.softmax(dim=1), labels)


def _coarse_grid(logits, labels):  # type: ignore[no-untyped-def]
    candidates = [float(t) for t in range(1, 21)]
    losses = [F.cross_entropy(logits / t, labels).item() for t in candidates]
    return candidates[losses.index(min(losses))]


TEMPERATURE = Exercise(
    name="fit_temperature",
    task="`fit_temperature(logits, labels) -> T` with the lowest cross-entropy, a plain number",
    observe=_observe_temperature,
    answer=fit_temperature,
    praise="Your T makes overconfident networks less confident and under-confident ones more.",
    hint="evaluate the loss at your T and at a slightly larger and a smaller one; which is lowest?",
    mistakes={
        "inverse": Mistake(
            _inverse_temperature,
            "you return 1/T: an overconfident network gets an even larger scale.",
            "are the logits divided by T or multiplied by it?",
        ),
        "logarithm": Mistake(
            _log_temperature,
            "you return log T instead of T.",
            "which number do the logits have to be divided by?",
        ),
        "accuracy instead of loss": Mistake(
            _temperature_of_accuracy,
            "your T is the smallest one that you try.",
            "do you minimise the loss? No T changes a prediction, so the accuracy can't choose one",
        ),
        "softmax first": Mistake(
            _temperature_of_probabilities,
            "you scale probabilities, but the temperature divides logits, before the softmax.",
            "what does `F.cross_entropy` expect as its first argument?",
        ),
        "whole numbers only": Mistake(
            _coarse_grid,
            "you only try whole numbers, so T is inaccurate, and no T below 1 is found.",
            "how would you refine the search around the best value, in both directions?",
        ),
    },
)

EXERCISES = (MIXUP, CUTMIX, TEMPERATURE)

PREDICTIONS = (
    Prediction(
        question="Fraction of the wrong labels that CutMix repeats?",
        text=(
            "Many training labels are wrong. After training, a network sees the mislabelled "
            "training images once more, unmixed. One that memorised everything would repeat all "
            "of the wrong labels. What fraction of them, from 0 to 1, does a network trained "
            "with CutMix repeat?"
        ),
        answer=0.194,
        why=(
            "A wrong label comes with a different partner, fraction and box each time, so "
            "memorising hardly pays."
        ),
        section="Wrong labels",
    ),
    Prediction(
        question="Change of the accuracy by CutMix, with correct labels?",
        text=(
            "All labels are correct, and a small network trains for only sixteen epochs. By how "
            "much does CutMix change the validation accuracy? Give a difference, such as 0.02 "
            "or -0.02."
        ),
        answer=-0.057,
        why=(
            "Sixteen epochs are enough to fit single images but not all their mixtures, so the "
            "network is still underfitting when the run ends."
        ),
        section="Correct labels and a short run",
        within=0.02,
    ),
    Prediction(
        question="Fraction of nearly pure images with α = 0.2?",
        text=(
            "Mixup draws its fraction λ from a Beta(0.2, 0.2) distribution. What fraction of "
            "the mixed images, from 0 to 1, takes more than nine tenths from a single original?"
        ),
        answer=0.667,
        why=(
            "With a small α, most draws lie near 0 or 1, so most images stay almost unchanged. "
            "If a paper says that it used mixup, ask for its α."
        ),
        section="How strongly to mix",
    ),
    Prediction(
        question="Overconfidence without mixing?",
        text=(
            "A network trains on ten correctly labelled images per class for forty epochs, "
            "without mixing. By how much does its mean confidence exceed its accuracy? (0 for a "
            "calibrated network.)"
        ),
        answer=0.157,
        why=(
            "The network fits the few training images perfectly and becomes confident, but it's "
            "often wrong on new ones."
        ),
        section="Few labels: accuracy versus confidence",
    ),
)
