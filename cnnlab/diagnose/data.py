"""Look for what spoils training in the data: pixel values, constant images, duplicates, labels."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cnnlab.diagnose.finding import Finding


def check_data(dataset: Any, limit: int = 2000) -> list[Finding]:
    """Look for what spoils training before it begins: values, constants, copies, labels.

    Args:
        dataset: items are (image, label); the image float (C, H, W), meant to lie in [0, 1].
        limit: samples to look at, spread evenly over the data set.

    Returns:
        The findings; an empty list when nothing was seen.

    >>> from torch.utils.data import TensorDataset
    >>> [f.name for f in check_data(TensorDataset(torch.full((4, 1, 2, 2), 200.0), torch.arange(4)))]
    ['range', 'constant images', 'duplicates']
    """
    if len(dataset) == 0:
        return [
            Finding("empty", "the data set holds no image", "there is nothing to learn", "add data")
        ]
    step = max(1, math.ceil(len(dataset) / limit))
    items = [dataset[i] for i in range(0, len(dataset), step)]
    images = [torch.as_tensor(image) for image, _ in items]
    labels = torch.tensor([int(label) for _, label in items])
    return [f for f in (*_look_at_images(images), *_look_at_labels(labels, dataset)) if f]


def _look_at_images(images: list[Tensor]) -> Iterator[Finding | None]:
    low = min(float(image.min()) for image in images)
    high = max(float(image.max()) for image in images)
    broken = sum(not image.isfinite().all() for image in images)
    flat = sum(float(image.min()) == float(image.max()) for image in images)
    shapes = {tuple(image.shape) for image in images}
    copies = len(images) - len({image.numpy().tobytes() for image in images})
    if broken:
        yield Finding(
            "not finite",
            f"{broken} of {len(images)} images hold NaN or infinity",
            "one of them makes every weight NaN",
            "find and remove them",
        )
    elif low < -0.01:
        yield Finding(
            "normalised already",
            f"pixels run from {low:.3g} to {high:.3g}",
            "the models normalise by themselves; twice is once too often",
            "leave the pixels in [0, 1]",
        )
    elif high > 1.5:
        yield Finding(
            "range",
            f"pixels run from {low:.3g} to {high:.3g}",
            "the models and augmentations expect [0, 1]; large inputs make large gradients",
            "divide by 255",
        )
    if len(shapes) > 1:
        yield Finding(
            "shapes",
            f"there are {len(shapes)} shapes, such as {sorted(shapes)[:3]}",
            "a batch holds images of one shape",
            "resize and crop them: from_folder(path, size=...)",
        )
    if flat:
        yield Finding(
            "constant images",
            f"{flat} of {len(images)} images have one value everywhere",
            "they teach nothing and may be files that failed to load",
            "look at them",
        )
    if copies > len(images) // 100:
        yield Finding(
            "duplicates",
            f"{copies} of {len(images)} images are copies of others",
            "a copy in training and validation makes the validation too good",
            "remove copies before splitting",
        )


def _look_at_labels(labels: Tensor, dataset: Any) -> Iterator[Finding | None]:
    classes = len(getattr(dataset, "classes", ())) or int(labels.max()) + 1
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        yield Finding(
            "labels out of range",
            f"labels run from {int(labels.min())} to {int(labels.max())}, there are {classes} classes",
            "the loss cannot be computed; on CUDA the process dies",
            "number the classes from 0",
        )
        return
    counts = torch.bincount(labels, minlength=classes)
    if (counts == 0).any():
        missing = (counts == 0).nonzero().flatten().tolist()
        yield Finding(
            "missing classes",
            f"no sample of class {missing[:5]} among {len(labels)}",
            "a class without samples is never predicted",
            "check the folders and the split",
        )
    elif counts.max() > 10 * counts.min():
        yield Finding(
            "imbalance",
            f"the largest class has {int(counts.max())} samples, the smallest {int(counts.min())}",
            "accuracy hides the rare classes",
            "look at per-class recall; class_weights or balanced_sampler",
        )
