"""Patient 4: `view` cuts channels-last images into pieces of rows."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import drawn


VIEW = "x.view(len(x), 3, 32, 32)"

RECORD = Record(
    complaint="With the same network and the same signs, my colleague gets far more of them right.",
    cause="view instead of permute",
    repairs={VIEW: "x.permute(0, 3, 1, 2)"},
    wrong={
        "larger learning rate": {"lr=1e-2": "lr=3e-2"},
        "more epochs": {"epochs=30": "epochs=90"},
        "reshape": {VIEW: "x.reshape(len(x), 3, 32, 32)"},
        "unflatten": {VIEW: "x.flatten(1).unflatten(1, (3, 32, 32))"},
    },
    right={
        "transposed images": {VIEW: "x.transpose(1, 3)"},
        "movedim": {VIEW: "x.movedim(-1, 1)"},
        "in numpy": {
            "torch.as_tensor(images).float()": (
                "torch.as_tensor(np.moveaxis(np.asarray(images), 3, 1).copy()).float()"
            )
        },
    },
    world=drawn("load_arrays"),
    rules=(accurate(), honest(0.1), within_budget()),
    observe=classification,
)
