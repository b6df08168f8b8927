"""The faults that the clinic plants, each with its evidence, the test that confirms it, and the cure."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnlab.course.clinic.plans import CLASSES, Pictures, Plan, cut
from cnnlab.data import loader
from cnnlab.models import replace_head, small_resnet
from cnnlab.rng import fork_rng, seed_at
from cnnlab.transfer import freeze


@dataclass(frozen=True)
class Fault:
    """One way to spoil a run.

    Attributes:
        plant: changes the plan of a healthy run.
        look: where on the table to look.
        shows: what is to be seen there.
        confirm: an experiment that tells it from what looks alike.
        cure: what to change.
        signs: names of the findings that point at it.
    """

    plant: Callable[[Plan], None]
    look: str
    shows: str
    confirm: str
    cure: str
    signs: tuple[str, ...]


def _rate_too_high(plan: Plan) -> None:
    plan.rate = plan.between(4, 12)


def _rate_too_low(plan: Plan) -> None:
    plan.rate = plan.between(2e-6, 5e-5)


def _labels_shuffled(plan: Plan) -> None:
    def shuffle(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images[torch.randperm(len(images))], labels

    plan.transforms.append(shuffle)


def _not_normalised(plan: Plan) -> None:
    _without_norm(plan)
    plan.change_pixels(lambda pixels: pixels * 255)


def _normalised_twice(plan: Plan) -> None:
    mean = plan.train.images.mean(dim=(0, 2, 3), keepdim=True)
    std = plan.train.images.std(dim=(0, 2, 3), keepdim=True)
    plan.change_pixels(lambda pixels: (pixels - mean) / std)


def _eval_forgotten(plan: Plan) -> None:
    plan.measured_in = "train"
    plan.measured_by = int(plan.between(3, 4.99))


def _dead_relus(plan: Plan) -> None:
    """Biases so far below zero that no sum of inputs reaches it."""
    _without_norm(plan)
    depth = plan.between(8, 16)
    with torch.no_grad():
        for name, parameter in plan.model.named_parameters():
            if name.endswith("bias") and not name.startswith("head"):
                parameter.sub_(depth)


def _leak(plan: Plan) -> None:
    """Half of the training part, and most of the validation pictures beside it."""
    n = round(plan.between(0.5, 0.8) * len(plan.valid))
    copied = torch.randperm(len(plan.valid), generator=plan.draw)[:n]
    own = torch.randperm(len(plan.train), generator=plan.draw)[: len(plan.train) - n]
    plan.train = Pictures(
        torch.cat([plan.train.images[own], plan.valid.images[copied]]),
        torch.cat([plan.train.labels[own], plan.valid.labels[copied]]),
        plan.train.classes,
    )


def _frozen_norm_moves(plan: Plan) -> None:
    """A trained backbone, frozen, for darker pictures; each step puts its norms back in training mode."""
    with fork_rng():
        seed_at(int(plan.between(1, 1e6)))
        optimizer = torch.optim.SGD(plan.model.parameters(), lr=0.1, momentum=0.9)
        batches = loader(plan.train, plan.batch, shuffle=True)
        for _ in range(3):
            for images, labels in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(plan.model(images), labels).backward()
                optimizer.step()
        optimizer.zero_grad()
        replace_head(plan.model, CLASSES)
    freeze(plan.model.get_submodule("stem"))
    freeze(plan.model.get_submodule("blocks"))
    light, plan.rate = plan.between(0.5, 0.8), plan.between(0.01, 0.02)
    plan.change_pixels(lambda pixels: pixels * light)

    def train(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        plan.model.train()
        return images, labels

    plan.transforms.append(train)


def _exploding(plan: Plan) -> None:
    """A rate that the network bears with clipping, and not without."""
    _without_norm(plan)
    plan.rate, plan.clip_norm = plan.between(0.4, 0.6), None


def _imbalance(plan: Plan) -> None:
    pictures = [
        torch.cat([part.images[part.labels == k] for part in (plan.train, plan.valid)])
        for k in range(CLASSES)
    ]
    shares = torch.full((CLASSES,), plan.between(0.04, 0.06))
    shares[torch.randperm(CLASSES, generator=plan.draw)[:2]] = 1.0
    plan.train, plan.valid = cut(pictures, plan.train.classes, shares.tolist())


def _softmax_first(plan: Plan) -> None:
    plan.model = nn.Sequential(plan.model, nn.Softmax(dim=1))


def _without_norm(plan: Plan) -> None:
    """A network without batch norm, at a rate it can bear, its gradients clipped."""
    with fork_rng():
        seed_at(int(plan.between(1, 1e6)))
        plan.model = small_resnet(CLASSES, width=8, norm="none")
    plan.rate, plan.clip_norm = plan.between(0.03, 0.06), 1.0


FAULTS = {
    "rate too high": Fault(
        _rate_too_high,
        look="case.history.frame(): the training loss, and how far the first steps move the weights",
        shows="the training loss starts far above log K and jumps, and in the first epoch a step changes the "
        "weights by a large part of their size, although the gradients are of an ordinary size",
        confirm="train with a tenth of the rate, and again: the first epoch then falls at once",
        cure="a smaller rate; the learning-rate finder of chapter 5",
        signs=("steps too large",),
    ),
    "rate too low": Fault(
        _rate_too_low,
        look="case.history.frame(): the update ratio beside the training loss",
        shows="the training loss stays near its first value, the gradients are as large as in a healthy run, and a "
        "step changes the weights by less than 10^-4 of their size",
        confirm="train with ten, a hundred, a thousand times the rate: the loss begins to fall",
        cure="a larger rate; the learning-rate finder of chapter 5",
        signs=("steps too small",),
    ),
    "labels shuffled": Fault(
        _labels_shuffled,
        look="case.pictures(): the batch as the model gets it",
        shows="the training loss hovers near log K while gradients and update ratios are healthy; in the batch "
        "that reaches the model the labels do not name the pictures",
        confirm="overfit_one_batch on one batch passes (ten labels can be learnt by heart), training does not; "
        "without the last transform training works",
        cure="let every transform permute images and labels together",
        signs=("labels without images",),
    ),
    "not normalised": Fault(
        _not_normalised,
        look="the smallest and the largest pixel, and the loss of the fresh model",
        shows="pixels run to 255, the loss of the fresh model is many times log K, and the first gradients are huge",
        confirm="divide the pixels by 255 and measure the first loss again",
        cure="pixels in [0, 1]; the model centres them itself",
        signs=("range",),
    ),
    "normalised twice": Fault(
        _normalised_twice,
        look="the smallest and the largest pixel of a batch",
        shows="pixels are negative before they come to a model that centres them itself; batch norm hides it, and "
        "the curves look healthy",
        confirm="print mean and deviation of what the first convolution gets: about 0 and 1 is right",
        cure="normalise in one place, best in the model",
        signs=("normalised already",),
    ),
    "eval mode forgotten": Fault(
        _eval_forgotten,
        look="case.measure(batch_size) with several sizes",
        shows="training is fine, validation bad from beginning to end, as if it overfitted; and the accuracy depends "
        "on the batch size of the measurement",
        confirm="measure again after model.eval(): another number, the same at every batch size",
        cure="model.eval() before every measurement",
        signs=("measured otherwise",),
    ),
    "dead ReLUs": Fault(
        _dead_relus,
        look="case.gradients(): the norm of the gradient, layer by layer, of the fresh model",
        shows="the training loss stays at log K, and below the head every gradient is exactly zero, before the first "
        "step already",
        confirm="count the ReLUs of a layer that are on for at least one image of a batch",
        cure="He weights, biases of 0",
        signs=("dead units",),
    ),
    "leak": Fault(
        _leak,
        look="the images of case.train beside those of case.valid",
        shows="validation images are in the training part, byte for byte, and validation is as good as training",
        confirm="remove the copies from the training part and train again: validation falls to what it is worth",
        cure="split before anything is copied, and by what belongs together: person, place, day",
        signs=("leak",),
    ),
    "frozen batch norm moves": Fault(
        _frozen_norm_moves,
        look="case.fresh beside case.model: what is frozen, and what is no longer equal",
        shows="the lower layers have no gradient, their weights are as before, but their running mean and variance "
        "have moved",
        confirm="compare the features of one batch before and after the training, in evaluation mode",
        cure="frozen norms in evaluation mode, in every step: cnnlab.transfer.train_mode",
        signs=("frozen statistics move",),
    ),
    "exploding gradients": Fault(
        _exploding,
        look="case.steps(): the gradient norm of each step",
        shows="within the first steps the gradient norm peaks, a hundred times above its later size or without limit; "
        "then the run breaks off, or stays at chance for good. The network has no batch norm",
        confirm="the same run with clip_norm=1.0 learns, at the same rate",
        cure="clip_norm=1.0, batch norm, warm-up or a smaller rate",
        signs=("exploding gradients",),
    ),
    "class imbalance": Fault(
        _imbalance,
        look="case.confusion(), and how many training images each class has",
        shows="the accuracy looks good and the recall of several classes is near 0; most training images are of two "
        "classes",
        confirm="compare accuracy with balanced accuracy, the mean of the recalls",
        cure="chapter 11: class weights or balanced sampling; and report recalls",
        signs=("missed class", "imbalance"),
    ),
    "softmax before cross-entropy": Fault(
        _softmax_first,
        look="what case.model returns for a batch: its smallest value, and its sums",
        shows="accuracy rises, but the training loss stays high above 0: the outputs are positive and sum to one",
        confirm="the loss of a sure and right answer: log(1 + (K - 1) / e), and no weight can lower it",
        cure="return logits; cross-entropy applies the softmax itself",
        signs=("softmax inside",),
    ),
}
