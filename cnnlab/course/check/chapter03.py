"""Check the exercises of chapter 3: random flips, a choice of augmentations, and random shifts.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from cnnlab.course.check.attempt import Raised
from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import generator


# --- random_flip ----------------------------------------------------------------------------------


CALLS, IMAGES = 32, 8  # many small batches reveal a single decision per batch
REPEATS = 8  # calls with a second generator in the same state


def _observe_flip(attempt: Callable[..., Any], seed: int) -> Observation:
    """Observe which images of many batches are mirrored, however the attempt draws its numbers."""
    small = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]])
    certain = {p: attempt(small.clone(), p, generator(seed, 3))[0, 0] for p in (1.0, 0.0)}
    images = torch.rand(IMAGES, 3, 5, 6, generator=generator(seed, 1))
    p = 0.25 if seed % 2 else 0.75
    first, second = generator(seed, 2), generator(seed, 2)
    results = [attempt(images.clone(), p, first) for _ in range(CALLS)]
    repeated = [attempt(images.clone(), p, second) for _ in range(REPEATS)]
    flipped = torch.stack(results)
    original, mirrored = _equal_images(flipped, images), _equal_images(flipped, images.flip(3))
    together = bool((mirrored.all(dim=1) | ~mirrored.any(dim=1)).float().mean() > 0.75)
    fraction = float(mirrored.float().mean())
    return {
        "your result for eight images": results[0] * 0,  # its type, shape and dtype
        **{
            f"the first channel of your result for [[1, 2], [3, 4]] with p={p:g}": result.tolist()
            for p, result in certain.items()
        },
        "some of your results are neither an image nor its mirror image.": not bool(
            (original | mirrored).all()
        ),
        "the same state of the generator gives different flips.": not all(
            map(torch.equal, results, repeated)
        ),
        "you mirror all images of a batch or none of them.": together,
        "you mirror equally many images in every batch: decide for each image alone.": (
            len(mirrored.sum(dim=1).unique()) == 1
        ),
        f"with p={p}, you mirror every image.": fraction == 1,
        f"with p={p}, you mirror no image.": fraction == 0,
        f"with p={p}, the fraction of mirrored images isn't near {p}.": (
            not together and abs(fraction - p) > 0.2
        ),
    }


def _equal_images(results: Tensor, images: Tensor) -> Tensor:
    """Compare the results of all calls with the images, image by image; bool (CALLS, N)."""
    return (results == images).flatten(2).all(dim=2)


def random_flip(images: Tensor, p: float, generator: Generator) -> Tensor:
    """Mirror each image (N, C, H, W) left to right with probability p, independently."""
    flip = torch.rand(len(images), generator=generator) < p
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def _one_decision(images, p, generator):  # type: ignore[no-untyped-def]
    return images.flip(3) if torch.rand((), generator=generator) < p else images


def _upside_down(images, p, generator):  # type: ignore[no-untyped-def]
    flip = torch.rand(len(images), generator=generator) < p
    return torch.where(flip[:, None, None, None], images.flip(2), images)


def _order_reversed(images, p, generator):  # type: ignore[no-untyped-def]
    flip = torch.rand(len(images), generator=generator) < p
    return torch.where(flip[:, None, None, None], images.flip(0), images)


def _flips_all(images, p, generator):  # type: ignore[no-untyped-def]
    return images.flip(3)


def _flips_none(images, p, generator):  # type: ignore[no-untyped-def]
    flip = torch.rand(len(images), generator=generator) < p
    images[flip].flip(3)
    return images.clone()


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
    hint="which values change places in a mirror image, and when does an image get one?",
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
        "order of the batch reversed": Mistake(
            _order_reversed,
            "you reverse the order of the images in the batch instead of mirroring each of them.",
            "which axis of (N, C, H, W) does `flip(0)` reverse, and which runs from left to right?",
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
            "flip": "a mirrored 2 or 3 isn't a digit any more",
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
            "vertical flip": "turned upright again, it is a mirror image too",
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
        frozenset({"flip", "light"}),  # a rotation resamples, and may break a line of one pixel
        {
            "blur": "blurring removes a fine scratch, but the label still says it is there",
            "erasing": "the rectangle can cover the scratch, but the label still says it is there",
        },
    ),
}


def _observe_choice(attempt: Callable[..., Any], seed: int) -> Observation:
    chosen = {}
    for task in TASKS:
        names = attempt(task)
        if not isinstance(names, set | frozenset | list | tuple):
            raise TypeError  # the caller describes it
        chosen[task] = names
    unknown = {str(name) for names in chosen.values() for name in names} - {*AUGMENTATIONS}
    return {
        "the set of names that you return": unknown,
        **{
            f"'{name}' changes the label in '{task}'.": name in chosen[task]
            for task, effects in TASKS.items()
            for name in effects.breaks
        },
        **{
            f"'{name}' preserves the label in '{task}', but you leave it out.": name
            not in chosen[task]
            for task, effects in TASKS.items()
            for name in sorted(effects.keeps)
        },
    }


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
        "is the label still true afterwards?",
    )
    for task, effects in TASKS.items()
    for name, why in effects.breaks.items()
}
MISSING = {
    f"no {name}, {task}": Mistake(
        _wrong_choice(task, leave_out={name}),
        f"'{name}' preserves the label in '{task}', but you leave it out.",
        "would the label still be true, and could you meet such an image later?",
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
    hint="for each task: which augmentations leave the label as it is?",
    mistakes=BREAKING | MISSING,
)


# --- shift_each -----------------------------------------------------------------------------------


MOVES = ((1, -2), (-2, 1), (0, 3))  # (down, right) of each image
NEGATIVE = {  # (down, right) -> what to say if the attempt raises an error
    (
        -1,
        0,
    ): "your function raises an error for down=-1, right=0: negative offsets move up or left.",
    (
        0,
        -1,
    ): "your function raises an error for down=0, right=-1: negative offsets move up or left.",
}


def _observe_shift(attempt: Callable[..., Any], seed: int) -> Observation:
    """Observe how small images move, each by its own offsets."""
    small = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    seen: dict[str, Any] = dict.fromkeys(NEGATIVE.values(), False)
    for down, right in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        try:
            result = attempt(small.clone(), torch.tensor([down]), torch.tensor([right]))
        except Raised:
            if (down, right) not in NEGATIVE:
                raise
            return {**seen, NEGATIVE[down, right]: True}
        name = f"your result for the image [[1, 2], [3, 4]] with down={down}, right={right}"
        seen[name] = result.squeeze().tolist()
    # As many images as rows, so that broadcasting along the wrong axis raises no error.
    images = torch.arange(1.0, 13.0).view(1, 1, 3, 4) + torch.tensor([0.0, 50.0]).view(1, 2, 1, 1)
    images = images.repeat(3, 1, 1, 1)
    order = torch.randperm(3, generator=generator(seed, 4)).tolist()
    downs, rights = torch.tensor([MOVES[i] for i in order]).unbind(dim=1)
    result = attempt(images, downs, rights)
    for i, image in enumerate(result):
        name = f"the first channel of image {i} after down={downs[i]}, right={rights[i]}"
        seen[name] = image[0].tolist()
    alike = torch.equal(result[:, 1].clamp(min=50) - 50, result[:, 0])
    seen["the channels of an image move differently."] = not alike
    return {**seen, "your result for three images": result}


def shift_each(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image (N, C, H, W) by its own whole number of pixels, with black behind it."""
    n, _, height, width = images.shape
    rows = torch.arange(height) - down[:, None]  # (N, H): where each row comes from
    columns = torch.arange(width) - right[:, None]  # (N, W)
    inside_rows = (rows >= 0) & (rows < height)
    inside_columns = (columns >= 0) & (columns < width)
    moved = images[
        torch.arange(n)[:, None, None],
        :,
        rows.clamp(0, height - 1)[:, :, None],
        columns.clamp(0, width - 1)[:, None, :],
    ]  # (N, H, W, C)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    return moved.permute(0, 3, 1, 2) * inside[:, None]


def _wraps_around(images, down, right):  # type: ignore[no-untyped-def]
    moves = zip(images, down.tolist(), right.tolist(), strict=True)
    return torch.stack([image.roll((dy, dx), (1, 2)) for image, dy, dx in moves])


def _other_direction(images, down, right):  # type: ignore[no-untyped-def]
    return shift_each(images, -down, -right)


def _left_instead_of_right(images, down, right):  # type: ignore[no-untyped-def]
    return shift_each(images, down, -right)


def _moves_nothing(images, down, right):  # type: ignore[no-untyped-def]
    return images.clone()


def _axes_swapped(images, down, right):  # type: ignore[no-untyped-def]
    return shift_each(images, right, down)


def _moves_all_alike(images, down, right):  # type: ignore[no-untyped-def]
    return shift_each(images, down[:1].expand(len(down)), right[:1].expand(len(right)))


def _repeats_the_edge(images, down, right):  # type: ignore[no-untyped-def]
    n, _, height, width = images.shape
    rows = (torch.arange(height) - down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) - right[:, None]).clamp(0, width - 1)
    image = torch.arange(n)[:, None, None]
    return images[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _negative_indices(images, down, right):  # type: ignore[no-untyped-def]
    n, _, height, width = images.shape
    rows = torch.arange(height) - down[:, None]
    columns = torch.arange(width) - right[:, None]
    image = torch.arange(n)[:, None, None]
    moved = images[
        image, :, rows.clamp(max=height - 1)[:, :, None], columns.clamp(max=width - 1)[:, None, :]
    ].permute(0, 3, 1, 2)
    inside = (rows < height)[:, :, None] & (columns < width)[:, None, :]
    return moved * inside[:, None]


def _channels_last(images, down, right):  # type: ignore[no-untyped-def]
    return shift_each(images, down, right).permute(0, 2, 3, 1)


SHIFT = Exercise(
    name="shift_each",
    task="`shift_each(images, down, right) -> images`, with offsets per image",
    observe=_observe_shift,
    answer=shift_each,
    praise="Every image moves by its own offsets, and black pixels fill the space behind it.",
    hint="take one white pixel: where should it be afterwards, and where is it?",
    mistakes={
        "wraps around": Mistake(
            _wraps_around,
            "pixels that leave the image on one side come back on the other, as with torch.roll.",
            "which rows and columns of the result have no source inside the image?",
        ),
        "other direction": Mistake(
            _other_direction,
            "your images move up and left where they should move down and right.",
            "if an image moves down by one, which original row does row 2 of the result show?",
        ),
        "left instead of right": Mistake(
            _left_instead_of_right,
            "your images move left where they should move right.",
            "do you treat the columns in the same way as the rows?",
        ),
        "moves nothing": Mistake(
            _moves_nothing,
            "your images don't move at all.",
            "indexing returns a new tensor; what do you do with it?",
        ),
        "axes swapped": Mistake(
            _axes_swapped,
            "you move the images right by `down` and down by `right`.",
            "of the last two axes of (N, C, H, W), which one counts the rows?",
        ),
        "all alike": Mistake(
            _moves_all_alike,
            "you move all images of the batch by the offsets of the first one.",
            "`down` has one value per image; does your row index depend on the image?",
        ),
        "edge repeated": Mistake(
            _repeats_the_edge,
            "you fill the space behind an image with copies of its edge, and it should be black.",
            "clamping makes an index valid; how do you remember that it pointed outside?",
        ),
        "negative indices": Mistake(
            _negative_indices,
            "you treat sources beyond the last row or column as outside, but not those before the "
            "first. A negative index counts from the end.",
            "which values can `row - down` take, at both ends?",
        ),
        "channels last": Mistake(
            _channels_last,
            "your result has its channels last, (N, H, W, C).",
            "tensors as indices on both sides of a `:` move their axes to the front; which axis is "
            "last then?",
        ),
    },
)

EXERCISES = (FLIP, CHOICE, SHIFT)

PREDICTIONS = (
    Prediction(
        question="Gain from flips and shifts?",
        text=(
            "A small residual network learns from 5,000 photographs of CIFAR-10 for twenty "
            "epochs and reaches an accuracy of about 0.53 on new photographs. It's trained "
            "again with random flips and shifts by up to four pixels. By how much does the "
            "accuracy change? Give a difference, such as 0.02 or -0.02."
        ),
        answer=0.1,
        why=(
            "Without augmentation, the network classifies every training photograph correctly: "
            "it memorises. With flips and shifts it hardly ever sees the same image twice."
        ),
        section="More images than you have",
        within=0.03,
    ),
    Prediction(
        question="Best in unusual light?",
        text=(
            "Four networks are trained on clean traffic signs: without augmentation (none), "
            "with colour jitter (light), with zoom and shift, and with a horizontal flip. Which "
            "one is best on signs in unusual light?"
        ),
        answer="light",
        why="An augmentation helps against the shift that it imitates.",
        section="Each augmentation against its own shift",
        options=("none", "light", "zoom and shift", "flip"),
    ),
    Prediction(
        question="How does the flip change the accuracy on clean signs?",
        text=(
            "Some traffic signs differ only in their direction, such as keep left and keep "
            "right. By how much does training with horizontal flips change the accuracy on "
            "clean signs? Give a difference, such as 0.02 or -0.02."
        ),
        answer=-0.098,
        why=(
            "A flip turns one class into another here. An augmentation has to keep the label "
            "correct."
        ),
        section="Each augmentation against its own shift",
        within=0.05,
    ),
    Prediction(
        question="Best strength?",
        text=(
            "Four networks are trained with the same augmentations: at full strength throughout "
            "(constant), at half strength (half), growing from 0 to 1, and fading from 1 to 0. "
            "Which one is best on signs where everything shifts at once?"
        ),
        answer="growing",
        why=(
            "Growing beats fading with the same strengths, so their order matters. What helps "
            "may simply be that the hard images come last, while the learning rate falls to "
            "zero."
        ),
        section="Strength over time",
        options=("constant", "half", "growing", "fading"),
    ),
)
