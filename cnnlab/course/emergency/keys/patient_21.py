"""Patient 21: the best state is a reference to the weights, which training goes on changing."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import withheld_digits


STATE = "self.best_state = model.state_dict()"
REPORT = "    return model, early_stopping.best_score\n"
SCORE = "(predict(model, images[600:]) == labels[600:]).float().mean().item()"

RECORD = Record(
    complaint="Early stopping restores the best epoch's model, but it isn't as good as it was.",
    cause="best weights not copied",
    repairs={
        STATE: "self.best_state = {k: v.clone() for k, v in model.state_dict().items()}",
    },
    wrong={
        "a copy of the dictionary": {STATE: "self.best_state = dict(model.state_dict())"},
        "another evaluation at the end": {REPORT: f"    return model, {SCORE}\n"},
        "more patience": {"patience=20": "patience=40"},
        "detached": {
            STATE: "self.best_state = {k: v.detach() for k, v in model.state_dict().items()}"
        },
        "the last score": {REPORT: "    return model, score\n"},
    },
    right={
        "a deep copy": {STATE: 'self.best_state = __import__("copy").deepcopy(model.state_dict())'},
        "a copy of the model": {
            STATE: 'self.best_state = __import__("copy").deepcopy(model).state_dict()'
        },
    },
    world=withheld_digits,
    rules=(honest(0.06), accurate(0.05), within_budget()),
    observe=classification,
)
