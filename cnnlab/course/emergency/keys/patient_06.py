"""Patient 6: the network ends with a softmax, and the cross-entropy applies another."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import withheld_digits


SOFTMAX = ", nn.Softmax(dim=1)"

RECORD = Record(
    complaint="After eight epochs it still misreads most digits, and the loss is above 2.",
    cause="softmax before cross-entropy",
    repairs={SOFTMAX: ""},
    wrong={
        "larger learning rate": {"LR = 0.05": "LR = 0.2"},
        "more epochs": {"EPOCHS = 8": "EPOCHS = 30"},
        "smaller batches": {"BATCH_SIZE = 64": "BATCH_SIZE = 16"},
        "Adam": {
            "SGD(model.parameters(), lr=LR, momentum=0.9)": "Adam(model.parameters(), lr=1e-3)"
        },
    },
    right={
        "log-softmax and negative log-likelihood": {
            "nn.Softmax(dim=1)": "nn.LogSoftmax(dim=1)",
            "nn.CrossEntropyLoss()": "nn.NLLLoss()",
        },
        "the loss of the probabilities": {
            "loss = criterion(model(x[batch]), y[batch])": (
                "loss = nn.functional.nll_loss(model(x[batch]).clamp_min(1e-9).log(), y[batch])"
            )
        },
    },
    world=withheld_digits,
    rules=(accurate(), honest(), within_budget()),
    observe=classification,
)
