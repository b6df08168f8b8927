"""Patient 16: gradients are clipped while they are still multiplied by the loss scale."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, Rule, accurate, honest, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import withheld_digits


def _observe(run: Run) -> dict[str, float]:
    """Measure the classifier, and the gradients with which the optimizer steps."""
    norms = run.telemetry.norms or [0.0]
    return classification(run) | {"largest": max(norms)}


CLIP = '            nn.utils.clip_grad_norm_(model.parameters(), hparams["max_norm"])\n'

RECORD = Record(
    complaint="In single precision it learned at once. With the scaler, the loss doesn't move.",
    cause="clipping before unscaling",
    repairs={CLIP: f"            scaler.unscale_(optimizer)\n{CLIP}"},
    wrong={
        "no clipping": {CLIP: ""},
        "a larger learning rate": {'"lr": 0.1': '"lr": 2.0'},
        "a learning rate that undoes it": {'"lr": 0.1': '"lr": 6000.0'},
        "Adam": {
            'SGD(model.parameters(), hparams["lr"], hparams["momentum"])': (
                "Adam(model.parameters(), lr=0.005, eps=1e-12)"
            )
        },
        "looser clipping": {'"max_norm": 1.0': '"max_norm": 10.0'},
        "single precision with the scaler": {
            "            with autocast(DEVICE, dtype=torch.bfloat16):\n": (
                "            with autocast(DEVICE, enabled=False):\n"
            )
        },
    },
    right={
        "a scaled limit": {'hparams["max_norm"])\n': 'hparams["max_norm"] * scaler.get_scale())\n'},
        "without a scaler, which bfloat16 doesn't need": {
            "GradScaler(DEVICE)": "GradScaler(DEVICE, enabled=False)"
        },
    },
    world=withheld_digits,
    rules=(
        accurate(0.05),
        honest(),
        within_budget(),
        Rule(
            lambda own, twin: own["largest"] >= 0.01,
            "the accuracy is fine now, but no step sees a gradient with a norm above "
            "{own[largest]:.0e}; in a healthy one it reaches {twin[largest]:.1f}.",
        ),
        Rule(
            lambda own, twin: own["largest"] <= 1.05 * twin["largest"],
            "the accuracy is fine now, but the gradient of a step has norm {own[largest]:.1f}, "
            "and the limit was {twin[largest]:.1f}.",
        ),
    ),
    observe=_observe,
    contract=(
        "train(seed) returns the model and the accuracy it reports. predict(model, images) returns "
        "the digits of new images. Keep both, the gradient clipping at norm 1, and the number of "
        "training steps."
    ),
)
