"""Where the data of a patient comes from, and new images of the same kind that it never sees."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor

from cnnlab.course.emergency.records import World
from cnnlab.rng import fold_in


WITHHELD = 500  # digits that `withheld_digits` keeps from the script


@contextmanager
def withheld_digits(admitted: ModuleType, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Let `sklearn.datasets.load_digits` return 1297 of the digits, and yield the other 500.

    The images are (500, 8, 8) with values from 0 to 16, as in scikit-learn's data set. The script
    gets its digits in an order drawn from the seed.
    """
    everything = datasets.load_digits()
    order = np.random.default_rng(fold_in(seed, 71)).permutation(len(everything.target))
    given, withheld = order[WITHHELD:], order[:WITHHELD]

    def load_digits(*, return_X_y: bool = False, **_: Any) -> Any:
        bunch = datasets._base.Bunch(
            data=everything.data[given],
            images=everything.images[given],
            target=everything.target[given],
            target_names=everything.target_names,
            DESCR=everything.DESCR,
        )
        return (bunch.data, bunch.target) if return_X_y else bunch

    with mock.patch.object(datasets, "load_digits", load_digits):
        images = torch.tensor(everything.images[withheld], dtype=torch.float32)
        yield images, torch.tensor(everything.target[withheld])


def drawn(function: str, *arguments: Any) -> World:
    """Return a world whose new images come from a function of the script, as it was admitted.

    Args:
        function: name of the script's function that makes data from a seed; the seed is its first
            argument, and it returns images and labels.
        arguments: further arguments, such as the number of images.
    """

    @contextmanager
    def world(admitted: ModuleType, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = getattr(admitted, function)(fold_in(seed, 72) % 2**31, *arguments)
        yield torch.as_tensor(images), torch.as_tensor(labels)

    return world
