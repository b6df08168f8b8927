"""Patient 7: the training images are sorted by class and never shuffled."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import withheld_digits


LOADER = "DataLoader(train_samples, batch_size=32)"
READ = "    train_samples, val_samples = read_folders()\n"

RECORD = Record(
    complaint="The loss falls in every epoch, but in the end it still misreads every fifth digit.",
    cause="data in sorted order",
    repairs={LOADER: LOADER.replace("32)", "32, shuffle=True)")},
    wrong={
        "smaller learning rate": {"lr=2e-3": "lr=2e-4"},
        "larger batches": {"batch_size=32": "batch_size=128"},
        "dropout": {"nn.Flatten(), ": "nn.Flatten(), nn.Dropout(0.5), "},
        "no batch norm": {
            " nn.BatchNorm2d(16),": "",
            " nn.BatchNorm2d(32),": "",
        },
        "more epochs": {"epochs=6": "epochs=20"},
    },
    right={
        "a random sampler": {
            LOADER: LOADER.replace(
                "32)", "32, sampler=torch.utils.data.RandomSampler(train_samples))"
            )
        },
        "shuffled once": {
            READ: READ
            + "    order = torch.randperm(len(train_samples)).tolist()\n"
            + "    train_samples = [train_samples[i] for i in order]\n"
        },
    },
    world=withheld_digits,
    rules=(accurate(), honest(), within_budget()),
    observe=classification,
)
