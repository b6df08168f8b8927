"""Turn what people have at hand, such as numpy arrays or a pandas Series, into tensors."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


def as_tensor(values: Any) -> Tensor:
    """Return a tensor, an array, a Series or a list of numbers as a tensor; arrays are not copied.

    Raises:
        TypeError: it's something else, such as a data set.
        ValueError: it contains no numbers, or its rows have different lengths.
    """
    if isinstance(values, Tensor):
        return values.detach()
    if isinstance(values, list | tuple) and any(isinstance(v, Tensor) for v in values):
        return torch.stack([torch.as_tensor(v) for v in values])
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError("the rows have different lengths, so they form no array") from None
    if array.dtype == object and all(isinstance(v, int | np.integer) for v in array.flat):
        array = array.astype(np.int64)  # a nullable column of pandas
    if array.dtype.kind not in "biuf":
        if array.ndim == 0:
            raise TypeError(f"got {type(values).__name__}, which is neither an array nor a list")
        first = next(iter(array.flat), None)
        first = first.item() if isinstance(first, np.generic) else first
        raise ValueError(f"it contains {first!r}, which is not a number")
    if array.dtype.kind == "u" and array.itemsize > 1:  # torch can do little with uint16
        array = array.astype(np.int64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array = np.ascontiguousarray(array) if array.ndim else array
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def as_labels(labels: Any, *, whole_floats: bool = False) -> Tensor:
    """Return class indices as int64 (N,).

    Args:
        labels: integers of any type, (N,) or (N, 1): a tensor, an array, a Series or a list.
        whole_floats: also accept floats that are whole numbers.

    Raises:
        TypeError: it's something else, such as the data set that has the labels.
        ValueError: they are one-hot, text or floats.

    >>> as_labels(np.array([[2], [0]], np.uint8))
    tensor([2, 0])
    """
    for name in ("labels", "targets", "dataset", "train"):
        if hasattr(labels, name) and not hasattr(labels, "__array__"):
            labels_of = {"dataset": "dataset.labels", "train": "train.labels"}.get(name, name)
            raise TypeError(
                f"labels must be one class index per sample, got {type(labels).__name__}: pass "
                f"its labels, such as x.{labels_of}"
            )
    if isinstance(labels, Dataset):
        raise TypeError(
            f"labels must be one class index per sample, got {type(labels).__name__}: pass "
            "[label for _, label in x]"
        )
    try:
        values = as_tensor(labels)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"labels must be one class index per sample, but {error}. To number the classes: "
            "[classes.index(name) for name in names]"
        ) from None
    if not values.numel() and values.ndim == 1:
        return torch.zeros(0, dtype=torch.int64)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        one_hot = "; if they are one-hot, use labels.argmax(1)" if values.ndim == 2 else ""
        raise ValueError(
            f"labels must be one class index per sample, got shape {tuple(values.shape)}{one_hot}"
        )
    if values.is_floating_point() and not (whole_floats and bool((values == values.long()).all())):
        raise ValueError(
            f"class indices must be integers, got {_first_broken(values)} in {values.dtype}. If "
            "they are whole numbers, convert them: labels.long(), or labels.astype(int) in numpy"
        )
    return values.to("cpu", torch.int64)


def _first_broken(values: Tensor) -> str:
    """Return the first value that isn't whole, or else the first one."""
    broken = values[values != values.nan_to_num().long()]
    return f"{float(broken[0] if len(broken) else values[0]):g}"


def as_indices(indices: Any, n: int) -> Tensor:
    """Return indices into n samples as int64, from integers or from a mask of n truth values.

    Raises:
        TypeError: they are neither.
        ValueError: the mask has another length.

    >>> as_indices([False, True, True], 3)
    tensor([1, 2])
    """
    chosen = torch.arange(n)[indices] if isinstance(indices, slice) else as_tensor(indices)
    if not chosen.numel():
        return torch.zeros(0, dtype=torch.int64)
    if chosen.dtype == torch.bool:
        if chosen.shape != (n,):
            raise ValueError(
                f"a mask must have one boolean per sample, shape ({n},), got {tuple(chosen.shape)}"
            )
        return chosen.nonzero().flatten()
    if chosen.is_floating_point() or chosen.ndim != 1:
        raise TypeError(
            f"indices must be integers of shape (n,), got {chosen.dtype} of shape "
            f"{tuple(chosen.shape)}"
        )
    return chosen.to(torch.int64)


def as_pixels(images: Any) -> Tensor:
    """Return images as uint8 (N, C, H, W).

    Args:
        images: a tensor, an array or a list of images; (N, C, H, W), (N, H, W, C) if the channels
            can only be last, or grey (N, H, W). Integers of any type, in 0..255.

    Raises:
        ValueError: they have another shape, or aren't integers in 0..255.

    >>> as_pixels(np.zeros((4, 28, 28), np.uint8)).shape
    torch.Size([4, 1, 28, 28])
    """
    try:
        pixels = _stack(images)
    except (TypeError, ValueError) as error:
        raise ValueError(f"images must be uint8 of shape (N, C, H, W), but {error}") from None
    integers = not (pixels.is_floating_point() or pixels.dtype in (torch.bool, torch.uint8))
    if integers and pixels.numel() and int(pixels.min()) >= 0 and int(pixels.max()) <= 255:
        pixels = pixels.to(torch.uint8)
    if pixels.dtype != torch.uint8 or pixels.ndim not in (3, 4):
        raise ValueError(
            f"images must be uint8 of shape (N, C, H, W), got {pixels.dtype} of shape "
            f"{tuple(pixels.shape)}. To convert floats in [0, 1], use "
            "(x * 255).round().byte(), or (x * 255).round().astype('uint8') in numpy"
        )
    return channels_first(pixels if pixels.ndim == 4 else pixels[:, None])


def channels_first(images: Tensor) -> Tensor:
    """Return images (N, C, H, W), from (N, H, W, C) if the channels can only be last.

    >>> channels_first(torch.zeros(2, 28, 28, 3)).shape
    torch.Size([2, 3, 28, 28])
    """
    _, first, second, last = images.shape
    is_last = last <= 4 < min(first, second) or (first, second, last) == (4, 4, 3)
    return images.permute(0, 3, 1, 2).contiguous() if is_last else images


def _stack(images: Any) -> Tensor:
    """Return a list of images as one tensor, and anything else as it is."""
    if isinstance(images, list | tuple) and images and not isinstance(images[0], Tensor):
        shapes = {np.shape(image) for image in images}
        if len(shapes) > 1:
            raise ValueError(f"they have different shapes, such as {sorted(shapes)[:2]}")
    return as_tensor(images)


def is_array(values: Any) -> bool:
    """Return whether this is a tensor or an array with at least one axis."""
    return isinstance(values, Tensor | np.ndarray) and values.ndim > 0
