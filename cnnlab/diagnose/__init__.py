"""First aid for a run that doesn't learn: what to measure, and what the results mean.

None of these functions changes the model, its running statistics or the random generators. Where
training is needed, a copy is trained.
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
