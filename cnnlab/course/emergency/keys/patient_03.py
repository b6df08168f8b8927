"""Patient 3: the optimizer still decays the frozen layers, whose gradients are zero, not None."""

from cnnlab.course.emergency.examination import accuracy, classification
from cnnlab.course.emergency.records import Record, Rule, accurate, honest, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import withheld_digits


FREEZE = "        p.requires_grad = False\n"
OPTIMIZER = "SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-3)"


def _observe(run: Run) -> dict[str, float]:
    """Measure the old task, the digits 0 to 4, and the new one."""
    low = run.labels < 5
    old = Run(run.module, run.result, run.images[low], run.labels[low], run.telemetry, run.seed)
    model = run.result[0]
    new = run.module.predict(model, run.images[~low], "high")
    return classification(old) | {"new": accuracy(new, run.labels[~low])}


RECORD = Record(
    complaint="I froze everything that the old task needs, and still the old task got worse.",
    cause="frozen layers still updated",
    repairs={"p.grad.zero_()": "p.grad = None"},
    wrong={
        "smaller learning rate": {"lr=0.1": "lr=0.05"},
        "fewer epochs for the new task": {"epochs=40": "epochs=1"},
        "gradients not computed": {
            "model.body(x[i].flatten(1) / 16)), y[i])": (
                "model.body(x[i].flatten(1) / 16).detach()), y[i])"
            )
        },
    },
    right={
        "gradients of the frozen layers removed": {FREEZE: f"{FREEZE}        p.grad = None\n"},
        "zero_grad": {
            """            for p in model.parameters():
                if p.grad is not None:
                    p.grad.zero_()
""": "            optimizer.zero_grad()\n"
        },
        "a new optimizer for the head": {
            FREEZE: f"{FREEZE}    optimizer = torch.optim.{OPTIMIZER}\n".replace(
                "model.parameters()", "model.high.parameters()"
            )
        },
    },
    world=withheld_digits,
    rules=(
        honest(0.05),
        accurate(),
        Rule(
            lambda own, twin: own["new"] >= twin["new"] - 0.05,
            "on the digits 5 to 9 it gets {own[new]:.2f}, a healthy one {twin[new]:.2f}.",
        ),
        within_budget(),
    ),
    observe=_observe,
    contract=(
        "train(seed) returns the model and the accuracy on the old task that it reports. "
        "predict(model, images, task) returns the digits. Keep both, and the number of steps."
    ),
)
