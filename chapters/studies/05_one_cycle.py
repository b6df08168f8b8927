"""One-cycle against a constant rate and step decay: at equal budget, at a third of it, and with clean labels.

3,000 signs of which 30 % bear a wrong label, batches of 32, judged on 960 validation signs with right labels. The peak rates have
the best mean of six epochs with the seeds 100 and 101, out of 0.03, 0.1, 0.3, 0.6 for the constant rate, 0.1, 0.3 for
step decay, and 0.1, 0.3, 0.6, 1 for one-cycle. They were not chosen again for two epochs. Those for clean labels come
from fewer trials with the same seeds. Wrong labels were taken after a search with right ones (2,000 to 6,000 signs,
batches of 32 and 64, two weight decays) in which one-cycle and a well-chosen constant rate came out even.
"""

import math
from functools import partial

import torch

import cnnlab
from cnnlab import schedules
from cnnlab.experiment import study

SEEDS = 5
METRIC = "valid_acc"
PEAK = {"constant": 0.3, "step": 0.1, "one-cycle": 0.6}
PEAK_CLEAN = {"constant": 0.1, "one-cycle": 0.3}


def run(seed, name, epochs, rate, label_noise=0.3):
    """Train once; return the accuracy on the validation part and, for comparison, on the test part."""
    data = cnnlab.load("pocket", n_train=3000, label_noise=label_noise)
    train = cnnlab.loader(data.train, 32, shuffle=True, seed=seed)
    steps = epochs * len(train)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(num_classes=len(data.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    schedule, momentum = {
        "constant": (schedules.constant(), None),
        "step": (schedules.step(math.ceil(steps / 3)), None),
        "one-cycle": (
            schedules.one_cycle(steps),
            schedules.one_cycle_momentum(steps),
        ),
    }[name]
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, schedule, momentum),
        seed=seed,
        device="cpu",
        progress=False,
    )
    trainer.fit(train, epochs=epochs)
    return {
        f"{part}_acc": trainer.evaluate(cnnlab.loader(images, 256))["acc"]
        for part, images in (("valid", data.valid), ("test", data.test))
    }


VARIANTS = {
    f"{name}, {epochs} epochs": partial(
        run, name=name, epochs=epochs, rate=rate
    )
    for epochs in (2, 6)
    for name, rate in PEAK.items()
} | {
    f"{name}, clean labels": partial(
        run, name=name, epochs=6, rate=rate, label_noise=0.0
    )
    for name, rate in PEAK_CLEAN.items()
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
