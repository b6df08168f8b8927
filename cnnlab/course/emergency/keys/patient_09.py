"""Patient 9: `predict` leaves the batch norm in training mode."""

import torch

from cnnlab.course.emergency.examination import accuracy, classification, predictions
from cnnlab.course.emergency.records import Record, Rule, accurate, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import withheld_digits


BUNDLE = 5  # scans of the same digit that arrive together
NO_GRAD = "    with torch.no_grad():\n        return"


def _observe(run: Run) -> dict[str, float]:
    """Measure the accuracy on small bundles, each of scans of one digit."""
    facts, model = classification(run), run.result[0]
    correct = []
    for digit in range(10):
        for bundle in run.images[run.labels == digit].split(BUNDLE):
            if len(bundle) == BUNDLE:
                correct.append(accuracy(predictions(run, model, bundle), torch.tensor(digit)))
    return facts | {"accuracy": sum(correct) / len(correct)}


RECORD = Record(
    complaint="98 % in our tests. At the post office, whose bundles hold equal digits, it fails.",
    cause="batch norm in training mode at inference",
    repairs={NO_GRAD: f"    model.eval()\n{NO_GRAD}"},
    wrong={
        "no shuffling": {"batch_size=64, shuffle=True": "batch_size=64"},
        "smaller batches in training": {"train_set, batch_size=64": "train_set, batch_size=16"},
        "one large batch for validation": {"val_set, batch_size=100": "val_set, batch_size=999"},
        "inference mode": {"torch.no_grad()": "torch.inference_mode()"},
        "eval only for the report": {"    correct = sum": "    model.eval()\n    correct = sum"}
        | {"    return model, correct": "    model.train()\n    return model, correct"},
    },
    right={
        "eval at the end of training": {"    correct = sum": "    model.eval()\n    correct = sum"},
        "one by one, in evaluation mode": {
            "return model(images.unsqueeze(1) / 16)": (
                "return torch.cat([model.eval()(x[None, None] / 16) for x in images])"
            )
        },
        "group norm": {
            "nn.BatchNorm2d(16)": "nn.GroupNorm(4, 16)",
            "nn.BatchNorm2d(32)": "nn.GroupNorm(4, 32)",
            "nn.BatchNorm1d(128)": "nn.GroupNorm(4, 128)",
        },
    },
    world=withheld_digits,
    rules=(
        Rule(
            lambda own, twin: abs(own["reported"] - own["accuracy"]) <= 0.04,
            "it reports {own[reported]:.2f}, but in new bundles it gets {own[accuracy]:.2f}.",
        ),
        accurate(),
        within_budget(),
    ),
    observe=_observe,
    contract=(
        "train(seed) returns the model and the accuracy it reports. predict(model, images) returns "
        "the digits of new images, which come in bundles of five equal ones. Keep both, and the "
        "number of training steps."
    ),
)
