"""Runs of a script in a changed world, where the right number to report is known."""

from typing import Any
from unittest import mock

import numpy as np
from sklearn import datasets

from cnnlab.course.emergency.examination import number
from cnnlab.course.emergency.runs import Run
from cnnlab.rng import fold_in


def report_on_random_labels(run: Run) -> float:
    """Return the accuracy that a script reports where its digits have random labels.

    Nothing can be learnt there, so an honest report is close to 0.1.
    """
    load = datasets.load_digits
    rng = np.random.default_rng(fold_in(run.seed, 73))

    def load_digits(*, return_X_y: bool = False, **_: Any) -> Any:
        bunch = load()
        bunch.target = rng.permutation(bunch.target)
        return (bunch.data, bunch.target) if return_X_y else bunch

    with (
        mock.patch.object(datasets, "load_digits", load_digits),
        mock.patch.object(run.module, "load_digits", load_digits, create=True),
    ):
        return number(run.module.train(run.seed)[1], "accuracy")
