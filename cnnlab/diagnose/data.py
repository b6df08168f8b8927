"""Check a data set for problems that spoil training, one function per kind of problem.

`IMAGE_CHECKS` and `check_labels` are applied to a sample of the data set. Each returns a finding,
or None if all is well.
"""

import math
from typing import Any

import torch
from torch import Tensor

from cnnlab.diagnose.finding import Finding


def check_data(dataset: Any, limit: int = 2000) -> list[Finding]:
    """Check pixel values, image shapes, duplicates and labels before you train.

    Args:
        dataset: its items are (image, label). An image is a float tensor (C, H, W) that should lie
            in [0, 1].
        limit: the largest number of samples to check, spread evenly over the data set.

    Returns:
        The findings; an empty list if there are none.

    >>> from torch.utils.data import TensorDataset
    >>> images, labels = torch.full((4, 1, 2, 2), 200.0), torch.arange(4)
    >>> [finding.name for finding in check_data(TensorDataset(images, labels))]
    ['range', 'constant images', 'duplicates']
    """
    if len(dataset) == 0:
        return [
            Finding("empty", "the data set has no samples", "there is nothing to learn", "add data")
        ]
    step = max(1, math.ceil(len(dataset) / limit))
    items = [dataset[i] for i in range(0, len(dataset), step)]
    images = [torch.as_tensor(image) for image, _ in items]
    labels = torch.tensor([int(label) for _, label in items])
    findings = [check(images) for check in IMAGE_CHECKS]
    findings.append(check_labels(labels, len(getattr(dataset, "classes", ()))))
    return [finding for finding in findings if finding is not None]


def check_pixels(images: list[Tensor]) -> Finding | None:
    """Check that the pixels are finite and lie in [0, 1]."""
    n_broken = sum(not image.isfinite().all() for image in images)
    if n_broken:
        return Finding(
            "not finite",
            f"{n_broken} of {len(images)} images contain NaN or infinity",
            "a single one of them turns every weight into NaN",
            "find these images and remove them",
        )
    low = min(float(image.min()) for image in images)
    high = max(float(image.max()) for image in images)
    if low < -0.01:
        return Finding(
            "normalised already",
            f"pixels range from {low:.3g} to {high:.3g}",
            "the models normalise their input themselves, so it would be normalised twice",
            "leave the pixels in [0, 1]",
        )
    if high > 1.5:
        return Finding(
            "range",
            f"pixels range from {low:.3g} to {high:.3g}",
            "the models and augmentations expect [0, 1]; large inputs make large gradients",
            "divide by 255",
        )
    return None


def check_shapes(images: list[Tensor]) -> Finding | None:
    """Check that all images have the same shape."""
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) == 1:
        return None
    return Finding(
        "shapes",
        f"there are {len(shapes)} different shapes, such as {sorted(shapes)[:3]}",
        "all images of a batch must have the same shape",
        "resize and crop them: from_folder(path, size=...)",
    )


def check_constant(images: list[Tensor]) -> Finding | None:
    """Check for images with the same value in every pixel."""
    n_constant = sum(float(image.min()) == float(image.max()) for image in images)
    if not n_constant:
        return None
    return Finding(
        "constant images",
        f"{n_constant} of {len(images)} images have the same value in every pixel",
        "they contain no information, and may be files that failed to load",
        "look at them",
    )


def check_duplicates(images: list[Tensor]) -> Finding | None:
    """Check that at most one image in a hundred is an exact copy of another."""
    n_copies = len(images) - len({image.numpy().tobytes() for image in images})
    if n_copies <= len(images) // 100:
        return None
    return Finding(
        "duplicates",
        f"{n_copies} of {len(images)} images are copies of others",
        "copies that end up in both training and validation make the validation too optimistic",
        "remove the copies before you split the data",
    )


# In the order in which the findings are reported.
IMAGE_CHECKS = (check_pixels, check_shapes, check_constant, check_duplicates)


def check_labels(labels: Tensor, num_classes: int) -> Finding | None:
    """Check that the labels are valid and that no class is missing or very rare.

    Args:
        labels: class indices (N,).
        num_classes: the number of classes; if it is 0, the largest label decides.
    """
    lowest, highest = int(labels.min()), int(labels.max())
    num_classes = num_classes or highest + 1
    if lowest < 0 or highest >= num_classes:
        return Finding(
            "labels out of range",
            f"labels range from {lowest} to {highest}, but there are {num_classes} classes",
            "the loss can't be computed, and on CUDA the process crashes",
            "number the classes from 0",
        )
    counts = torch.bincount(labels, minlength=num_classes)
    if (counts == 0).any():
        missing = (counts == 0).nonzero().flatten().tolist()
        return Finding(
            "missing classes",
            f"there is no sample of class {missing[:5]} among {len(labels)}",
            "a class without samples is never predicted",
            "check the folders and the split",
        )
    if counts.max() > 10 * counts.min():
        return Finding(
            "imbalance",
            f"the largest class has {counts.max()} samples, the smallest has {counts.min()}",
            "the accuracy hides how the rare classes do",
            "look at the recall of each class; use class_weights or balanced_sampler",
        )
    return None
