"""Chapter 4: blend pictures and labels, and the loss for labels that are shares."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import generator


Pair = tuple[Tensor, Tensor]
Box = tuple[int, int, int, int]
N, K, HEIGHT, WIDTH = 6, 9, 8, 10  # a picture that is not square shows rows taken for columns


def _batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random images, one-hot targets of N different classes, and a permutation that is not its own inverse."""
    g = generator(seed, 4)
    images = torch.rand(N, 3, HEIGHT, WIDTH, generator=g)
    targets = F.one_hot(torch.randperm(K, generator=g)[:N], K).float()
    circle = torch.randperm(N, generator=g)  # each is the partner of the next one in a circle
    permutation = torch.empty_like(circle)
    permutation[circle] = circle.roll(1)
    return images, targets, permutation


def _mixed(attempt: Callable[..., Any], images: Tensor, targets: Tensor, *how: Any) -> Observation:
    """What a function that mixes returns, and what it does to the batch it was given."""
    before = images.clone(), targets.clone()
    torch.manual_seed(1)  # for an attempt that draws a permutation of its own
    returned = attempt(images, targets, *how)
    pair = (
        returned if isinstance(returned, tuple | list) and len(returned) == 2 else (returned, None)
    )
    untouched = torch.equal(images, before[0]) and torch.equal(targets, before[1])
    return {
        "the mixed images": pair[0],
        "the mixed targets": pair[1],
        "the batch you were given is untouched": untouched,
    }


def _drawn() -> Tensor:
    return torch.randperm(N)


# --- mixup ----------------------------------------------------------------------------------------


def _observe_mixup(attempt: Callable[..., Any], seed: int) -> Observation:
    images, targets, permutation = _batch(seed)
    lam = 0.6 + 0.3 * torch.rand((), generator=generator(seed, 5)).item()
    return _mixed(attempt, images, targets, lam, permutation)


def mixup(images: Tensor, targets: Tensor, lam: float, permutation: Tensor) -> Pair:
    """The answer: λ of each image and its target, 1 - λ of the partner and the partner's target."""
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


def _mixup_other_partner(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return (
        mixup(images, targets, lam, permutation)[0],
        mixup(images, targets, lam, _drawn())[1],
    )


def _mixup_inverse(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return (
        mixup(images, targets, lam, permutation)[0],
        mixup(images, targets, lam, permutation.argsort())[1],
    )


def _mixup_own_permutation(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return mixup(images, targets, lam, _drawn())


def _mixup_hard_labels(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    return mixup(images, targets, lam, permutation)[0], targets.clone()


def _mixup_in_place(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    images.lerp_(images[permutation], 1 - lam)
    return images, mixup(targets, targets, lam, permutation)[1]


def _mixup_in_place_too_early(images, targets, lam, permutation):  # type: ignore[no-untyped-def]
    images *= lam
    images += (1 - lam) * images[permutation]
    return images, mixup(targets, targets, lam, permutation)[1]


MIXUP = Exercise(
    name="mixup",
    observe=_observe_mixup,
    answer=mixup,
    praise="Images and labels mix with the same λ and the same partner, and the batch stays as it was.",
    mistakes={
        "lambda swapped": Mistake(
            _mixup_swapped,
            "λ and 1 - λ are swapped: each image keeps 1 - λ of itself.",
            "with λ = 1 nothing should change",
        ),
        "lambda swapped for the labels": Mistake(
            _mixup_labels_swapped,
            "the images keep λ of themselves, but the labels keep 1 - λ.",
            "which share of the picture comes from the sample itself? Its label has the same share",
        ),
        "another permutation for the labels": Mistake(
            _mixup_other_partner,
            "the images mix with one partner and the labels with another: a new permutation was drawn.",
            "how often may a permutation be drawn for a batch?",
        ),
        "inverse permutation for the labels": Mistake(
            _mixup_inverse,
            "the labels go through the inverse permutation: image i has partner j, label j has partner i.",
            "index images and targets in the same way",
        ),
        "own permutation": Mistake(
            _mixup_own_permutation,
            "images and labels agree, but the permutation you were given is not used.",
            "the fourth argument says who is whose partner",
        ),
        "labels not mixed": Mistake(
            _mixup_hard_labels,
            "the images are mixed, but the labels are those of the first image alone.",
            "what should a network answer when it sees two pictures at once?",
        ),
        "in place": Mistake(
            _mixup_in_place,
            "the values are right, but the batch you were given has changed. When it is a view of a data "
            "set in memory, the data set is spoiled for all later epochs.",
            "names that end with an underscore, `*=`, `+=` and assignments to a slice change a tensor",
        ),
        "in place, partner changed too early": Mistake(
            _mixup_in_place_too_early,
            "the batch was changed in place before the partners were read, so they are scaled by λ as well.",
            "make a new tensor instead of changing the one you still read from",
        ),
    },
)


# --- cutmix ---------------------------------------------------------------------------------------


def _boxes(seed: int) -> list[Box]:
    """A box that sticks out at the top left, one that sticks out at the bottom right, one that lies inside."""
    g = generator(seed, 6)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    return [
        (-between(1, 2), -between(1, 2), between(3, 5), between(3, 5)),
        (between(4, 5), between(4, 6), HEIGHT + between(1, 3), WIDTH + between(1, 3)),
        (between(1, 2), between(4, 5), between(4, 5), between(7, 8)),
    ]


def _observe_cutmix(attempt: Callable[..., Any], seed: int) -> Observation:
    names = ("box over the top left corner", "box over the bottom right corner", "box inside")
    seen: dict[str, Any] = {}
    for name, box in zip(names, _boxes(seed), strict=True):
        images, targets, permutation = _batch(seed)
        told = _mixed(attempt, images, targets, box, permutation)
        seen |= {f"{what} ({name})": value for what, value in told.items()}
    return seen


def _clipped(box: Box, images: Tensor) -> Box:
    top, left, bottom, right = box
    height, width = images.shape[2:]
    return max(top, 0), max(left, 0), min(bottom, height), min(right, width)


def _pasted(images: Tensor, partners: Tensor, box: Box) -> Tensor:
    top, left, bottom, right = box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed


def _kept(box: Box, images: Tensor) -> float:
    top, left, bottom, right = box
    height, width = images.shape[2:]
    return 1 - (bottom - top) * (right - left) / (height * width)


def cutmix(images: Tensor, targets: Tensor, box: Box, permutation: Tensor) -> Pair:
    """The answer: paste the clipped box of the partner; λ is the share of pixels that were kept."""
    inside = _clipped(box, images)
    lam = _kept(inside, images)
    mixed = _pasted(images, images[permutation], inside)
    return mixed, lam * targets + (1 - lam) * targets[permutation]


def _cutmix_as_asked(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    lam = _kept(box, images)
    mixed = _pasted(images, images[permutation], _clipped(box, images))
    return mixed, lam * targets + (1 - lam) * targets[permutation]


def _cutmix_no_clipping(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    lam = _kept(box, images)
    mixed = _pasted(images, images[permutation], box)
    return mixed, lam * targets + (1 - lam) * targets[permutation]


def _cutmix_negative_slices(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    mixed = _pasted(images, images[permutation], box)
    return mixed, cutmix(images, targets, box, permutation)[1]


def _cutmix_swapped(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    taken = 1 - _kept(_clipped(box, images), images)
    mixed = cutmix(images, targets, box, permutation)[0]
    return mixed, taken * targets + (1 - taken) * targets[permutation]


def _cutmix_other_partner(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    soft = cutmix(images, targets, box, _drawn())[1]
    return cutmix(images, targets, box, permutation)[0], soft


def _cutmix_own_permutation(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    return cutmix(images, targets, box, _drawn())


def _cutmix_hard_labels(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    return cutmix(images, targets, box, permutation)[0], targets.clone()


def _cutmix_in_place(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    mixed, soft = cutmix(images, targets, box, permutation)
    return images.copy_(mixed), soft


def _cutmix_rows_for_columns(images, targets, box, permutation):  # type: ignore[no-untyped-def]
    top, left, bottom, right = box
    return cutmix(images, targets, (left, top, right, bottom), permutation)


CUTMIX = Exercise(
    name="cutmix",
    observe=_observe_cutmix,
    answer=cutmix,
    praise="The box is clipped, λ counts the pixels that were really kept, and the batch stays as it was.",
    mistakes={
        "lambda of the unclipped box": Mistake(
            _cutmix_as_asked,
            "λ is that of the box before clipping: the label promises more of the partner than the picture shows.",
            "count the pixels that were replaced, not those that were asked for",
        ),
        "no clipping": Mistake(
            _cutmix_no_clipping,
            "the box is not clipped at all: λ counts pixels outside the picture, and a negative index counts "
            "from the other end.",
            "what does `x[-2:4]` select from ten numbers?",
        ),
        "negative slices": Mistake(
            _cutmix_negative_slices,
            "λ is right, but the picture is cut with the unclipped box: a negative index counts from the other end.",
            "what does `x[-2:4]` select from ten numbers?",
        ),
        "lambda swapped": Mistake(
            _cutmix_swapped,
            "λ and 1 - λ are swapped in the labels: a small box should leave the label nearly as it was.",
            "does your λ stand for what was kept, or for what was replaced?",
        ),
        "another permutation for the labels": Mistake(
            _cutmix_other_partner,
            "the box comes from one partner and the label from another: a new permutation was drawn.",
            "how often may a permutation be drawn for a batch?",
        ),
        "own permutation": Mistake(
            _cutmix_own_permutation,
            "images and labels agree, but the permutation you were given is not used.",
            "the fourth argument says who is whose partner",
        ),
        "labels not mixed": Mistake(
            _cutmix_hard_labels,
            "the box is pasted, but the labels are those of the first image alone (that would be a kind of "
            "random erasing).",
            "what share of the picture is the partner's? Its label has the same share",
        ),
        "in place": Mistake(
            _cutmix_in_place,
            "the values are right, but the batch you were given has changed. When it is a view of a data "
            "set in memory, the data set is spoiled for all later epochs.",
            "`mixed = images` gives the same tensor a second name",
        ),
        "rows taken for columns": Mistake(
            _cutmix_rows_for_columns,
            "rows and columns are exchanged: a tensor of images is (N, C, H, W), rows first.",
            "the box is (top, left, bottom, right); which of the four belong to the rows?",
        ),
    },
)


# --- soft cross-entropy ---------------------------------------------------------------------------


def _observe_soft_cross_entropy(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 7)
    targets = (2 * torch.randn(N, K, generator=g)).softmax(dim=1)
    ordinary = 2 * torch.randn(N, K, generator=g)
    # One class far ahead: the softmax of the others is exactly 0 in float32.
    extreme = ordinary + 300 * F.one_hot(torch.randint(K, (N,), generator=g), K)
    seen: dict[str, Any] = {}
    for name, values in (("ordinary logits", ordinary), ("logits of some hundreds", extreme)):
        logits = values.clone().requires_grad_()
        loss = attempt(logits, targets.clone())
        tracked = isinstance(loss, Tensor) and loss.requires_grad and loss.numel() == 1
        if tracked:
            loss.backward()
        seen[f"the loss for {name}"] = loss.detach() if isinstance(loss, Tensor) else loss
        seen[f"its gradient for {name}"] = logits.grad if tracked else None
    return seen


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The answer: -Σ t·log p over the classes, the mean of it over the samples."""
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def _no_log(logits, targets):  # type: ignore[no-untyped-def]
    return -(targets * F.softmax(logits, dim=1)).sum(dim=1).mean()


def _mean_over_classes(logits, targets):  # type: ignore[no-untyped-def]
    return -(targets * F.log_softmax(logits, dim=1)).mean()


def _sum_over_samples(logits, targets):  # type: ignore[no-untyped-def]
    return -(targets * F.log_softmax(logits, dim=1)).sum()


def _softmax_twice(logits, targets):  # type: ignore[no-untyped-def]
    return soft_cross_entropy(F.softmax(logits, dim=1), targets)


def _softmax_over_samples(logits, targets):  # type: ignore[no-untyped-def]
    return -(targets * F.log_softmax(logits, dim=0)).sum(dim=1).mean()


def _largest_share(logits, targets):  # type: ignore[no-untyped-def]
    return F.cross_entropy(logits, targets.argmax(dim=1))


def _no_minus(logits, targets):  # type: ignore[no-untyped-def]
    return -soft_cross_entropy(logits, targets)


def _log_of_softmax(logits, targets):  # type: ignore[no-untyped-def]
    return -(targets * torch.log(F.softmax(logits, dim=1))).sum(dim=1).mean()


def _loss_as_number(logits, targets):  # type: ignore[no-untyped-def]
    return soft_cross_entropy(logits, targets).item()


def _one_loss_a_sample(logits, targets):  # type: ignore[no-untyped-def]
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1)


SOFT_CROSS_ENTROPY = Exercise(
    name="soft_cross_entropy",
    observe=_observe_soft_cross_entropy,
    answer=soft_cross_entropy,
    praise="The sum over the classes, the mean over the samples, and safe for large logits.",
    mistakes={
        "no log": Mistake(
            _no_log,
            "there is no logarithm: this weighs the probabilities themselves, and a hopeless answer has "
            "almost no gradient.",
            "cross-entropy compares the targets with log p",
        ),
        "mean over the classes": Mistake(
            _mean_over_classes,
            "the mean is taken over the classes as well, so the loss and its gradient are K times too small.",
            "over which of the two dimensions do you sum, and over which do you average?",
        ),
        "sum over the samples": Mistake(
            _sum_over_samples,
            "the samples are summed: the step would grow with the size of the batch.",
            "divide by the number of samples",
        ),
        "one loss a sample": Mistake(
            _one_loss_a_sample,
            "you return one loss for each sample; the mean of them is asked for.",
            "`backward()` needs a single number",
        ),
        "softmax twice": Mistake(
            _softmax_twice,
            "softmax is applied twice: no answer can become confident, and learning is slow.",
            "`log_softmax` wants logits, not probabilities",
        ),
        "softmax over the samples": Mistake(
            _softmax_over_samples,
            "softmax runs over the samples; each sample's probabilities should sum to 1.",
            "logits are (N, K); which dimension holds the classes?",
        ),
        "largest share only": Mistake(
            _largest_share,
            "only the class with the largest share counts; the shares themselves are lost.",
            "every class enters with its share",
        ),
        "no minus": Mistake(
            _no_minus,
            "the sign is wrong: the better the answers, the larger this number.",
            "the logarithm of a probability is negative",
        ),
        "log of softmax": Mistake(
            _log_of_softmax,
            "right for small logits, infinite or NaN for large ones: a probability was rounded to 0 before "
            "its logarithm was taken.",
            "one function of torch.nn.functional takes both steps at once",
        ),
        "a plain number": Mistake(
            _loss_as_number,
            "you return a plain number; without a tensor there is nothing to call `backward()` on.",
            "leave out `.item()`",
        ),
    },
)
