"""Callbacks for `fit`: early stopping, checkpoints, snapshots, gradual unfreezing, logs.

Each of these is a `Callback`, passed to `Trainer(callbacks=[...])`. Its state is saved in
checkpoints, so a run that was interrupted and resumed does what it would have done without the
interruption. Use one object per run; a run that starts from step 0 resets it.
"""

from cnnlab.callbacks.checkpointing import Checkpoint
from cnnlab.callbacks.early_stopping import EarlyStopping, replay
from cnnlab.callbacks.loggers import CSVLog, GradNormLog, TensorBoardLog, UpdateRatioLog
from cnnlab.callbacks.pruning import Prune
from cnnlab.callbacks.snapshots import SnapshotEnsemble
from cnnlab.callbacks.unfreezing import GradualUnfreeze
from cnnlab.training.progress import Progress


__all__ = [
    "CSVLog",
    "Checkpoint",
    "EarlyStopping",
    "GradNormLog",
    "GradualUnfreeze",
    "Progress",
    "Prune",
    "SnapshotEnsemble",
    "TensorBoardLog",
    "UpdateRatioLog",
    "replay",
]
