"""Patient 8: the optimizer still holds the head that was replaced."""

from dataclasses import replace

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import withheld_digits


HEAD = "    model.head = nn.Linear(128, 5)\n"
GENTLE = '    optimizer.param_groups[0]["lr"] = 0.0005'


def _observe(run: Run) -> dict[str, float]:
    """Measure the new task, the digits 5 to 9."""
    high = run.labels >= 5
    return classification(replace(run, images=run.images[high], labels=run.labels[high]))


RECORD = Record(
    complaint="On its old digits the network was superb, but it learns the new ones badly.",
    cause="optimizer lacks the new head",
    repairs={
        HEAD: HEAD + '    optimizer.param_groups[1]["params"] = list(model.head.parameters())\n'
    },
    wrong={
        "more epochs": {"epochs=10": "epochs=40"},
        "the whole backbone, fast": {"= 0.0005": "= 0.005"},
        "no momentum": {"momentum=0.9": "momentum=0.0"},
        "a head that starts at zero": {HEAD: f"{HEAD}    nn.init.zeros_(model.head.weight)\n"},
    },
    right={
        "a new optimizer": {
            GENTLE: (
                "    optimizer = torch.optim.SGD(\n"
                '        [{"params": model.backbone.parameters(), "lr": 0.0005},\n'
                '         {"params": model.head.parameters(), "lr": 0.02}], momentum=0.9)\n'
                "    # was: 0.0005"
            )
        },
        "a group more": {
            HEAD: HEAD
            + '    optimizer.add_param_group({"params": model.head.parameters(), "lr": 0.02})\n'
        },
        "the same parameters": {HEAD: "    model.head.reset_parameters()\n"},
    },
    world=withheld_digits,
    rules=(accurate(), honest(0.05), within_budget()),
    observe=_observe,
)
