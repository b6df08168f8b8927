"""First aid for a run that does not learn: what to measure, and what the measurement means.

None of these functions changes the model, its statistics or the random numbers: what has to be trained is a copy.
"""

from cnnlab.diagnose.curves import diagnose
from cnnlab.diagnose.data import check_data
from cnnlab.diagnose.finding import Finding
from cnnlab.diagnose.probes import (
    grad_norms,
    initial_loss,
    nan_hunt,
    overfit_one_batch,
    update_ratios,
)


__all__ = [
    "Finding",
    "check_data",
    "diagnose",
    "grad_norms",
    "initial_loss",
    "nan_hunt",
    "overfit_one_batch",
    "update_ratios",
]
