"""Patient 11: a schedule over all steps advances once per epoch, so warm-up never ends."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, Rule, accurate, honest, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import withheld_digits


def _observe(run: Run) -> dict[str, float]:
    """Measure the classifier, and the learning rates of its steps."""
    lrs = run.telemetry.lrs or [0.0]
    return classification(run) | {"peak": max(lrs), "last": lrs[-1]}


STEP = "        scheduler.step()\n"
INNER = "        optimizer.step()\n"
CALL = "train_one_epoch(model, loader, optimizer)\n"

RECORD = Record(
    complaint="One-cycle is supposed to be fast, but after eight epochs the loss is still falling.",
    cause="scheduler stepped at the wrong time",
    repairs={
        "def train_one_epoch(model, loader, optimizer)": (
            "def train_one_epoch(model, loader, optimizer, scheduler)"
        ),
        INNER: INNER + STEP,
        f"        loss = {CALL}{STEP}": (
            "        loss = train_one_epoch(model, loader, optimizer, scheduler)\n"
        ),
    },
    wrong={
        "higher peak": {'"max_lr": 0.1': '"max_lr": 2.0'},
        "more epochs": {'"epochs": 8': '"epochs": 20'},
        "smaller batches": {'"batch_size": 32': '"batch_size": 8'},
        "no schedule": {STEP: "", "lr=0.01": "lr=0.1"}
        | {"    scheduler = OneCycleLR(": "    _ = lambda: OneCycleLR("},
    },
    right={
        "one step of the schedule per epoch, planned so": {
            'total_steps = config["epochs"] * len(loader)': 'total_steps = config["epochs"]',
        },
        "stepped in a hook": {
            STEP: "",
            "    for epoch in range": (
                "    optimizer.register_step_post_hook(lambda *_: scheduler.step())\n"
                "    for epoch in range"
            ),
        },
    },
    world=withheld_digits,
    rules=(
        accurate(0.03),
        honest(),
        within_budget(),
        Rule(
            lambda own, twin: own["last"] <= 0.2 * own["peak"],
            "the accuracy is fine now, but the learning rate of its last step is {own[last]:.2g}, "
            "where one-cycle ends near 0.",
        ),
    ),
    observe=_observe,
)
