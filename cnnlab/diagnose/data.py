"""Check a data set for problems that spoil training, one function per kind of problem.

The data set is read into images and labels, as far as it has the form that training needs. Each
check gets a sample of them and returns a finding, or None if all is well.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from cnnlab.data.samplers import sampler_of
from cnnlab.diagnose.finding import Finding
from cnnlab.rng import fork_rng, generator


UNLABELLED = -100  # torch's cross-entropy leaves this label out


def check_data(dataset: Any, limit: int = 2000) -> list[Finding]:
    """Check pixel values, image shapes, duplicates and labels before you train.

    Args:
        dataset: its items are (image, label). An image is a float tensor (C, H, W) that should lie
            in [0, 1], a label is an integer. A loader stands for its data set, and a bundle for its
            training, validation and test set.
        limit: the largest number of samples to check, spread evenly over the data set.

    Returns:
        The findings; an empty list if there are none. Whatever `fit` would refuse is among them.

    >>> from torch.utils.data import TensorDataset
    >>> images, labels = torch.full((4, 1, 2, 2), 200.0), torch.arange(4)
    >>> [finding.name for finding in check_data(TensorDataset(images, labels))]
    ['range', 'constant images', 'duplicates']
    """
    if hasattr(dataset, "train") and hasattr(dataset, "valid"):
        splits = {name: getattr(dataset, name, None) for name in ("train", "valid", "test")}
        return [
            replace(finding, seen=f"{name} set: {finding.seen}")
            for name, split in splits.items()
            if split is not None
            for finding in check_data(split, limit)
        ]
    shuffled = _is_shuffled(dataset)
    if hasattr(dataset, "batch_size") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    items, problem = _read(dataset, limit)
    if problem is not None:
        return [problem]
    n_classes = len(getattr(dataset, "classes", ()) or ())
    images, findings = _images([image for image, _ in items])
    labels, problem = _class_indices([label for _, label in items])
    findings.append(problem)
    if labels is not None:
        if images is not None:
            findings.append(check_contradictions(images, labels))
        findings.append(check_labels(labels, n_classes))
        findings.append(None if shuffled else check_order(labels))
    return [finding for finding in findings if finding is not None]


def _is_shuffled(loader: Any) -> bool:
    """Return whether this is a loader that shuffles, so that the order of the data is no matter."""
    return bool(getattr(loader, "shuffle", False)) or isinstance(sampler_of(loader), RandomSampler)


def _read(dataset: Any, limit: int) -> tuple[list[tuple[Any, Any]], Finding | None]:
    """Return up to `limit` items of a data set, in its order; or why there are none."""
    indexed = hasattr(dataset, "__getitem__") and isinstance(dataset, Sized)
    if isinstance(dataset, Tensor | np.ndarray | str | Mapping) or not (
        indexed or isinstance(dataset, Iterable)
    ):
        return [], _not_a_data_set(f"a {type(dataset).__name__}")
    if isinstance(dataset, tuple) and all(map(_is_array, dataset)):
        return [], _not_a_data_set(f"a tuple of {len(dataset)} arrays")
    items: list[Any] = []
    if indexed:
        indices = torch.arange(len(dataset))
        if len(dataset) > limit:  # at random, because the labels may repeat at regular intervals
            indices = torch.randperm(len(dataset), generator=generator(0))[:limit].sort().values
        for i in indices.tolist():
            try:
                with fork_rng():
                    items.append(dataset[i])
            except Exception as error:  # noqa: BLE001 - whatever the data set raises
                what = f"{type(error).__name__}: {error}"
                return [], Finding(
                    "unreadable",
                    f"item {i} raises {what:.200}",
                    "training would stop with this error",
                    f"run dataset[{i}], and repair or remove this sample",
                )
    else:
        items = list(islice(dataset, limit))
    if not items:
        return [], Finding(
            "empty", "the data set has no samples", "there is nothing to learn", "add data"
        )
    odd = [item for item in items if not (isinstance(item, tuple | list) and len(item) == 2)]
    if odd:
        return [], Finding(
            "items",
            f"{len(odd)} of {len(items)} items are not a pair, such as {_describe(odd[0])}",
            "training needs (image, label)",
            "wrap the data set in one whose __getitem__ returns (image, label)",
        )
    image, label = items[0]
    if isinstance(image, Tensor) and image.ndim == 4 and isinstance(label, Tensor) and label.ndim:
        return [], _not_a_data_set("a list of whole batches")
    return items, None


def _not_a_data_set(what: str) -> Finding:
    return Finding(
        "not a data set",
        f"got {what}",
        "check_data looks at single items (image, label)",
        "pass the data set itself; from arrays, make one with TensorDataset(images, labels)",
    )


def _describe(item: Any) -> str:
    """Return what an item is, in a few words."""
    if isinstance(item, Mapping):
        return f"a dictionary with the keys {', '.join(map(repr, item))[:60]}"
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of {len(item)}"
    if isinstance(item, Tensor | np.ndarray):
        return f"a {type(item).__name__} of shape {tuple(item.shape)}"
    return f"a {type(item).__name__}"


def _images(raw: list[Any]) -> tuple[list[Tensor] | None, list[Finding | None]]:
    """Return the images as tensors if they are arrays, and what the checks found in them."""
    images = [_as_tensor(image) for image in raw if _is_array(image)]
    if len(images) < len(raw):
        odd = next(image for image in raw if not _is_array(image))
        no_arrays = Finding(
            "not tensors",
            f"{len(raw) - len(images)} of {len(raw)} images are no arrays of numbers, such as "
            f"{_describe(odd)}",
            "a loader can't join them to a batch",
            "transform=torchvision.transforms.ToTensor() in the data set",
        )
        return None, [no_arrays]
    layout = check_layout(images)
    if layout is not None and not all(image.numel() for image in images):
        return None, [layout]
    return images, [layout, *(check(images) for check in IMAGE_CHECKS)]


def _is_array(value: Any) -> bool:
    """Return whether a value is a tensor, or an array that can become one."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf"
    return isinstance(value, Tensor) and not value.is_complex()


def _as_tensor(value: Any) -> Tensor:
    """Return an array or a number as a tensor of a type that every function of torch takes."""
    if isinstance(value, np.ndarray | np.generic):
        value = np.array(value, dtype=value.dtype.newbyteorder("="))
    tensor = torch.as_tensor(value).detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.float()
    # of the unsigned types torch can compute with one only
    return tensor.long() if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64) else tensor


def check_layout(images: list[Tensor]) -> Finding | None:
    """Check that images are (C, H, W), with the channels first, and that none is empty."""
    why = "a convolution takes (N, C, H, W)"
    for image in images:
        shape = tuple(image.shape)
        if not image.numel():
            return Finding("layout", f"an image of shape {shape} is empty", why, "remove it")
        if image.ndim == 2:
            seen = f"images have shape {shape}, without a channel dimension"
            return Finding("layout", seen, why, "image[None], for one grey channel")
        if image.ndim == 3 and shape[-1] in (1, 3, 4) and min(shape[:2]) > 4:
            seen = f"images have shape {shape}, with the channels last"
            return Finding("layout", seen, why, "image.permute(2, 0, 1)")
        if image.ndim not in (1, 3):
            seen = f"images have shape {shape}"
            return Finding("layout", seen, why, "return one image (C, H, W) per item")
    return None


def check_pixels(images: list[Tensor]) -> Finding | None:
    """Check that the pixels are finite, lie in [0, 1] and use more than a tenth of this range."""
    n_broken = sum(not image.isfinite().all() for image in images)
    if n_broken:
        return Finding(
            "not finite",
            f"{n_broken} of {len(images)} images contain NaN or infinity",
            "a single one of them turns every weight into NaN",
            "find these images and remove them",
        )
    lows, highs = ([float(f(image)) for image in images] for f in (torch.min, torch.max))
    low, high = min(lows), max(highs)
    if low < -0.01:
        return Finding(
            "normalised already",
            f"pixels range from {low:.3g} to {high:.3g}",
            "the models normalise their input themselves, so it would be normalised twice",
            "leave the pixels in [0, 1]",
        )
    integers = sorted({str(x.dtype)[6:] for x in images if not x.is_floating_point()})
    if high > 1.5 or integers:
        kind = f", and are {', '.join(integers)}" if integers else ""
        return Finding(
            "range",
            f"pixels range from {low:.3g} to {high:.3g}{kind}",
            "the models and augmentations expect floats in [0, 1]; large inputs make large "
            "gradients",
            "divide by the largest possible value: 255, or 65535 for 16-bit images",
        )
    n_dark = sum(a < b < 0.1 for a, b in zip(lows, highs, strict=True))
    if n_dark > len(images) / 2:
        return Finding(
            "nearly black",
            f"no pixel is brighter than 0.1 in {n_dark} of {len(images)} images; the brightest "
            f"of all is {high:.3g}",
            "the model gets almost the same input for every image",
            "divide by 255 only once; divide 12-bit images in 16-bit files by 4095",
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


def check_contradictions(images: list[Tensor], labels: Tensor) -> Finding | None:
    """Check that copies of an image have the same label."""
    classes_of: dict[bytes, set[int]] = defaultdict(set)
    for image, label in zip(images, labels.tolist(), strict=True):
        if label != UNLABELLED and float(image.min()) < float(image.max()):
            classes_of[image.numpy().tobytes()].add(label)
    contradictions = [sorted(classes) for classes in classes_of.values() if len(classes) > 1]
    if not contradictions:
        return None
    return Finding(
        "contradictory labels",
        f"{len(contradictions)} images occur with different labels, such as {contradictions[0]}",
        "the model can't get both right, so it learns to be unsure",
        "look at these images, and keep the right label",
    )


def _class_indices(raw: list[Any]) -> tuple[Tensor | None, Finding | None]:
    """Return labels as int64 (N,) if they are class indices; or what is wrong with them.

    There are other targets that only a loss understands, and nothing is wrong with them: float
    vectors may be soft labels or several answers per image, arrays the classes of pixels.
    """
    numbers = (bool, int, float)
    odd = [label for label in raw if not (_is_array(label) or isinstance(label, numbers))]
    if odd:
        what = repr(odd[0])[:40] if isinstance(odd[0], str) else _describe(odd[0])
        return None, _wrong_labels(
            f"{len(odd)} of {len(raw)} labels are not numbers, such as {what}",
            "number the classes from 0: labels = [classes.index(name) for name in names]",
        )
    labels = [_as_tensor(label) for label in raw]
    n_bad = sum(not label.isfinite().all() for label in labels)
    if n_bad:
        return None, Finding(
            "labels not finite",
            f"{n_bad} of {len(labels)} labels are NaN or infinite",
            "the loss of such a sample is NaN",
            "remove the samples without a label",
        )
    shapes = {tuple(label.shape) for label in labels}
    shape = next(iter(shapes))
    floats = any(label.is_floating_point() for label in labels)
    if len(shapes) > 1:
        seen = f"labels have different shapes, such as {sorted(shapes)[:3]}"
        return None, _wrong_labels(seen, "return one integer per image")
    if len(shape) == 1 and shape[0] > 1 and all(map(_is_one_hot, labels)):
        return None, Finding(
            "one-hot labels",
            f"labels are one-hot vectors of {shape[0]} numbers",
            "class_weights, balanced_sampler and most metrics need class indices",
            "label.argmax() for a class index; label.float() for soft targets",
        )
    if len(shape) == 1 and not floats:
        advice = "label.float(), for a loss with several answers per image"
        seen = f"labels are vectors of {shape[0]} integers"
        if shape == (1,):
            advice, seen = "int(label)", "labels have shape (1,), so those of a batch have (N, 1)"
        return None, _wrong_labels(seen, advice)
    if shape == () and floats:
        example = next(label.item() for label in labels if label.is_floating_point())
        return None, _wrong_labels(
            f"labels are floats, such as {example:.3g}",
            "int(label), if it is a class; for a regression with MSELoss floats are right",
        )
    if shape == () and any(label.dtype == torch.bool for label in labels):
        return None, _wrong_labels("labels are True and False", "int(label)")
    return (torch.stack(labels).long() if shape == () else None), None


def _wrong_labels(seen: str, advice: str) -> Finding:
    return Finding("label type", seen, "the cross-entropy takes integers, one per image", advice)


def _is_one_hot(label: Tensor) -> bool:
    return bool(((label == 0) | (label == 1)).all() and label.sum() == 1)


def check_order(labels: Tensor) -> Finding | None:
    """Check that the samples don't come class by class."""
    known = labels[labels != UNLABELLED]
    counts = known.unique(return_counts=True)[1]
    changes = int((known[1:] != known[:-1]).sum())
    if len(known) < 10 or len(counts) < 2 or counts.min() < 2 or changes != len(counts) - 1:
        return None
    return Finding(
        "sorted by class",
        f"the {len(labels)} samples come class by class",
        "in this order a batch contains a single class, and the model forgets one class while it "
        "learns the next; folders of images are read like this, and shuffling is all they need",
        "cnnlab.loader(data, batch_size, shuffle=True) for training",
    )


def check_labels(labels: Tensor, num_classes: int) -> Finding | None:
    """Check that the labels are valid and that no class is missing or very rare.

    Args:
        labels: class indices (N,).
        num_classes: the number of classes; if it is 0, the largest label decides.
    """
    labels = labels[labels != UNLABELLED]
    if not len(labels):
        return Finding(
            "missing classes",
            f"every label is {UNLABELLED}, which means unlabelled",
            "there is nothing to learn from",
            "check how the labels are made",
        )
    lowest, highest = int(labels.min()), int(labels.max())
    num_classes = num_classes or highest + 1
    if lowest < 0 or highest >= num_classes:
        return Finding(
            "labels out of range",
            f"labels range from {lowest} to {highest}, but there are {num_classes} classes",
            "the loss can't be computed, and on CUDA the process crashes",
            "number the classes from 0",
        )
    classes, counts = labels.unique(return_counts=True)
    if len(classes) < num_classes:
        present = set(classes.tolist())
        missing = list(islice((k for k in range(num_classes) if k not in present), 5))
        return Finding(
            "missing classes",
            f"there is no sample of class {missing} among {len(labels)}",
            "a class without samples is never predicted",
            "check the folders and the split",
        )
    if num_classes == 1:
        return Finding(
            "one class",
            f"all {len(labels)} labels are {highest}",
            "there is nothing to tell apart, so any model reaches an accuracy of 1",
            "check the folders: each class needs one of its own",
        )
    if counts.max() > 10 * counts.min():
        return Finding(
            "imbalance",
            f"the largest class has {counts.max()} samples, the smallest has {counts.min()}",
            "the accuracy hides how the rare classes do",
            "look at the recall of each class; use class_weights or balanced_sampler",
        )
    return None
