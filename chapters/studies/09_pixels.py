"""Find out what wrong preprocessing costs a pretrained network.

What varies is the preprocessing: other normalisations, pixel values up to
255, or the channel order BGR. Everything else is fixed: frozen glyphnet with
a linear probe, on digits with twenty labels per class. There are two results:
`test_acc`, for a probe that was fitted to images with the same preprocessing,
and `served_acc`, for a probe that was fitted to correctly preprocessed images
and gets wrong ones only at inference. Two more variants give RGB and BGR
images to a network that was trained on signs, where colour carries
information.

Nothing was tuned. The digits are split anew for every seed. The signs are
drawn anew, so for their two variants the intervals are wider than they need
to be. All results are accuracies, on 600 digits or 5,000 signs. The claims
were written after a first study and before this one ran. The first one used
other splits, and its intervals didn't take into account that splits share
digits.
"""

from functools import lru_cache, partial

import torch
from common import run_study, seeded_resnet, sgd, train
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import cnnlab
from cnnlab.data import ImageSet
from cnnlab.experiment import Claim, Declaration, budget, splits
from cnnlab.models.resnet import Normalize
from cnnlab.schedules import one_cycle


SEEDS = 8
FIRST = 1000  # added to every seed: the first study used 0 to 7
METRIC = "test_acc"
PER_CLASS = 20
RIGHT = "as in pretraining"
DECLARATION = Declaration(
    "What does wrong preprocessing cost a pretrained network?",
    claims=[
        Claim("levels 0 to 255", "<", RIGHT, by=0.1),
        Claim("levels 0 to 255", "<", RIGHT, by=0.2, metric="served_acc"),
        Claim("ImageNet's numbers", "~", RIGHT, by=0.02),
        Claim("BGR", "~", RIGHT, by=0.02),
        Claim("not normalised", ">", RIGHT),
        Claim("signs network, BGR", "<", "signs network, RGB", by=0.2),
    ],
    unit=splits(960, 600),
    fixed="frozen glyphnet, logistic regression on its features, 20 labelled "
    "digits per class; for the signs, one trained network per seed",
)
RGB, BGR = [0, 1, 2], [2, 1, 0]
IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@torch.no_grad()
def features(model, dataset: ImageSet, normalize, order: list[int]) -> Tensor:
    """Return the inputs of the head, (N, 96), with other preprocessing."""
    images = dataset.images[:, order].float() / 255
    return model.blocks(model.stem(normalize(images))).mean(dim=(2, 3))


def probes(seed: int, *, normalize=None, order=RGB) -> dict[str, float]:
    """Fit a probe to wrong images and one to correct ones; test on wrong."""
    data = cnnlab.load("digits", seed=FIRST + seed)
    train_set = data.subset(per_class=PER_CLASS, seed=FIRST + seed).train
    model = cnnlab.pretrained("glyphnet", 10).eval()
    correct = (model.normalize, RGB)
    wrong = (normalize or model.normalize, order)
    test = features(model, data.test, *wrong)
    accuracies = {}
    for name, settings in (("test_acc", wrong), ("served_acc", correct)):
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=5000)
        )
        x = features(model, train_set, *settings).double()
        probe.fit(x, train_set.labels)
        score = probe.score(test.double(), data.test.labels)
        accuracies[name] = float(score)
    return accuracies | budget(labels=len(train_set), steps=0)


@lru_cache(maxsize=1)
def signs_network(seed: int):
    """Train a small network on 960 signs; return trainer and test set."""
    data = cnnlab.load(
        "pocket", seed=FIRST + seed, n_train=960, n_valid=48, n_test=5000
    )
    model = seeded_resnet(FIRST + seed, len(data.classes))
    trainer = train(
        model,
        sgd(model, 0.1),
        data.train,
        batch_size=32,
        epochs=10,
        seed=seed,
        schedule=one_cycle,
    )
    return trainer, data.test


def signs(seed: int, *, order=RGB) -> dict[str, float]:
    """Evaluate the network of signs with another order of the channels."""
    trainer, test = signs_network(seed)
    reordered = ImageSet(test.images[:, order], test.labels, test.classes)
    accuracy = trainer.evaluate(cnnlab.loader(reordered, 256))["acc"]
    used = budget(labels=960, steps=trainer.step)
    return {"test_acc": accuracy, "served_acc": accuracy} | used


def normalise_twice(images: Tensor) -> Tensor:
    """Normalise images twice: once in the pipeline, once in the model."""
    return (((images - 0.45) / 0.25) - 0.45) / 0.25


def forget_division(images: Tensor) -> Tensor:
    """Normalise pixel values from 0 to 255, not divided by 255."""
    return (images * 255 - 0.45) / 0.25


VARIANTS = {
    RIGHT: probes,
    "ImageNet's numbers": partial(probes, normalize=IMAGENET),
    "not normalised": partial(probes, normalize=torch.nn.Identity()),
    "normalised twice": partial(probes, normalize=normalise_twice),
    "levels 0 to 255": partial(probes, normalize=forget_division),
    "BGR": partial(probes, order=BGR),
    "signs network, RGB": signs,
    "signs network, BGR": partial(signs, order=BGR),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
