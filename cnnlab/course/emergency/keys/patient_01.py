"""Patient 1: the gradients of all batches add up."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import (
    Record,
    accurate,
    current_gradients,
    honest,
    within_budget,
)
from cnnlab.course.emergency.worlds import withheld_digits


BACKWARD = "            loss.backward()\n"

RECORD = Record(
    complaint="The accuracy goes up and down from epoch to epoch and never gets close to 90 %.",
    cause="missing zero_grad",
    repairs={BACKWARD: f"            optimizer.zero_grad()\n{BACKWARD}"},
    wrong={
        "smaller learning rate": {"lr=0.003": "lr=0.001"},
        "another optimizer": {
            "Adam(model.parameters(), lr=0.003)": "SGD(model.parameters(), 0.02)"
        },
        "clipping": {
            BACKWARD: f"{BACKWARD}            nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
        },
        "more epochs": {"epochs=6": "epochs=18"},
    },
    right={
        "cleared after the step": {
            "optimizer.step()\n": "optimizer.step()\n            optimizer.zero_grad()\n"
        },
        "a fresh gradient": {
            "            loss.backward()\n            optimizer.step()": (
                "            grads = torch.autograd.grad(loss, list(model.parameters()))\n"
                "            for p, grad in zip(model.parameters(), grads):\n"
                "                p.grad = grad\n"
                "            optimizer.step()"
            )
        },
    },
    world=withheld_digits,
    rules=(accurate(), honest(), within_budget(), current_gradients()),
    observe=classification,
)
