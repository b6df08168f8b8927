"""The faults that the clinic plants, each with its evidence, how to confirm it, and the cure."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnlab.course.clinic.plans import CLASSES, LabelledImages, Plan, split_classes
from cnnlab.data import loader
from cnnlab.models import replace_head, small_resnet
from cnnlab.rng import fork_rng, seed_at
from cnnlab.transfer import freeze


@dataclass(frozen=True)
class Fault:
    """One way to break a training run.

    Attributes:
        plant: changes the plan of a healthy run.
        look: which part of the case to look at.
        shows: the evidence that you find there.
        confirm: an experiment that separates the fault from others that look alike.
        cure: what to change.
        signs: names of the library's findings that point to the fault.
    """

    plant: Callable[[Plan], None]
    look: str
    shows: str
    confirm: str
    cure: str
    signs: tuple[str, ...]


def _raise_lr(plan: Plan) -> None:
    plan.lr = plan.log_uniform(4, 12)


def _lower_lr(plan: Plan) -> None:
    plan.lr = plan.log_uniform(2e-6, 5e-5)


def _shuffle_images(plan: Plan) -> None:
    def shuffle(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images[torch.randperm(len(images))], labels

    plan.transforms.append(shuffle)


def _scale_to_255(plan: Plan) -> None:
    _remove_batch_norm(plan)
    plan.map_images(lambda images: images * 255)


def _normalise_twice(plan: Plan) -> None:
    mean = plan.train.images.mean(dim=(0, 2, 3), keepdim=True)
    std = plan.train.images.std(dim=(0, 2, 3), keepdim=True)
    plan.map_images(lambda images: (images - mean) / std)


def _validate_in_train_mode(plan: Plan) -> None:
    plan.valid_mode = "train"
    plan.valid_batch_size = int(plan.log_uniform(3, 4.99))


def _kill_relus(plan: Plan) -> None:
    """Lower the biases so far that no input makes a ReLU positive."""
    _remove_batch_norm(plan)
    shift = plan.log_uniform(8, 16)
    with torch.no_grad():
        for name, parameter in plan.model.named_parameters():
            if name.endswith("bias") and not name.startswith("head"):
                parameter.sub_(shift)


def _leak(plan: Plan) -> None:
    """Replace part of the training set by copies of 50 to 80 % of the validation images."""
    n = round(plan.log_uniform(0.5, 0.8) * len(plan.valid))
    copied = torch.randperm(len(plan.valid), generator=plan.rng)[:n]
    remaining = torch.randperm(len(plan.train), generator=plan.rng)[: len(plan.train) - n]
    plan.train = LabelledImages(
        torch.cat([plan.train.images[remaining], plan.valid.images[copied]]),
        torch.cat([plan.train.labels[remaining], plan.valid.labels[copied]]),
        plan.train.classes,
    )


def _unfreeze_norm_statistics(plan: Plan) -> None:
    """Freeze a trained backbone, darken the images, and set training mode in each step."""
    with fork_rng():
        seed_at(int(plan.log_uniform(1, 1e6)))
        optimizer = torch.optim.SGD(plan.model.parameters(), lr=0.1, momentum=0.9)
        batches = loader(plan.train, plan.batch_size, shuffle=True)
        for _ in range(3):
            for images, labels in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(plan.model(images), labels).backward()
                optimizer.step()
        optimizer.zero_grad()
        replace_head(plan.model, CLASSES)
    freeze(plan.model.get_submodule("stem"))
    freeze(plan.model.get_submodule("blocks"))
    brightness, plan.lr = plan.log_uniform(0.5, 0.8), plan.log_uniform(0.01, 0.02)
    plan.map_images(lambda images: images * brightness)

    def set_train_mode(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        plan.model.train()
        return images, labels

    plan.transforms.append(set_train_mode)


def _explode(plan: Plan) -> None:
    """Use a learning rate at which the network learns only if its gradients are clipped."""
    _remove_batch_norm(plan)
    plan.lr, plan.clip_norm = plan.log_uniform(0.4, 0.6), None


def _unbalance(plan: Plan) -> None:
    images = [
        torch.cat([split.images[split.labels == k] for split in (plan.train, plan.valid)])
        for k in range(CLASSES)
    ]
    fractions = torch.full((CLASSES,), plan.log_uniform(0.04, 0.06))
    fractions[torch.randperm(CLASSES, generator=plan.rng)[:2]] = 1.0
    plan.train, plan.valid = split_classes(images, plan.train.classes, fractions.tolist())


def _append_softmax(plan: Plan) -> None:
    plan.model = nn.Sequential(plan.model, nn.Softmax(dim=1))


def _remove_batch_norm(plan: Plan) -> None:
    """Use a network without batch norm, a learning rate it can handle, and clipped gradients."""
    with fork_rng():
        seed_at(int(plan.log_uniform(1, 1e6)))
        plan.model = small_resnet(CLASSES, width=8, norm="none")
    plan.lr, plan.clip_norm = plan.log_uniform(0.03, 0.06), 1.0


FAULTS = {
    "rate too high": Fault(
        _raise_lr,
        look="case.history.frame(): the training loss, and the update ratio next to it",
        shows="the training loss starts far above log K and jumps up and down. In the first "
        "epoch, each step changes the weights by a large fraction of their size, although the "
        "gradients have a normal size",
        confirm="divide the learning rate by 10, and by 10 again: the loss then falls from the "
        "first epoch on",
        cure="a smaller learning rate; the range test, `tune.lr_find`, shows which",
        signs=("steps too large",),
    ),
    "rate too low": Fault(
        _lower_lr,
        look="case.history.frame(): the training loss, and the update ratio next to it",
        shows="the training loss hardly moves from its first value. The gradients are as large as "
        "in a healthy run, but each step changes the weights by less than 10^-4 of their size",
        confirm="multiply the learning rate by 10, 100 and 1000: at some point the loss begins to "
        "fall",
        cure="a larger learning rate; the range test, `tune.lr_find`, shows which",
        signs=("steps too small",),
    ),
    "labels shuffled": Fault(
        _shuffle_images,
        look="case.pictures(): a batch as the model receives it",
        shows="the training loss stays near log K, although gradients and update ratios are "
        "healthy. In the batch that reaches the model, the labels don't match the images",
        confirm="overfit_one_batch succeeds, because ten labels can be memorised, but training "
        "fails. Remove the last batch transform, and training works",
        cure="make every transform permute images and labels together",
        signs=("labels without images",),
    ),
    "not normalised": Fault(
        _scale_to_255,
        look="the pixel values that reach the model, in case.batch",
        shows="pixel values reach 255, the loss of the fresh model is many times log K, and the "
        "first gradients are huge",
        confirm="divide the pixel values by 255 and compute the first loss again",
        cure="scale the pixel values to [0, 1]; the model subtracts the mean itself",
        signs=("range",),
    ),
    "normalised twice": Fault(
        _normalise_twice,
        look="the pixel values that reach the model, in case.batch",
        shows="the pixel values are negative before they reach the model, which normalises them "
        "again. Batch norm hides the effect, so the curves look healthy",
        confirm="print mean and standard deviation of the input of the first convolution: they "
        "should be about 0 and 1",
        cure="normalise in one place only, preferably in the model",
        signs=("normalised already",),
    ),
    "eval mode forgotten": Fault(
        _validate_in_train_mode,
        look="case.measure(32), and the accuracy that the run recorded",
        shows="training goes well, but validation is poor from start to finish, which looks like "
        "overfitting. The validation accuracy depends on the batch size of the evaluation",
        confirm="evaluate again after model.eval(): the accuracy is different, and the same for "
        "every batch size",
        cure="call model.eval() before every evaluation",
        signs=("train-mode validation",),
    ),
    "dead ReLUs": Fault(
        _kill_relus,
        look="case.gradients(): the gradient norms of the fresh model, layer by layer",
        shows="the training loss stays at log K. Below the head every gradient is exactly zero, "
        "even before the first step",
        confirm="count the ReLUs of a layer that are positive for at least one image of a batch",
        cure="He initialisation for the weights, and biases of 0",
        signs=("dead units",),
    ),
    "leak": Fault(
        _leak,
        look="the two data sets, case.train and case.valid",
        shows="exact copies of validation images are in the training set, and the validation "
        "accuracy is as good as the training accuracy",
        confirm="remove the copies from the training set and train again: the validation accuracy "
        "drops to its true value",
        cure="split the data before anything is copied, and keep groups together: all images of "
        "one person, place or day go into the same split",
        signs=("leak",),
    ),
    "frozen batch norm moves": Fault(
        _unfreeze_norm_statistics,
        look="what differs between case.fresh and case.model, and what doesn't",
        shows="the lower layers have no gradient and their weights are unchanged, but their "
        "running mean and variance have changed",
        confirm="compute the features of one batch before and after training, in evaluation mode, "
        "and compare them",
        cure="keep frozen batch-norm layers in evaluation mode in every step: "
        "cnnlab.transfer.train_mode",
        signs=("frozen statistics move",),
    ),
    "exploding gradients": Fault(
        _explode,
        look="case.steps(): the gradient norm of each step",
        shows="within the first steps the gradient norm reaches a hundred times its later size, "
        "or grows without limit. Then the run stops with an error, or its accuracy stays at "
        "chance. The network has no batch norm",
        confirm="train with clip_norm=1.0 at the same learning rate: now the network learns",
        cure="clip_norm=1.0, batch norm, warm-up or a smaller learning rate",
        signs=("exploding gradients",),
    ),
    "class imbalance": Fault(
        _unbalance,
        look="case.confusion(): the classes one by one",
        shows="the accuracy looks good, but the recall of several classes is near 0. Two classes "
        "have most of the training images",
        confirm="compare the accuracy with the balanced accuracy, which is the mean of the recalls",
        cure="class weights or balanced sampling; and report the recall of each class",
        signs=("missed class", "imbalance"),
    ),
    "softmax before cross-entropy": Fault(
        _append_softmax,
        look="the outputs of case.model for a few images",
        shows="the accuracy rises, but the training loss stays far above 0. The outputs are "
        "positive and sum to one",
        confirm="compute the loss of a correct prediction with full confidence: it is "
        "log(1 + (K - 1) / e), and no weights can lower it",
        cure="return logits from the model, because cross-entropy applies the softmax itself",
        signs=("softmax inside",),
    ),
}
