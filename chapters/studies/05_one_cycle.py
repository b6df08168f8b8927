"""Compare one-cycle with a constant learning rate and with step decay.

What varies is the schedule and the number of epochs (two or six); two more
variants repeat the comparison with correct labels. Everything else is fixed:
3,000 signs of which 30 % have a wrong label, the architecture, SGD and
batches of 32. The results are the accuracies on 960 validation signs and on
the test set, all with correct labels.

Each schedule has its own peak learning rate: the one with the best mean after
six epochs with the seeds 100 and 101. The candidates were 0.03, 0.1, 0.3 and
0.6 for the constant learning rate, 0.1 and 0.3 for step decay, and 0.1, 0.3,
0.6 and 1 for one-cycle. They were not tuned again for two epochs, and the
learning rates for correct labels come from fewer trials with the same seeds.
This study has wrong labels because an earlier search with correct ones (2,000
to 6,000 signs, batches of 32 and 64, two weight decays) showed no difference
between one-cycle and a well-chosen constant learning rate.
"""

import math
from functools import partial

from common import cpu_trainer, run_study, seeded_resnet, sgd

import cnnlab
from cnnlab import schedules


SEEDS = 5
METRIC = "valid_acc"
PEAK = {"constant": 0.3, "step": 0.1, "one-cycle": 0.6}
PEAK_CLEAN = {"constant": 0.1, "one-cycle": 0.3}


def run(seed, *, name, epochs, lr, label_noise=0.3):
    """Train once; return validation accuracy and test accuracy."""
    data = cnnlab.load("pocket", n_train=3000, label_noise=label_noise)
    train = cnnlab.loader(data.train, 32, shuffle=True, seed=seed)
    steps = epochs * len(train)
    model = seeded_resnet(seed, len(data.classes))
    optimizer = sgd(model, lr)
    schedule, momentum = {
        "constant": (schedules.constant(), None),
        "step": (schedules.step(math.ceil(steps / 3)), None),
        "one-cycle": (
            schedules.one_cycle(steps),
            schedules.one_cycle_momentum(steps),
        ),
    }[name]
    scheduler = cnnlab.attach(optimizer, schedule, momentum)
    trainer = cpu_trainer(model, optimizer, seed, scheduler=scheduler)
    trainer.fit(train, epochs=epochs)
    return {
        f"{split}_acc": trainer.evaluate(cnnlab.loader(dataset, 256))["acc"]
        for split, dataset in (("valid", data.valid), ("test", data.test))
    }


VARIANTS = {
    f"{name}, {epochs} epochs": partial(run, name=name, epochs=epochs, lr=lr)
    for epochs in (2, 6)
    for name, lr in PEAK.items()
} | {
    f"{name}, clean labels": partial(
        run, name=name, epochs=6, lr=lr, label_noise=0.0
    )
    for name, lr in PEAK_CLEAN.items()
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
