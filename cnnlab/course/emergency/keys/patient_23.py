"""Patient 23: F.dropout doesn't know about model.eval(), so predictions are random."""

from cnnlab.course.emergency.examination import classification, predictions
from cnnlab.course.emergency.records import Record, Rule, accurate, honest, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import withheld_digits


def _observe(run: Run) -> dict[str, float]:
    """Measure the classifier, and how often it changes its mind about an image."""
    first, second = (predictions(run, run.result[0]) for _ in range(2))
    return classification(run) | {"changed": (first != second).float().mean().item()}


FIRST, SECOND = "F.dropout(torch.flatten(x, 1), 0.5)", "F.dropout(x, 0.5)"
LOGITS = "    return model.eval()(images.unsqueeze(1) / 16).argmax(dim=1)\n"

RECORD = Record(
    complaint="However long I train it, the accuracy stays below what such a network usually gets.",
    cause="dropout active at inference",
    repairs={
        FIRST: "F.dropout(torch.flatten(x, 1), 0.5, self.training)",
        SECOND: "F.dropout(x, 0.5, self.training)",
    },
    wrong={
        "more epochs": {"epochs=10": "epochs=30"},
        "only the second": {SECOND: "F.dropout(x, 0.5, self.training)"},
        "less of it": {FIRST: FIRST.replace("0.5", "0.2"), SECOND: SECOND.replace("0.5", "0.2")},
        "a seed in predict": {LOGITS: f"    torch.manual_seed(0)\n{LOGITS}"},
        "the mean of five": {
            LOGITS: "    x = images.unsqueeze(1) / 16\n"
            "    return sum(model.eval()(x).exp() for _ in range(5)).argmax(dim=1)\n"
        },
    },
    right={
        "as layers": {
            ", nn.Linear(64, 10)\n": (
                ", nn.Linear(64, 10)\n        self.dropout = nn.Dropout(0.5)\n"
            ),
            FIRST: "self.dropout(torch.flatten(x, 1))",
            SECOND: "self.dropout(x)",
        },
        "no dropout": {FIRST: "torch.flatten(x, 1)", f"        x = {SECOND}\n": ""},
    },
    world=withheld_digits,
    rules=(
        accurate(),
        honest(),
        within_budget(),
        Rule(
            lambda own, twin: own["changed"] <= 0.002,
            "the accuracy is fine now, but asked twice about the same images, it changes its mind "
            "on {own[changed]:.1%} of them.",
        ),
    ),
    observe=_observe,
    # Without any dropout there is no dropout at inference either: accepted, and said openly.
    praise=(
        "it reports {own[reported]:.2f}, and on new images it gets {own[accuracy]:.2f}. Dropout "
        "may stay or go, as long as predictions aren't random."
    ),
)
