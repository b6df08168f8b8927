"""Intervals and p-values of mean differences, and their correction for several claims."""

from collections.abc import Sequence
from math import isfinite, nan, sqrt

import numpy as np


LEVEL = 0.95
FEW = 5  # with fewer runs than this, a table shows the runs and no interval
FRACTIONS = {"acc", "accuracy", "recall", "precision", "f1", "map", "auc"}


def t_interval(
    values: np.ndarray, overlap: float = 0.0, level: float = LEVEL
) -> tuple[float, float, float]:
    """Compute the mean and the ends of its t interval, rounded to hide floating-point noise.

    Args:
        values: one value per run, (n,).
        overlap: n_test / n_train if the runs are random splits of one data set, else 0. Such runs
            share most of their images, and the variance of their mean is about
            s² (1/n + n_test/n_train) instead of s²/n (Nadeau & Bengio 2003, "Inference for the
            Generalization Error").
        level: the coverage.

    Returns:
        (mean, low, high). The ends are NaN for a single value, and if a value is NaN or infinite.
    """
    from scipy.stats import t  # installed with scikit-learn

    mean, error = _mean_and_error(values, overlap)
    if not isfinite(error):
        return mean, nan, nan
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * error
    return round(mean, 12), round(mean - half, 12), round(mean + half, 12)


def p_value(differences: np.ndarray, relation: str, by: float, overlap: float = 0.0) -> float:
    """Return twice the one-sided p-value of a claim about a mean difference.

    It is below 0.05 exactly if the whole 95 % interval agrees with the claim.

    Args:
        differences: one value per pair of runs, (n,).
        relation: ">" (the mean exceeds `by`), "<" (it is below `-by`) or "~" (it is between them,
            by two one-sided tests: Schuirmann 1987).
        by: the margin.
        overlap: as in `t_interval`.

    >>> round(p_value(np.array([0.1, 0.2, 0.3]), ">", 0.0), 3)
    0.074
    """
    from scipy.stats import t  # installed with scikit-learn

    mean, error = _mean_and_error(differences, overlap)
    distances = {">": [mean - by], "<": [-by - mean], "~": [mean + by, by - mean]}[relation]
    if error == 0:
        return 0.0 if min(distances) > 1e-12 else 1.0
    return min(1.0, 2 * float(t.sf(min(distances) / error, len(differences) - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of several claims so that all of them together err in 5 % of studies.

    The smallest of m values is multiplied by m, the next by m - 1, and so on; none may fall below
    an earlier one (Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure").

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def is_fraction(metric: str, values: np.ndarray) -> bool:
    """Return whether a metric is an accuracy or another fraction between 0 and 1.

    >>> is_fraction("valid_acc", np.array([0.8])), is_fraction("clean accuracy", np.array([0.8]))
    (True, True)
    >>> is_fraction("valid_loss", np.array([0.8]))
    False
    """
    within = bool(np.all((values >= 0) & (values <= 1)))
    return within and not FRACTIONS.isdisjoint(metric.lower().replace("_", " ").split())


def _mean_and_error(values: np.ndarray, overlap: float) -> tuple[float, float]:
    """Return the mean of the values and its standard error, which may be NaN."""
    if len(values) < 2 or not np.isfinite(values).all():
        return (float(values.mean()) if len(values) else nan), nan
    mean = float(values.mean())
    if np.ptp(values) < 1e-12 * max(1.0, abs(mean)):
        return mean, 0.0
    return mean, float(values.std(ddof=1)) * sqrt(1 / len(values) + overlap)
