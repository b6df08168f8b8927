"""Patient 20: the sampler balances the classes, and the weights of the loss do it again."""

from cnnlab.course.emergency.examination import classification, predictions
from cnnlab.course.emergency.records import Record, Rule, accurate, honest, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import drawn


def _observe(run: Run) -> dict[str, float]:
    """Measure the classifier, and the fraction of castings that it calls flawed."""
    flawed = predictions(run, run.result[0]).float().mean().item()
    return classification(run) | {"flawed": flawed}


SAMPLER = "batch_size=60, sampler=sampler)"
WEIGHT = "weight=0.5 / frequency"

RECORD = Record(
    complaint="I did all I could for the rare flaws, and now it rejects most of the good castings.",
    cause="imbalance corrected twice",
    repairs={WEIGHT: ""},
    wrong={
        "neither": {WEIGHT: "", SAMPLER: "batch_size=60, shuffle=True)"},
        "more epochs": {"range(8)": "range(16)"},
        "label smoothing": {WEIGHT: f"{WEIGHT}, label_smoothing=0.1"},
        "smaller learning rate": {"lr=1e-2": "lr=3e-3"},
        "larger learning rate": {"lr=1e-2": "lr=3e-2"},
        "weights with mean 1": {WEIGHT: "weight=2 * (1 / frequency) / (1 / frequency).sum()"},
    },
    right={
        "only the weights": {SAMPLER: "batch_size=60, shuffle=True)"},
        "weights of one": {WEIGHT: "weight=torch.ones(2)"},
        "half of each": {
            WEIGHT: "weight=frequency.rsqrt()",
            "WeightedRandomSampler(1 / frequency[y]": "WeightedRandomSampler(frequency[y].rsqrt()",
        },
    },
    world=drawn("draw_castings", 1000, 0.5),
    rules=(
        accurate(0.07),
        honest(0.06),
        within_budget(),
        Rule(
            lambda own, twin: own["flawed"] <= twin["flawed"] + 0.15,
            "the accuracy is fine now, but it calls {own[flawed]:.0%} of the castings flawed, a "
            "healthy one {twin[flawed]:.0%}.",
        ),
    ),
    observe=_observe,
    seeds=3,
    contract=(
        "train(seed) returns the model and the accuracy it reports. predict(model, images) returns "
        "the classes of new images, half of them flawed. Keep both, and the number of training "
        "steps."
    ),
)
