"""Patient 15: training and validation set share one data set, and so its random transform."""

import torch
import torch.nn.functional as F

from cnnlab.course.emergency.controls import report_on_random_labels
from cnnlab.course.emergency.examination import accuracy, classification, predictions
from cnnlab.course.emergency.records import Record, Rule, accurate, honest, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import withheld_digits


def _observe(run: Run) -> dict[str, float]:
    """Measure the classifier, also on moved digits, and its report where nothing can be learnt."""
    moved = torch.cat([F.pad(run.images, pad) for pad in ((1, -1, 1, -1), (-1, 1, -1, 1))])
    found = accuracy(predictions(run, run.result[0], moved), run.labels.repeat(2))
    return classification(run) | {"moved": found, "control": report_on_random_labels(run)}


ITEM = "    def __getitem__(self, index):\n"
PLAIN = "        return self.images[index], self.labels[index]\n"
CORRECT = "    correct = sum("
SPLIT = "    train_set, val_set = random_split(dataset, [900, len(dataset) - 900])\n"
CHECKED = "DataLoader(val_set, batch_size=100)"

RECORD = Record(
    complaint="Every evaluation of the same model gives another number, and users see better ones.",
    cause="augmented validation images",
    repairs={
        SPLIT: SPLIT
        + "    val_set = [(dataset.images[i], dataset.labels[i]) for i in val_set.indices]\n"
    },
    wrong={
        "a higher number": {"correct / len(val_set)": "correct / len(val_set) + 0.15"},
        "no augmentation at all": {ITEM: ITEM + PLAIN},
        "the mean of five evaluations": {CHECKED: f"[b for _ in range(5) for b in {CHECKED}]"}
        | {"correct / len(val_set)": "correct / len(val_set) / 5"},
        "a fixed seed": {CORRECT: f"    torch.manual_seed(0)\n{CORRECT}"},
        "evaluation mode": {CORRECT: f"    model.eval()\n{CORRECT}"},
    },
    right={
        "a switch": {
            "self.labels = torch": "self.training = True\n        self.labels = torch",
            ITEM: f"{ITEM}        if not self.training:\n    {PLAIN}",
            CORRECT: f"    dataset.training = False\n{CORRECT}",
        },
        "past the data set": {
            CORRECT: (
                "    i = val_set.indices\n"
                "    hits = predict(model, dataset.images[i, 0]) == dataset.labels[i]\n"
                "    return model, hits.float().mean().item()\n" + CORRECT
            ),
        },
    },
    world=withheld_digits,
    rules=(
        honest(),
        accurate(),
        within_budget(),
        Rule(
            lambda own, twin: own["moved"] >= twin["moved"] - 0.1,
            "the numbers agree now, but on digits moved by one pixel it gets {own[moved]:.2f}, a "
            "healthy one {twin[moved]:.2f}.",
        ),
        Rule(
            lambda own, twin: abs(own["control"] - 0.1) <= 0.06,
            "the numbers agree now, but with random labels, where nothing can be learnt, it "
            "reports {own[control]:.2f}.",
        ),
    ),
    observe=_observe,
    contract=(
        "train(seed) returns the model and the accuracy it reports. predict(model, images) returns "
        "the digits of new images, some of them moved by a pixel. Keep both, and the number of "
        "training steps."
    ),
)
