"""Patient 12: the gradients of eight micro-batches are summed where their mean is meant."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import withheld_digits


BACKWARD = "            loss.backward()\n"
STEP = "                optimizer.step()\n"

RECORD = Record(
    complaint="With the settings of the large GPU, the small one gets much worse results.",
    cause="accumulation without division",
    repairs={BACKWARD: "            (loss / ACCUMULATE).backward()\n"},
    wrong={
        "no accumulation": {"MICRO_BATCH, ACCUMULATE = 16, 8": "MICRO_BATCH, ACCUMULATE = 16, 1"},
        "real batches of 8 times the size": {
            "MICRO_BATCH, ACCUMULATE = 16, 8": "MICRO_BATCH, ACCUMULATE = 128, 8"
        },
        "more epochs": {"EPOCHS = 0.1, 8": "EPOCHS = 0.1, 24"},
        "a smaller learning rate": {"EPOCHS = 0.1, 8": "EPOCHS = 0.06, 8"},
    },
    right={
        # Without weight decay, SGD can't tell a smaller gradient from a smaller learning rate.
        "an eighth of the learning rate": {"lr=LEARNING_RATE": "lr=LEARNING_RATE / ACCUMULATE"},
        "counted over all epochs": {
            BACKWARD: "            (loss / ACCUMULATE).backward()\n",
            "if step % ACCUMULATE == 0": "if (epoch * len(loader) + step) % ACCUMULATE == 0",
        },
        "a last step for the remainder": {
            BACKWARD: "            (loss / ACCUMULATE).backward()\n",
            "if step % ACCUMULATE == 0": "if step % ACCUMULATE == 0 or step == len(loader)",
        },
        "the gradients divided": {
            STEP: (
                "                for p in model.parameters():\n"
                "                    p.grad /= ACCUMULATE\n"
            )
            + STEP
        },
        "the loss as a sum over the effective batch": {
            "model(x[:, None] / 16), y)": (
                'model(x[:, None] / 16), y, reduction="sum") / (MICRO_BATCH * ACCUMULATE)'
            )
        },
    },
    world=withheld_digits,
    rules=(accurate(), honest(), within_budget()),
    observe=classification,
)
