"""Find out what wrong preprocessing costs a real network on photographs.

What varies is the preprocessing: another normalisation, none, the right one
twice, pixel values up to 255, or the channel order BGR. In another variant
the pixels are right, but the network is in training mode, with batches of 32,
as if somebody had forgotten to call eval(). Everything else is fixed: frozen
EfficientNet-Lite0 with ImageNet's weights and a linear probe, which is fitted
to 20 photographs per class of CIFAR-10, enlarged to 96 pixels. There are two
results, both on 1,000 test photographs: `served_acc`, for a probe that was
fitted to correctly preprocessed photographs and gets wrong ones only at
inference, and `fitted_acc`, for a probe that was fitted to photographs with
the same mistake.

Nothing was tuned. Each seed draws its own photographs; by chance, two seeds
share a tenth of their test photographs. The claims were written before this
study ran, after 09_pixels.py, which asks the same about glyphnet, and after a
trial with 100 test photographs of seed 101.

The table was computed on a copy of CIFAR-10 in JPEG format, because the
original files weren't on the machine. The script uses such a copy if the
environment variable CNNLAB_PHOTOS names its folder, and the original files
otherwise.
"""

from functools import lru_cache, partial

import torch
from common import imagenet_network, photographs, run_study
from torch import Tensor
from torch.utils.data import Dataset

import cnnlab
from cnnlab.data import DataBundle
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.transfer import linear_probe


SEEDS = 5
METRIC = "served_acc"
PER_CLASS, N_TEST = 20, 1000
RIGHT = "as in pretraining"
DECLARATION = Declaration(
    "What does wrong preprocessing cost a network trained on ImageNet?",
    claims=[
        Claim("BGR", "<", RIGHT, by=0.02),
        Claim("levels 0 to 255", "<", RIGHT, by=0.2),
        Claim("training mode", "<", RIGHT, by=0.02),
        Claim("ImageNet's numbers", "~", RIGHT, by=0.02),
    ],
    unit=fresh_data(),
    fixed="frozen EfficientNet-Lite0, logistic regression on its features, "
    "20 labelled photographs per class",
)


def correct(images: Tensor) -> Tensor:
    """Normalise pixels in [0, 1] as in the pretraining of the network."""
    return (images - 127 / 255) / (128 / 255)


def with_imagenet_numbers(images: Tensor) -> Tensor:
    """Normalise with the numbers that most other networks were given."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (images - mean) / std


def not_normalised(images: Tensor) -> Tensor:
    """Leave pixels in [0, 1]."""
    return images


def normalised_twice(images: Tensor) -> Tensor:
    """Normalise in the pipeline, and again in the model."""
    return correct(correct(images))


def levels(images: Tensor) -> Tensor:
    """Forget to divide by 255 before normalising."""
    return correct(255 * images)


def bgr(images: Tensor) -> Tensor:
    """Give the channels in the order blue, green, red."""
    return correct(images.flip(1))


@lru_cache(maxsize=1)
def splits(seed: int) -> DataBundle:
    """Return the photographs of a seed in random order, 96 x 96 pixels."""
    data = photographs(seed, PER_CLASS, N_TEST)
    rng = torch.Generator().manual_seed(seed)
    train, test = (
        split.select(torch.randperm(len(split), generator=rng))
        for split in (data.train, data.test)
    )
    data = DataBundle("photographs", train, data.valid, test)
    return data.transform(imagenet_network(seed, 10))


@torch.no_grad()
def features(seed: int, split: Dataset, prepare, training: bool) -> Tensor:
    """Return the inputs of the head, (N, 1280), for prepared pixels."""
    net = imagenet_network(seed, 10).net
    net.train(training)
    net.to(memory_format=torch.channels_last)  # faster
    batches = []
    for images, _ in cnnlab.loader(split, 32):
        maps = net.top(net.blocks(net.stem(prepare(images))))
        batches.append(maps.mean(dim=(2, 3)))
    return torch.cat(batches)


@lru_cache(maxsize=1)
def correct_features(seed: int) -> Tensor:
    """Return the features of the correctly prepared training photographs."""
    return features(seed, splits(seed).train, correct, training=False)


def served(
    seed: int, *, prepare=correct, training: bool = False
) -> dict[str, float]:
    """Fit one probe to correct features, one to wrong ones; test on wrong."""
    train_set, test_set = splits(seed).train, splits(seed).test
    wrong = features(seed, train_set, prepare, training)
    test = features(seed, test_set, prepare, training), test_set.labels
    fitted = linear_probe((wrong, train_set.labels), test)
    right = correct_features(seed), train_set.labels
    accuracies = {METRIC: linear_probe(right, test), "fitted_acc": fitted}
    return accuracies | budget(labels=len(train_set), steps=0)


VARIANTS = {
    RIGHT: served,
    "ImageNet's numbers": partial(served, prepare=with_imagenet_numbers),
    "not normalised": partial(served, prepare=not_normalised),
    "normalised twice": partial(served, prepare=normalised_twice),
    "levels 0 to 255": partial(served, prepare=levels),
    "BGR": partial(served, prepare=bgr),
    "training mode": partial(served, training=True),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
