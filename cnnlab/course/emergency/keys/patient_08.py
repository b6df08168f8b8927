"""Patient 8: the optimizer still holds the head that was replaced."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor, nn

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, Rule, accurate, honest, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import withheld_digits


HEAD = "    model.head = nn.Linear(128, 5)\n"
GENTLE = '    optimizer.param_groups[0]["lr"] = 0.0005'


_starts: list[Tensor] = []  # the random initial weights of every linear layer of a run


@contextmanager
def _world(admitted: ModuleType, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Withhold digits, and write down how every linear layer starts."""
    reset = nn.Linear.reset_parameters

    def write_down(layer: nn.Linear) -> None:
        reset(layer)
        _starts.append(layer.weight.detach().clone())

    _starts.clear()
    written_down = mock.patch.object(nn.Linear, "reset_parameters", write_down)
    with written_down, withheld_digits(admitted, seed) as new:
        yield new


def _observe(run: Run) -> dict[str, float]:
    """Measure the new task, the digits 5 to 9, and count the weights that never moved."""
    high = run.labels >= 5
    facts = classification(replace(run, images=run.images[high], labels=run.labels[high]))
    weights = [m.weight for m in run.result[0].modules() if isinstance(m, nn.Linear)]
    still = [any(torch.equal(weight, start) for start in _starts) for weight in weights]
    return facts | {"untrained": float(sum(still))}


RECORD = Record(
    complaint="On its old digits the network was superb, but it learns the new ones badly.",
    cause="optimizer lacks the new head",
    repairs={
        HEAD: HEAD + '    optimizer.param_groups[1]["params"] = list(model.head.parameters())\n'
    },
    wrong={
        "more epochs": {"epochs=10": "epochs=40"},
        "the whole backbone, fast": {"= 0.0005": "= 0.005"},
        "the whole backbone, as fast as before": {"= 0.0005": "= 0.02"},
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
    world=_world,
    rules=(
        accurate(),
        honest(0.05),
        within_budget(),
        Rule(
            lambda own, twin: own["untrained"] == 0,
            "the accuracy is fine now, but a layer of the network still has the random weights it "
            "started with.",
        ),
    ),
    observe=_observe,
)
