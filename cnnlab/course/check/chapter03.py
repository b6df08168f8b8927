"""Check the exercises of chapter 3: random flips, jitter, and a choice of augmentations.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import generator


# --- random_flip ----------------------------------------------------------------------------------


CALLS, IMAGES = 32, 8  # many small batches reveal a single decision per batch
REPEATS = 8  # calls with a second generator in the same state


def _observe_flip(attempt: Callable[..., Any], seed: int) -> Observation:
    """Observe which images of many batches are mirrored, however the attempt draws its numbers."""
    images = torch.rand(IMAGES, 3, 5, 6, generator=generator(seed, 1))
    p = 0.25 if seed % 2 else 0.75
    batches = [images.clone() for _ in range(CALLS + REPEATS)]
    first, second = generator(seed, 2), generator(seed, 2)
    results = [attempt(batch, p, first) for batch in batches[:CALLS]]
    results += [attempt(batch, p, second) for batch in batches[CALLS:]]
    if not all(isinstance(r, Tensor) and r.shape == images.shape for r in results):
        return {"result shaped like `images`": False}
    flipped, repeated = torch.stack(results).split([CALLS, REPEATS])
    original, mirrored = _equal_images(flipped, images), _equal_images(flipped, images.flip(3))
    together = bool((mirrored.all(dim=1) | ~mirrored.any(dim=1)).float().mean() > 0.75)
    fraction = _describe_fraction(float(mirrored.float().mean()), p, together)
    return {
        "result shaped like `images`": True,
        "`images` unchanged": all(torch.equal(batch, images) for batch in batches),
        "every result either the image or its mirror image": bool((original | mirrored).all()),
        "any image turned upside down": bool(_equal_images(flipped, images.flip(2)).any()),
        "one decision for the whole batch": together,
        "the fraction of mirrored images": fraction,
        "the same flips for the same generator state": torch.equal(flipped[:REPEATS], repeated),
    }


def _equal_images(results: Tensor, images: Tensor) -> Tensor:
    """Compare the results of all calls with the images, image by image; bool (CALLS, N)."""
    return (results == images).flatten(2).all(dim=2)


def _describe_fraction(fraction: float, p: float, together: bool) -> str:
    """Describe a random fraction, which can only be close to its expected value."""
    if fraction in (0, 1):
        return "none" if fraction == 0 else "all"
    if together:
        return "some"  # one decision per batch is too few for an estimate
    candidates = (("p", p), ("1 - p", 1 - p))
    near = [name for name, expected in candidates if abs(fraction - expected) < 0.2]
    return near[0] if near else "neither p nor 1 - p"


def random_flip(images: Tensor, p: float, generator: Generator) -> Tensor:
    """Mirror each image (N, C, H, W) left to right with probability p, independently."""
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


def _probability_reversed(images, p, generator):  # type: ignore[no-untyped-def]
    return random_flip(images, 1 - p, generator)


def _ignores_the_generator(images, p, generator):  # type: ignore[no-untyped-def]
    flip = torch.rand(len(images)) < p
    return torch.where(flip[:, None, None, None], images.flip(3), images)


FLIP = Exercise(
    name="random_flip",
    task="`random_flip(images, p, generator) -> images`, one decision per image",
    observe=_observe_flip,
    answer=random_flip,
    praise="You decide for each image separately, mirror about a fraction p of them, and leave "
    "the originals unchanged.",
    mistakes={
        "one decision": Mistake(
            _one_decision,
            "you mirror all images of a batch or none of them, because you draw once per batch.",
            "how many random numbers do you draw, and how many images are there?",
        ),
        "upside down": Mistake(
            _upside_down,
            "you turn the images upside down instead of mirroring them left to right.",
            "which axis of (N, C, H, W) runs from left to right?",
        ),
        "in place": Mistake(
            _flip_in_place,
            "you change the caller's images. A batch can be a view of the data set, and then your "
            "flips damage it for all later epochs.",
            "build a new tensor instead of writing into the one that was passed in",
        ),
        "flips all": Mistake(
            _flips_all,
            "you mirror every image, whatever p is.",
            "where does your code use p?",
        ),
        "flips none": Mistake(
            _flips_none,
            "you mirror no image, whatever p is.",
            "`flip` returns a new tensor, and so does `images[mask]`; what do you do with it?",
        ),
        "the chance the other way": Mistake(
            _probability_reversed,
            "you mirror each image with probability 1 - p instead of p.",
            "is a uniform random number below p with probability p, or with probability 1 - p?",
        ),
        "ignores the generator": Mistake(
            _ignores_the_generator,
            "the same generator state gives different flips, so you don't draw from the generator "
            "that was passed in.",
            "torch's random functions take a `generator` argument",
        ),
    },
)


# --- jitter ---------------------------------------------------------------------------------------


def _observe_jitter(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 3)
    # As many images as columns, so that broadcasting along the wrong axis raises no error.
    images = torch.rand(6, 3, 4, 6, generator=g)
    scale = 0.3 + 1.7 * torch.rand(6, generator=g)
    shift = 0.8 * torch.rand(6, generator=g) - 0.4
    batch = images.clone()
    returned = attempt(batch, scale.clone(), shift.clone())
    return {"the value you return": returned, "the value of `images` after the call": batch}


def jitter(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return scale * pixel + shift, with one pair (scale, shift) per image, clamped to 0 and 1."""
    return (images * scale[:, None, None, None] + shift[:, None, None, None]).clamp(0, 1)


def _one_scale(images, scale, shift):  # type: ignore[no-untyped-def]
    return (images * scale[0] + shift[0]).clamp(0, 1)


def _mean_scale(images, scale, shift):  # type: ignore[no-untyped-def]
    return (images * scale.mean() + shift.mean()).clamp(0, 1)


def _no_clamp(images, scale, shift):  # type: ignore[no-untyped-def]
    return images * scale[:, None, None, None] + shift[:, None, None, None]


def _one_scale_per_column(images, scale, shift):  # type: ignore[no-untyped-def]
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
    task="`jitter(images, scale, shift) -> images`, with a pair per image",
    observe=_observe_jitter,
    answer=jitter,
    praise="Each image gets its own scale and shift, and its pixels stay between 0 and 1.",
    mistakes={
        "one scale": Mistake(
            _one_scale,
            "you give all images of the batch the scale and shift of the first image.",
            "`scale` has one value per image; how many of them do you use?",
        ),
        "mean scale": Mistake(
            _mean_scale,
            "you average the scales and the shifts, so all images of the batch change in the same "
            "way.",
            "`scale` has one value per image; which image does each value belong to?",
        ),
        "no clamp": Mistake(
            _no_clamp,
            "some of your pixels are below 0 or above 1, which no camera can produce.",
            "what should happen to a pixel that would become brighter than white?",
        ),
        "a scale a column": Mistake(
            _one_scale_per_column,
            "you scale the columns instead of the images, because broadcasting aligns the last "
            "axes.",
            "which shape aligns N values with the first axis of (N, C, H, W)?",
        ),
        "shift scaled too": Mistake(
            _shift_scaled_too,
            "you multiply the shift by the scale as well.",
            "in scale * pixel + shift, which operation comes first?",
        ),
        "about the mean": Mistake(
            _about_the_mean,
            "you scale the difference from the mean of the image, which changes the contrast. "
            "This exercise scales the pixels themselves.",
            "does the formula contain a mean?",
        ),
        "clamped between": Mistake(
            _clamped_between,
            "you clamp the pixels before you add the shift, so they can leave the range again.",
            "at which point should the pixels be clamped?",
        ),
        "in place": Mistake(
            _jitter_in_place,
            "your result is correct, but you change the caller's images.",
            "methods with a trailing underscore change their tensor in place, and so does `*=`",
        ),
    },
)


# --- choose_augmentations -------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A classification task, described by what augmentations do to its labels.

    An augmentation in neither attribute may be chosen or left out.

    Attributes:
        keeps: augmentations that preserve the label and must be chosen.
        breaks: augmentation that changes the label -> reason.
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
            "any rotation": "a 6 rotated by 180 degrees is a 9",
            "flip": "a mirrored 2 or 3 isn't a digit any more, and nobody will ever write one",
            "vertical flip": "a 2 then looks like a 5, and a 6 looks like a badly written 9",
        },
    ),
    "land use from satellites": Task(
        frozenset({"any rotation", "flip", "vertical flip", "shift"}), {}
    ),
    "heart on the left or on the right, in chest X-rays": Task(
        frozenset({"small rotation", "shift", "light"}),
        {
            "flip": "the mirror image of a heart on the left is a heart on the right",
            "vertical flip": "this is a mirror image too: turn it upright again, and the heart is "
            "on the other side",
        },
    ),
    "keep left or keep right, the signs": Task(
        frozenset({"small rotation", "shift", "light"}),
        {
            "any rotation": "'keep left' rotated by 180 degrees is 'keep right'",
            "flip": "the mirror image of 'keep left' is 'keep right'",
        },
    ),
    "ripe or green tomatoes": Task(
        frozenset({"any rotation", "flip", "shift"}),
        {"hue": "the colour decides the label, and a shift in hue makes a green tomato look ripe"},
    ),
    "lens with or without a fine scratch": Task(
        frozenset({"any rotation", "flip", "light"}),
        {
            "blur": "blurring removes a fine scratch, but the label still says it is there",
            "erasing": "the rectangle can cover the scratch, but the label still says it is there",
        },
    ),
}


def _observe_choice(attempt: Callable[..., Any], seed: int) -> Observation:
    """Return the first problem: a wrong type or name, then a changed label, then an omission."""
    chosen = {task: attempt(task) for task in TASKS}
    not_a_set, unknown_name = "the result that isn't a set", "the unknown augmentation"
    breaking, omitted = "the augmentation that changes a label", "the missing augmentation"
    no_problem = dict.fromkeys((not_a_set, unknown_name, breaking, omitted), "none")
    for task, names in chosen.items():
        if not isinstance(names, set | frozenset | list | tuple):
            return no_problem | {not_a_set: f"{names!r} for {task}"}
        if unknown := sorted({str(name) for name in names} - set(AUGMENTATIONS)):
            return no_problem | {unknown_name: f"{unknown[0]} for {task}"}
    for task, names in chosen.items():
        for name in TASKS[task].breaks:
            if name in names:
                return no_problem | {breaking: f"{name} for {task}"}
    for task, names in chosen.items():
        if missing := sorted(TASKS[task].keeps - set(names)):
            return no_problem | {omitted: f"{missing[0]} for {task}"}
    return no_problem


def choose_augmentations(task: str) -> set[str]:
    """Return the augmentations that preserve the label of a task."""
    return set(TASKS[task].keeps)


def _wrong_choice(
    wrong_task: str,
    *,
    add: AbstractSet[str] = frozenset(),
    leave_out: AbstractSet[str] = frozenset(),
) -> Callable[[str], set[str]]:
    """Return a solution that is wrong for one task."""

    def attempt(task: str) -> set[str]:
        correct = choose_augmentations(task)
        return (correct | add) - leave_out if task == wrong_task else correct

    return attempt


BREAKING = {
    f"{name}, {task}": Mistake(
        _wrong_choice(task, add={name}),
        f"'{name}' changes the label in '{task}': {why}.",
        "could it turn one class into another, or into an image that belongs to no class?",
    )
    for task, effects in TASKS.items()
    for name, why in effects.breaks.items()
}
MISSING = {
    f"no {name}, {task}": Mistake(
        _wrong_choice(task, leave_out={name}),
        f"'{name}' preserves the label in '{task}', but you leave it out.",
        "would the changed image still have the same label, and could you meet such an image "
        "later?",
    )
    for task, effects in TASKS.items()
    for name in sorted(effects.keeps)
}

CHOICE = Exercise(
    name="choose_augmentations",
    task="`choose_augmentations(task) -> set of names` that preserve the label",
    observe=_observe_choice,
    answer=choose_augmentations,
    praise="None of your augmentations changes a label, and no safe one is missing.",
    mistakes=BREAKING | MISSING,
)

EXERCISES = (FLIP, JITTER, CHOICE)
