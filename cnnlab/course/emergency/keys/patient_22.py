"""Patient 22: the first validation leaves the model in evaluation mode, so it trains in it."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import withheld_digits


LOOP = "    for _ in range(epochs):\n"
VALIDATE = "    model.eval()\n    hits"
RETURN = "    return torch.cat(hits).float().mean().item()\n"

RECORD = Record(
    complaint="My network has batch norm in every block, but it trains as if it had none.",
    cause="training mode not restored after validation",
    repairs={LOOP: f"{LOOP}        model.train()\n"},
    wrong={
        "smaller learning rate": {"lr=0.05": "lr=0.01"},
        "larger learning rate": {"lr=0.05": "lr=0.2"},
        "more epochs": {"epochs=6": "epochs=18"},
        "gradients requested": {"    model.train()\n": "    model.train().requires_grad_(True)\n"},
        "gradients off only": {VALIDATE: "    model.train(False)\n    hits"},
        "batch norm removed": {"nn.BatchNorm2d(c_out), ": ""},
    },
    right={
        "restored after validation": {
            RETURN: f"    model.train()\n{RETURN}",
        },
        "in every step": {
            "            optimizer.zero_grad()\n": (
                "            model.train()\n            optimizer.zero_grad()\n"
            ),
        },
        "a copy to validate": {
            VALIDATE: '    model = __import__("copy").deepcopy(model).eval()\n    hits',
        },
    },
    world=withheld_digits,
    rules=(accurate(), honest(), within_budget()),
    observe=classification,
)
