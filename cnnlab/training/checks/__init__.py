"""Everything the trainer refuses or warns about, from its options to a checkpoint.

Each message says what is wrong, what is allowed and what to type instead.
Where torch would raise a long traceback, or train on something wrong without a word, the check
comes first.
"""

from cnnlab.training.checks.batch import (
    as_inputs,
    as_targets,
    check_batch,
    check_class_indices,
    check_images,
    check_weighted_targets,
)
from cnnlab.training.checks.fit import (
    batch_layout,
    check_balance,
    check_classes,
    check_fit,
    check_loader,
    check_optimizer,
    check_same_batches,
    class_lists,
    last_batch_size,
    n_batches,
    one_step_note,
    sorted_labels,
)
from cnnlab.training.checks.look import FirstLook
from cnnlab.training.checks.options import PRECISIONS, as_device, check_options
from cnnlab.training.checks.record import check_keys, check_mode, check_number, check_plateau
from cnnlab.training.checks.schedule import check_learning_rates, check_schedule_length
from cnnlab.training.checks.step import (
    check_finite,
    check_finite_evaluation,
    check_loss,
    check_targets,
    loss_value,
    warn_if_not_finite,
)


__all__ = [
    "PRECISIONS",
    "FirstLook",
    "as_device",
    "as_inputs",
    "as_targets",
    "batch_layout",
    "check_balance",
    "check_batch",
    "check_class_indices",
    "check_classes",
    "check_finite",
    "check_finite_evaluation",
    "check_fit",
    "check_images",
    "check_keys",
    "check_learning_rates",
    "check_loader",
    "check_loss",
    "check_mode",
    "check_number",
    "check_optimizer",
    "check_options",
    "check_plateau",
    "check_same_batches",
    "check_schedule_length",
    "check_targets",
    "check_weighted_targets",
    "class_lists",
    "last_batch_size",
    "loss_value",
    "n_batches",
    "one_step_note",
    "sorted_labels",
    "warn_if_not_finite",
]
