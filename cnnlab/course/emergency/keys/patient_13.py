"""Patient 13: the one-hot targets start at 1, and index -1 is silently the last class."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import withheld_digits


RECORD = Record(
    complaint="94 % on validation, but the post office says it hasn't read one postcode correctly.",
    cause="labels shifted by one",
    repairs={"[y - 1]": "[y]"},
    wrong={
        "no mixup": {"EPOCHS, MIXUP = 10, 50, 8, 0.2": "EPOCHS, MIXUP = 10, 50, 8, 1e-4"},
        "more epochs": {"MIXUP = 10, 50, 8": "MIXUP = 10, 50, 20"},
        "the report against the digits": {"T[900:].argmax(1)": "torch.tensor(y[900:])"},
        "an eleventh class": {"EPOCHS, MIXUP = 10,": "EPOCHS, MIXUP = 11,"},
    },
    right={
        "shifted back in predict": {
            "model(images[:, None] / 16).argmax(dim=1)": (
                "(model(images[:, None] / 16).argmax(dim=1) + 1) % N_CLASSES"
            )
        },
        "another one-hot": {
            "torch.tensor(np.eye(N_CLASSES, dtype=np.float32)[y - 1])": (
                "F.one_hot(torch.tensor(y), N_CLASSES).float()"
            )
        },
    },
    world=withheld_digits,
    rules=(honest(), accurate(), within_budget()),
    observe=classification,
    contract=(
        "train(seed) returns the model and the accuracy it reports. predict(model, images) returns "
        "the digits 0 to 9. Keep both, and the number of training steps."
    ),
)
