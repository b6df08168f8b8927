"""Patient 2: frames of the same sign are in the training and in the validation set."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import drawn


SPLIT = """    order = torch.randperm(len(x))
    train_idx, val_idx = order[: len(x) // 2], order[len(x) // 2 :]
"""
BY_SIGN = """    signs = torch.randperm(len(x) // 8)
    frames = torch.arange(len(x)).view(-1, 8)[signs]
    train_idx, val_idx = frames[: len(signs) // 2].flatten(), frames[len(signs) // 2 :].flatten()
"""
HALVES = """    train_idx, val_idx = torch.arange(len(x) // 2), torch.arange(len(x) // 2, len(x))
"""

RECORD = Record(
    complaint="We got 97 % on validation. On the road it gets hardly more than half of them.",
    cause="training images in validation",
    repairs={SPLIT: BY_SIGN},
    wrong={
        "more dropout": {"nn.Dropout(0.3)": "nn.Dropout(0.7)"},
        "weight decay": {"lr=2e-3": "lr=2e-3, weight_decay=1e-2"},
        "fewer epochs": {"range(8)": "range(4)"},
        "no exact copies": {
            SPLIT: SPLIT
            + "    copies = (torch.cdist(x[val_idx].flatten(1), x[train_idx].flatten(1)) < 0.5)\n"
            + "    val_idx = val_idx[~copies.any(1)]\n"
        },
    },
    right={
        "the first half of the signs": {SPLIT: HALVES},
        "one frame per sign in validation": {
            SPLIT: BY_SIGN + "    val_idx = val_idx.view(-1, 8)[:, 0]\n"
        },
    },
    world=drawn("load_frames"),
    rules=(honest(0.08), accurate(0.08), within_budget()),
    observe=classification,
    seeds=3,
)
