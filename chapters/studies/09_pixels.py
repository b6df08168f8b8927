"""Pixels that are not what a network has learnt on: other normalisations, other levels, another order of the channels.

Frozen glyphnet on digits, twenty labels a class: `test_acc` with a probe that was fitted to the same wrong pixels,
`served_acc` with one that was fitted to the right ones and met the wrong ones later. Then a network that has learnt
from signs, whose colours tell something, and meets RGB or BGR. Nothing was tuned. Each seed draws images, labels and
weights anew.
"""

from functools import lru_cache, partial

import torch
from torch import Tensor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cnnlab
from cnnlab.data import ImageSet
from cnnlab.experiment import study
from cnnlab.models.resnet import Normalize


SEEDS = 8
METRIC = "test_acc"
PER_CLASS = 20
IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@torch.no_grad()
def features(model, part: ImageSet, front, order) -> Tensor:
    """What the head would receive, with another first layer and another order of the channels, (N, 96)."""
    images = part.images[:, order].float() / 255
    return model.blocks(model.stem(front(images))).mean(dim=(2, 3))


def probes(seed: int, *, front=None, order=(0, 1, 2)) -> dict[str, float]:
    """Fit one probe to the wrong pixels and one to the right ones; test both on the wrong ones."""
    data = cnnlab.load("digits", seed=seed)
    train = data.subset(per_class=PER_CLASS, seed=seed).train
    model = cnnlab.pretrained("glyphnet", 10).eval()
    wrong, right = (
        (front or model.normalize, list(order)),
        (model.normalize, [0, 1, 2]),
    )
    test = features(model, data.test, *wrong)
    found = {}
    for name, pixels in (("test_acc", wrong), ("served_acc", right)):
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=5000)
        )
        probe.fit(features(model, train, *pixels).double(), train.labels)
        found[name] = float(probe.score(test.double(), data.test.labels))
    return found


@lru_cache(maxsize=1)
def signs_network(seed: int):
    """A small network that has learnt 960 signs in RGB, and 480 test signs."""
    data = cnnlab.load(
        "pocket", seed=seed, n_train=960, n_valid=48, n_test=480
    )
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes))
    batches = cnnlab.loader(data.train, 32, shuffle=True, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = cnnlab.schedules.one_cycle(10 * len(batches))
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, schedule),
        seed=seed,
        device="cpu",
        progress=False,
    )
    trainer.fit(batches, epochs=10)
    return trainer, data.test


def signs(seed: int, *, order=(0, 1, 2)) -> dict[str, float]:
    """The network of signs meets test signs with their channels in this order."""
    trainer, test = signs_network(seed)
    turned = ImageSet(test.images[:, list(order)], test.labels, test.classes)
    accuracy = trainer.evaluate(cnnlab.loader(turned, 256))["acc"]
    return {"test_acc": accuracy, "served_acc": accuracy}


BGR = (2, 1, 0)


def twice(images: Tensor) -> Tensor:
    """What a pipeline that normalises hands to a model that normalises, too."""
    return (((images - 0.45) / 0.25) - 0.45) / 0.25


def levels(images: Tensor) -> Tensor:
    """Levels 0 to 255, which nobody divided."""
    return (images * 255 - 0.45) / 0.25


VARIANTS = {
    "as in pretraining": probes,
    "ImageNet's numbers": partial(probes, front=IMAGENET),
    "not normalised": partial(probes, front=torch.nn.Identity()),
    "normalised twice": partial(probes, front=twice),
    "levels 0 to 255": partial(probes, front=levels),
    "BGR": partial(probes, order=BGR),
    "signs network, RGB": signs,
    "signs network, BGR": partial(signs, order=BGR),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
