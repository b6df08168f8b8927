"""Check that a sampler belongs to the data set it is used with."""

from collections.abc import Iterable, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnlab.errors import DataError


def sampler_of(loader: Any) -> Any:
    """Return what chooses the samples of a loader, also inside a `BatchSampler`; or None."""
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    return getattr(loader, "sampler", None) if inner is None else inner


def check_sampler(sampler: Any, dataset: Any) -> None:
    """Refuse a sampler whose weights or indices belong to another data set.

    Raises:
        TypeError: it gives no indices, such as a number.
        DataError: it has another number of weights than the data set has samples, or an index that
            is too large, or was made for another number of samples.
    """
    if isinstance(sampler, str) or not (
        sampler is None or hasattr(sampler, "order") or isinstance(sampler, Iterable)
    ):
        raise TypeError(
            f"a sampler must give indices, such as balanced_sampler(labels) or [0, 2, 5]; got "
            f"{sampler!r:.60}. For a random order, use shuffle=True"
        )
    if sampler is None or not isinstance(dataset, Sized):
        return
    size, name = len(dataset), type(sampler).__name__
    weights, indices = getattr(sampler, "weights", None), getattr(sampler, "indices", None)
    if getattr(sampler, "num_replicas", 1) > 1:
        raise DataError(
            f"every process reads every batch and trains on its own samples of it, so {name} would "
            "divide them twice: use shuffle=True and no sampler"
        )
    if weights is not None and len(weights) != size:
        raise DataError(
            f"{name} has {len(weights)} weights, but the data set has {size} samples: make the "
            "sampler from the labels of this data set"
        )
    listed = indices if isinstance(indices, Sequence | Tensor | np.ndarray) else ()
    largest = int(torch.as_tensor(listed).max()) if len(listed) else 0
    if largest >= size:
        raise DataError(
            f"{name} draws index {largest}, but the data set has {size} samples, "
            f"0 to {size - 1}: make the sampler for this data set"
        )
    for attribute in ("data_source", "dataset"):  # torch's DistributedSampler has the second
        source = getattr(sampler, attribute, None)
        if isinstance(source, Sized) and len(source) != size:
            raise DataError(
                f"{name} was made for {len(source)} samples, but the data set has {size}: make "
                "the sampler for this data set"
            )
