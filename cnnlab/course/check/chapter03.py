"""Chapter 3: flip and jitter each image of a batch by itself, and choose what keeps the label."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import generator


# --- random_flip ----------------------------------------------------------------------------------


CALLS, IMAGES = 32, 8  # many small batches: one decision for a batch then shows beyond doubt
AGAIN = 8  # calls with a second generator in the same state


def _observe_flip(attempt: Callable[..., Any], seed: int) -> Observation:
    """Watch which images of many batches are mirrored; how the numbers are drawn is left open."""
    images = torch.rand(IMAGES, 3, 5, 6, generator=generator(seed, 1))
    p = 0.25 if seed % 2 else 0.75
    given = [images.clone() for _ in range(CALLS + AGAIN)]
    first, second = generator(seed, 2), generator(seed, 2)
    returned = [attempt(batch, p, first) for batch in given[:CALLS]]
    returned += [attempt(batch, p, second) for batch in given[CALLS:]]
    if not all(isinstance(r, Tensor) and r.shape == images.shape for r in returned):
        return {"a tensor of the shape of the images": False}
    seen, again = torch.stack(returned).split([CALLS, AGAIN])
    kept, mirrored = _same(seen, images), _same(seen, images.flip(3))
    together = bool((mirrored.all(dim=1) | ~mirrored.any(dim=1)).float().mean() > 0.75)
    return {
        "a tensor of the shape of the images": True,
        "your images untouched": all(torch.equal(batch, images) for batch in given),
        "each image is itself or its mirror image, left and right": bool((kept | mirrored).all()),
        "images turned upside down": bool(_same(seen, images.flip(2)).any()),
        "one decision for the whole batch": together,
        "share of the images that are mirrored": _share(
            float(mirrored.float().mean()), p, together
        ),
        "equal generators mirror the same images": torch.equal(seen[:AGAIN], again),
    }


def _same(seen: Tensor, images: Tensor) -> Tensor:
    """Which of the returned images are these images, bool (CALLS, N)."""
    return (seen == images).flatten(2).all(dim=2)


def _share(share: float, p: float, together: bool) -> str:
    """A share in words: it need not be exactly p, since the numbers are random."""
    if share in (0, 1):
        return "none" if share == 0 else "all"
    if together:
        return "some"  # too few decisions to tell more
    near = [name for name, expected in (("p", p), ("1 - p", 1 - p)) if abs(share - expected) < 0.2]
    return near[0] if near else "another"


def random_flip(images: Tensor, p: float, generator: Generator) -> Tensor:
    """The answer: each image (N, C, H, W) is mirrored left to right with probability p, by itself."""
    flip = torch.rand(len(images), generator=generator) < p
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def _one_decision(images, p, generator):  # type: ignore[no-untyped-def]
    return images.flip(3) if torch.rand((), generator=generator) < p else images


def _upside_down(images, p, generator):  # type: ignore[no-untyped-def]
    flip = torch.rand(len(images), generator=generator) < p
    return torch.where(flip[:, None, None, None], images.flip(2), images)


def _flip_in_place(images, p, generator):  # type: ignore[no-untyped-def]
    flip = torch.rand(len(images), generator=generator) < p
    images[flip] = images[flip].flip(3)
    return images


def _flips_all(images, p, generator):  # type: ignore[no-untyped-def]
    return images.flip(3)


def _flips_none(images, p, generator):  # type: ignore[no-untyped-def]
    flip = torch.rand(len(images), generator=generator) < p
    images[flip].flip(3)
    return images


def _chance_the_other_way(images, p, generator):  # type: ignore[no-untyped-def]
    return random_flip(images, 1 - p, generator)


def _ignores_the_generator(images, p, generator):  # type: ignore[no-untyped-def]
    flip = torch.rand(len(images)) < p
    return torch.where(flip[:, None, None, None], images.flip(3), images)


FLIP = Exercise(
    name="random_flip",
    observe=_observe_flip,
    answer=random_flip,
    praise="Every image has a decision of its own, about p of them are mirrored, and yours are untouched.",
    mistakes={
        "one decision": Mistake(
            _one_decision,
            "all images of a batch are mirrored together or not at all: there is one draw for the batch.",
            "how many random numbers do you draw, and how many images are there?",
        ),
        "upside down": Mistake(
            _upside_down,
            "the images are turned upside down instead of mirrored left to right.",
            "which axis of (N, C, H, W) runs from left to right?",
        ),
        "in place": Mistake(
            _flip_in_place,
            "the caller's images are changed. A batch can be a view of the data set, which would be spoiled "
            "for all later epochs.",
            "build a new tensor instead of writing into the one you were given",
        ),
        "flips all": Mistake(
            _flips_all,
            "every image is mirrored, whatever p is.",
            "where does p come in?",
        ),
        "flips none": Mistake(
            _flips_none,
            "no image is mirrored, whatever p is.",
            "`flip` returns a new tensor and so does `images[mask]`; what becomes of it?",
        ),
        "the chance the other way": Mistake(
            _chance_the_other_way,
            "the share of mirrored images is 1 - p instead of p.",
            "is a number between 0 and 1 below p, or above it, with probability p?",
        ),
        "ignores the generator": Mistake(
            _ignores_the_generator,
            "the same generator state gives other flips: your draws come from elsewhere.",
            "torch's random functions take `generator=`",
        ),
    },
)


# --- jitter ---------------------------------------------------------------------------------------


def _observe_jitter(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 3)
    # As many images as columns: a factor that lands on the wrong axis raises no error here either.
    images = torch.rand(6, 3, 4, 6, generator=g)
    scale = 0.3 + 1.7 * torch.rand(6, generator=g)
    shift = 0.8 * torch.rand(6, generator=g) - 0.4
    given = images.clone()
    returned = attempt(given, scale.clone(), shift.clone())
    return {"what you return": returned, "your images after the call": given}


def jitter(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The answer: scale * pixel + shift, one pair for each image, cut off at 0 and 1."""
    return (images * scale[:, None, None, None] + shift[:, None, None, None]).clamp(0, 1)


def _one_scale(images, scale, shift):  # type: ignore[no-untyped-def]
    return (images * scale[0] + shift[0]).clamp(0, 1)


def _mean_scale(images, scale, shift):  # type: ignore[no-untyped-def]
    return (images * scale.mean() + shift.mean()).clamp(0, 1)


def _no_clamp(images, scale, shift):  # type: ignore[no-untyped-def]
    return images * scale[:, None, None, None] + shift[:, None, None, None]


def _a_scale_a_column(images, scale, shift):  # type: ignore[no-untyped-def]
    return (images * scale + shift).clamp(0, 1)


def _shift_scaled_too(images, scale, shift):  # type: ignore[no-untyped-def]
    return ((images + shift[:, None, None, None]) * scale[:, None, None, None]).clamp(0, 1)


def _about_the_mean(images, scale, shift):  # type: ignore[no-untyped-def]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    scaled = (images - mean) * scale[:, None, None, None] + mean
    return (scaled + shift[:, None, None, None]).clamp(0, 1)


def _clamped_between(images, scale, shift):  # type: ignore[no-untyped-def]
    return (images * scale[:, None, None, None]).clamp(0, 1) + shift[:, None, None, None]


def _jitter_in_place(images, scale, shift):  # type: ignore[no-untyped-def]
    return images.mul_(scale[:, None, None, None]).add_(shift[:, None, None, None]).clamp_(0, 1)


JITTER = Exercise(
    name="jitter",
    observe=_observe_jitter,
    answer=jitter,
    praise="Every image has its own scale and shift, and the pixels stay between 0 and 1.",
    mistakes={
        "one scale": Mistake(
            _one_scale,
            "all images of the batch get the scale and shift of the first.",
            "`scale` holds one number for each image; use all of them",
        ),
        "mean scale": Mistake(
            _mean_scale,
            "all images of the batch get the same light: the mean of the scales, and of the shifts.",
            "`scale` holds one number for each image; nothing is to be averaged",
        ),
        "no clamp": Mistake(
            _no_clamp,
            "some pixels lie below 0 or above 1: no camera delivers those.",
            "what happens to a pixel that gets brighter than white?",
        ),
        "a scale a column": Mistake(
            _a_scale_a_column,
            "the numbers land on the columns of the images: broadcasting lines up the last axes.",
            "which shape must (N,) get to line up with the first axis of (N, C, H, W)?",
        ),
        "shift scaled too": Mistake(
            _shift_scaled_too,
            "the shift is multiplied by the scale as well.",
            "in scale * pixel + shift, what comes first?",
        ),
        "about the mean": Mistake(
            _about_the_mean,
            "you scale the distance from the mean of the image: that is contrast. Here the pixel itself is scaled.",
            "the formula has no mean in it",
        ),
        "clamped between": Mistake(
            _clamped_between,
            "the pixels are cut off before the shift is added, and can leave the range again.",
            "cut off once, at the end",
        ),
        "in place": Mistake(
            _jitter_in_place,
            "the result is right, but the caller's images are changed.",
            "functions whose name ends in _ write into their argument, and so does `*=`",
        ),
    },
)


# --- choose_augmentations -------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A classification task, by what can be done to its images.

    Attributes:
        keeps: what keeps the label and belongs in; what is neither here nor in `breaks` is left open.
        breaks: augmentation -> why it changes the label.
    """

    keeps: frozenset[str]
    breaks: dict[str, str]


AUGMENTATIONS = (
    "small rotation",
    "any rotation",
    "flip",
    "vertical flip",
    "shift",
    "light",
    "hue",
    "blur",
    "erasing",
)
TASKS = {
    "handwritten digits": Task(
        frozenset({"small rotation", "shift"}),
        {
            "any rotation": "a 6 turned by half a circle is a 9",
            "flip": "a mirrored 2 or 3 is no digit any more, and nobody will ever write it",
            "vertical flip": "a 2 upside down in a mirror looks like a 5, and a 6 like a 9 badly written",
        },
    ),
    "land use from satellites": Task(
        frozenset({"any rotation", "flip", "vertical flip", "shift"}), {}
    ),
    "heart on the left or on the right, in chest X-rays": Task(
        frozenset({"small rotation", "shift", "light"}),
        {
            "flip": "the mirror image of a heart on the left is a heart on the right",
            "vertical flip": "upside down in a mirror is still a mirror image: turn it by half a circle, and left "
            "and right have changed places",
        },
    ),
    "keep left or keep right, the signs": Task(
        frozenset({"small rotation", "shift", "light"}),
        {
            "any rotation": "keep left turned by half a circle is keep right",
            "flip": "the mirror image of keep left is keep right",
        },
    ),
    "ripe or green tomatoes": Task(
        frozenset({"any rotation", "flip", "shift"}),
        {"hue": "the colour is the label: a turn of the colour circle makes green fruit ripe"},
    ),
    "lens with or without a fine scratch": Task(
        frozenset({"any rotation", "flip", "light"}),
        {
            "blur": "a fine scratch is gone when the picture is blurred, but the label still says scratched",
            "erasing": "the rectangle can cover the scratch, but the label still says scratched",
        },
    ),
}


def _observe_choice(attempt: Callable[..., Any], seed: int) -> Observation:
    """Look for the first thing that is wrong: what breaks a label in any task, then what is left out."""
    chosen = {task: attempt(task) for task in TASKS}
    seen = dict.fromkeys(
        ("what is no set", "what is no name", "what breaks a label", "what is missing"), "nothing"
    )
    for task, names in chosen.items():
        if not isinstance(names, set | frozenset | list | tuple):
            return seen | {"what is no set": f"{names!r} for {task}"}
        if unknown := sorted({str(name) for name in names} - set(AUGMENTATIONS)):
            return seen | {"what is no name": f"{unknown[0]} for {task}"}
    for task, names in chosen.items():
        for broken in (name for name in TASKS[task].breaks if name in names):
            return seen | {"what breaks a label": f"{broken} for {task}"}
    for task, names in chosen.items():
        if missing := sorted(TASKS[task].keeps - set(names)):
            return seen | {"what is missing": f"{missing[0]} for {task}"}
    return seen


def choose_augmentations(task: str) -> set[str]:
    """The answer: what keeps the label of a task."""
    return set(TASKS[task].keeps)


def _choice(task: str, *, add: Iterable[str] = (), leave_out: Iterable[str] = ()) -> Callable:
    """An answer that is wrong about one task."""

    def attempt(asked: str, task: str, add: set[str], leave_out: set[str]) -> set[str]:
        right = choose_augmentations(asked)
        return (right | add) - leave_out if asked == task else right

    return partial(attempt, task=task, add=set(add), leave_out=set(leave_out))


BREAKING = {
    f"{name}, {task}": Mistake(
        _choice(task, add={name}),
        f"'{name}' changes the label in '{task}': {why}.",
        "could two classes, or a class and nonsense, change places?",
    )
    for task, described in TASKS.items()
    for name, why in described.breaks.items()
}
MISSING = {
    f"no {name}, {task}": Mistake(
        _choice(task, leave_out={name}),
        f"'{name}' keeps the label in '{task}', and you leave it out.",
        "would you still give the changed picture the same label, and could such a picture come in use?",
    )
    for task, described in TASKS.items()
    for name in sorted(described.keeps)
}

CHOICE = Exercise(
    name="choose_augmentations",
    observe=_observe_choice,
    answer=choose_augmentations,
    praise="Nothing you chose changes a label, and nothing is missing that is surely safe.",
    mistakes=BREAKING | MISSING,
)
