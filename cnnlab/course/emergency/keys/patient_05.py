"""Patient 5: (N, 1) - (N,) is (N, N), so the network learns the mean."""

from cnnlab.course.emergency.examination import number, predictions
from cnnlab.course.emergency.records import Record, Rule, within_budget
from cnnlab.course.emergency.runs import Run, Unfit
from cnnlab.course.emergency.worlds import drawn


LOSS = "loss = ((model(x[i]) - pressure[i]) ** 2).mean()"
ERROR = "error = (model(x[600:]) - pressure[600:]).abs().mean()"


def _observe(run: Run) -> dict[str, float]:
    """Measure the mean absolute error that is reported, and the one on new gauges."""
    if not isinstance(run.result, tuple) or len(run.result) != 2:
        raise Unfit("doesn't return (model, mean absolute error) from train(seed).")
    model, reported = run.result
    error = (predictions(run, model) - run.labels).abs().mean().item()
    return {"reported": number(reported, "error"), "error": error}


RECORD = Record(
    complaint="Whatever the gauge shows, it reads about 5 bar.",
    cause="broadcasting in the loss",
    repairs={
        LOSS: "loss = ((model(x[i]).squeeze(1) - pressure[i]) ** 2).mean()",
        ERROR: "error = (model(x[600:]).squeeze(1) - pressure[600:]).abs().mean()",
    },
    wrong={
        "smaller learning rate": {"lr=3e-3": "lr=1e-3"},
        "only the report": {ERROR: ERROR.replace("model(x[600:])", "model(x[600:]).squeeze(1)")},
        "only the loss": {LOSS: LOSS.replace("model(x[i])", "model(x[i]).squeeze(1)")},
        "absolute error": {LOSS: "loss = (model(x[i]) - pressure[i]).abs().mean()"},
        "larger network": {
            "16 * 16, 64), nn.ReLU(), nn.Linear(64": "16 * 16, 256), nn.ReLU(), nn.Linear(256"
        },
    },
    right={
        "targets (N, 1)": {
            "x, pressure = draw_gauges(seed, 800)": (
                "x, pressure = draw_gauges(seed, 800)\n    pressure = pressure.unsqueeze(1)"
            )
        },
        "outputs (N,)": {"nn.Linear(64, 1),": "nn.Linear(64, 1), nn.Flatten(0),"},
    },
    world=drawn("draw_gauges"),
    rules=(
        Rule(
            lambda own, twin: abs(own["reported"] - own["error"]) <= 0.15,
            "it reports an error of {own[reported]:.2f} bar, but on new gauges the error is "
            "{own[error]:.2f} bar.",
        ),
        Rule(
            lambda own, twin: own["error"] <= 1.5 * twin["error"] + 0.1,
            "on new gauges its error is {own[error]:.2f} bar, that of a healthy one "
            "{twin[error]:.2f} bar.",
        ),
        within_budget(),
    ),
    observe=_observe,
    contract=(
        "train(seed) returns the model and the mean absolute error in bar that it reports. "
        "predict(model, images) returns one pressure per image. Keep both, and the number of steps."
    ),
    praise=(
        "it reports an error of {own[reported]:.2f} bar, and on new gauges it is "
        "{own[error]:.2f} bar."
    ),
)
