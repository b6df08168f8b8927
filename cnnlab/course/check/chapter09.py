"""Check chapter 9: an occlusion map, the preprocessing, a frozen backbone and retrieval.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.course.check.compare import short
from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import fold_in, generator


class Classifier(nn.Module):
    """A backbone `body` with batch norm and a linear head `fc`, like torchvision's ResNets."""

    def __init__(self, features: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, features, 3), nn.BatchNorm2d(features), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, K) from images (N, 3, H, W)."""
        return self.fc(self.dropout(self.body(images).flatten(1)))


# --- occlusion_map --------------------------------------------------------------------------------


class Scores(nn.Module):
    """A linear classifier of tiny images behind dropout, which remembers how it was called."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(math.prod(shape), num_classes)
        self.in_training_mode = False

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, K) from images (N, 3, H, W)."""
        self.in_training_mode |= self.training
        return self.linear(self.dropout(images.flatten(1)))


def _observe_occlusion(attempt: Callable[..., Any], seed: int) -> Observation:
    g, rng = generator(seed, 9, 5), random.Random(fold_in(seed, 9, 5))
    torch.manual_seed(fold_in(seed, 9, 6))
    observation: dict[str, Any] = {}
    for size, stride, shape in ((2, 2, (3, 4, 6)), (3, 2, (3, 6, 10))):
        model = Scores(shape, 4)
        with torch.no_grad():
            model.linear.weight.mul_(6)
        image, label = torch.rand(shape, generator=g), rng.randrange(4)
        answer = attempt(model, image, label, size, stride)
        where = f"an image of {shape[1]} x {shape[2]} pixels, size={size}, stride={stride}"
        observation |= {
            "you call the model in training mode.": model.in_training_mode,
            "your result carries gradients, which nobody needs.": isinstance(answer, Tensor)
            and answer.requires_grad,
            f"your result for {where}": answer.detach() if isinstance(answer, Tensor) else answer,
        }
    return observation


@torch.no_grad()
def occlusion_map(model: nn.Module, image: Tensor, label: int, size: int, stride: int) -> Tensor:
    """Return how much the probability of a class falls when a grey square hides each place."""
    return _map(model, image, label, size, stride)


def _map(  # type: ignore[no-untyped-def]
    model,
    image,
    label,
    size,
    stride,
    *,
    grey=0.5,
    keep=False,
    evaluate=True,
    outputs=lambda logits: logits.softmax(1),
    fits=True,
    last=True,
    channels=3,
    compare=lambda before, after: before - after,
):
    """Return an occlusion map; the options make the known mistakes."""
    if evaluate:
        model.eval()
    before = outputs(model(image[None]))[0, label]
    ends = [side - size + last if fits else side for side in image.shape[1:]]
    hidden, rows = image.clone(), []
    for top in range(0, ends[0], stride):
        row = []
        for left in range(0, ends[1], stride):
            hidden = hidden if keep else image.clone()
            hidden[:channels, top : top + size, left : left + size] = grey
            row.append(compare(before, outputs(model(hidden[None]))[0, label]))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@torch.no_grad()
def _black(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride, grey=0.0)


@torch.no_grad()
def _keeps_squares(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride, keep=True)


@torch.no_grad()
def _logits(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride, outputs=lambda logits: logits)


@torch.no_grad()
def _rise(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return -_map(model, image, label, size, stride)


@torch.no_grad()
def _probability(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    drops = _map(model, image, label, size, stride)
    return model(image[None]).softmax(1)[0, label] - drops


@torch.no_grad()
def _columns_first(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride).T


@torch.no_grad()
def _training_mode(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride, evaluate=False)


def _with_gradients(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride)


@torch.no_grad()
def _beyond_the_edge(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride, fits=False)


@torch.no_grad()
def _last_left_out(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride, last=False)


@torch.no_grad()
def _one_channel(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride, channels=1)


@torch.no_grad()
def _relative(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride, compare=lambda b, a: (b - a) / b)


@torch.no_grad()
def _absolute(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    return _map(model, image, label, size, stride, compare=lambda b, a: (b - a).abs())


@torch.no_grad()
def _predicted_class(model, image, label, size, stride):  # type: ignore[no-untyped-def]
    predicted = model.eval()(image[None]).argmax(1).item()
    return _map(model, image, predicted, size, stride)


OCCLUSION = Exercise(
    name="occlusion_map",
    task="`occlusion_map(model, image, label, size, stride) -> (rows, columns)`, the fall of the "
    "probability of `label`",
    observe=_observe_occlusion,
    answer=occlusion_map,
    praise="You hide one place at a time, in evaluation mode, and the caller's image is unchanged.",
    hint="hide the upper left corner of a tiny image by hand: which two probabilities do you need?",
    mistakes={
        "training mode": Mistake(
            _training_mode,
            "you call the model in training mode, so dropout and batch norm change its outputs "
            "from call to call.",
            "which call prepares a model for predicting?",
        ),
        "with gradients": Mistake(
            _with_gradients,
            "autograd records every call, which costs time and memory.",
            "which decorator or context switches that off?",
        ),
        "black squares": Mistake(
            _black,
            "your squares are black, but they should be grey, 0.5 in each channel.",
            "what is the middle of the range of the pixels?",
        ),
        "squares stay": Mistake(
            _keeps_squares,
            "your squares stay in the image, so in the end everything is hidden.",
            "where does each square's image come from?",
        ),
        "logits": Mistake(
            _logits,
            "you compare logits, but the exercise asks for the probability of the class.",
            "what turns logits into probabilities?",
        ),
        "the rise": Mistake(
            _rise,
            "your result has the wrong sign: it's positive where hiding a place *raises* the "
            "probability.",
            "which of the two probabilities do you subtract from which?",
        ),
        "the probability": Mistake(
            _probability,
            "you return the probability itself instead of how much it falls.",
            "with what do you compare each probability?",
        ),
        "columns first": Mistake(
            _columns_first,
            "your result is transposed: its first axis should go down the image.",
            "which of your two loops is the outer one?",
        ),
        "beyond the edge": Mistake(
            _beyond_the_edge,
            "some of your squares stick out of the image.",
            "at which row does the last square begin that fits inside?",
        ),
        "the last is left out": Mistake(
            _last_left_out,
            "you leave out the last row and column of places, where the square touches the edge.",
            "a `range` stops before its end",
        ),
        "one channel": Mistake(
            _one_channel,
            "your squares hide only the red channel, so green and blue still show what is there.",
            "how many axes has the image, and which comes first?",
        ),
        "relative": Mistake(
            _relative,
            "you divide by the probability of the whole image, but the exercise asks for the fall "
            "itself.",
            "a fall from 0.9 to 0.6 is 0.3",
        ),
        "absolute": Mistake(
            _absolute,
            "you take the absolute value, which hides whether the probability fell or rose.",
            "the result may be negative",
        ),
        "the predicted class": Mistake(
            _predicted_class,
            "you follow the class that the model predicts, but the exercise asks for `label`.",
            "you may ask where the model sees class 3 even if it predicts class 1",
        ),
    },
)


# --- freeze ---------------------------------------------------------------------------------------


def _observe_freeze(attempt: Callable[..., Any], seed: int) -> Observation:
    torch.manual_seed(fold_in(seed, 9, 3))
    model = Classifier(6, 3, dropout=0.5)
    g = generator(seed, 9, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    observation: dict[str, bool] = {}
    for epoch in ("first", "second"):
        body, head = (copy.deepcopy(module.state_dict()) for module in (model.body, model.fc))
        attempt(model)
        set_on_module = "requires_grad" in vars(model.body)
        dropout_is_off = not model.dropout.training
        for _ in range(2):
            images = 1 + 2 * torch.rand(8, 3, 8, 8, generator=g)
            labels = torch.randint(0, 3, (8,), generator=g)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            if loss.requires_grad:
                loss.backward()
                optimizer.step()
        observation |= {
            f"`model.body.requires_grad = False` has no effect (epoch: {epoch}).": set_on_module,
            **{
                f"in the {epoch} epoch, {_describe(key)} changes.": not torch.equal(new, body[key])
                for key, new in model.body.state_dict().items()
            },
            f"in the {epoch} epoch, the dropout of the head is off.": dropout_is_off,
            f"in the {epoch} epoch, the head doesn't learn.": _equal(model.fc.state_dict(), head),
        }
        model.eval()  # as the validation after an epoch leaves it
    return observation


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Tell whether two state dicts have the same keys and values."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _describe(key: str) -> str:
    """Name a tensor of the backbone: "1.weight" is "the weight of the batch-norm layer"."""
    layer = "batch-norm layer" if key.startswith("1") else "convolution"
    return f"the {key.rpartition('.')[2]} of the backbone's {layer}"


def freeze(model: nn.Module) -> None:
    """Freeze the backbone; set training mode for the head, evaluation mode for the backbone."""
    body = model.get_submodule("body")
    body.requires_grad_(False)
    model.train()
    body.eval()


def _parameters_only(model):  # type: ignore[no-untyped-def]
    model.body.requires_grad_(False)


def _nothing_frozen(model):  # type: ignore[no-untyped-def]
    model.train()


def _nothing_done(model):  # type: ignore[no-untyped-def]
    pass


def _never_back_in_training_mode(model):  # type: ignore[no-untyped-def]
    model.body.requires_grad_(False)
    model.body.eval()


def _undone_by_train(model):  # type: ignore[no-untyped-def]
    model.body.requires_grad_(False)
    model.body.eval()
    model.train()


def _all_in_eval(model):  # type: ignore[no-untyped-def]
    model.body.requires_grad_(False)
    model.eval()


def _eval_only(model):  # type: ignore[no-untyped-def]
    model.train()
    model.body.eval()


def _attribute_of_the_module(model):  # type: ignore[no-untyped-def]
    model.body.requires_grad = False
    model.train()
    model.body.eval()


def _convolutions_only(model):  # type: ignore[no-untyped-def]
    for parameter in model.body.parameters():
        parameter.requires_grad_(parameter.ndim == 1)
    model.train()
    model.body.eval()


def _everything(model):  # type: ignore[no-untyped-def]
    model.requires_grad_(False)
    model.train()
    model.body.eval()


FREEZE = Exercise(
    name="freeze",
    task="`freeze(model)`, which freezes `model.body` at the start of each epoch",
    observe=_observe_freeze,
    answer=freeze,
    praise="Nothing in the backbone changes, not even its running statistics, and the head learns "
    "with its dropout active.",
    hint="freeze the parameters of the body, then set the modes: which part is in which mode?",
    mistakes={
        "parameters only": Mistake(
            _parameters_only,
            "you freeze the weights of the backbone, but you don't set the modes, so its running "
            "statistics still change in training mode.",
            "running statistics aren't parameters; what decides if they are updated?",
        ),
        "eval undone by train": Mistake(
            _undone_by_train,
            "the running statistics of the backbone change: at the end of your function, "
            "everything is in training mode.",
            "`model.train()` reaches every module inside; what has to come after it?",
        ),
        "nothing frozen": Mistake(
            _nothing_frozen,
            "nothing in the backbone is frozen: its weights and its running statistics change.",
            "two things must stop: the gradients, and the updates of batch norm",
        ),
        "nothing done": Mistake(
            _nothing_done,
            "your function changes nothing: the backbone learns in the first epoch, and the mode "
            "stays what it was in the second.",
            "two things must stop: the gradients, and the updates of batch norm",
        ),
        "never back in training mode": Mistake(
            _never_back_in_training_mode,
            "in the second epoch, the dropout of the head is off, because the validation left the "
            "model in evaluation mode.",
            "which call puts it back into training mode?",
        ),
        "everything in eval mode": Mistake(
            _all_in_eval,
            "you set the whole model to evaluation mode, so the dropout of the head is off too.",
            "which part of the model should train?",
        ),
        "eval mode only": Mistake(
            _eval_only,
            "evaluation mode stops the running statistics, but the weights of the backbone still "
            "get gradients, so they change.",
            "the mode decides what a layer computes, not whether it learns",
        ),
        "an attribute of the module": Mistake(
            _attribute_of_the_module,
            "`body.requires_grad = False` only sets a new attribute on the module, which PyTorch "
            "never reads.",
            "`requires_grad` belongs to parameters; which method of a module sets it for all?",
        ),
        "convolutions only": Mistake(
            _convolutions_only,
            "the bias of the convolution and the scale and shift of the batch norm are parameters "
            "too, and they still change.",
            "which parameters of the backbone did you leave out?",
        ),
        "the head too": Mistake(
            _everything,
            "you freeze the head as well, so nothing learns at all.",
            "freeze `model.body`, not the whole model",
        ),
    },
)


# --- prepare --------------------------------------------------------------------------------------


def _observe_prepare(attempt: Callable[..., Any], seed: int) -> Observation:
    g, rng = generator(seed, 9, 4), random.Random(fold_in(seed, 9, 4))
    observation: dict[str, Any] = {}
    for mean, std in (([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]), ([0.5, 0.4, 0.3], [0.5, 0.4, 0.2])):
        images = torch.tensor([[[[0, 51, 255], [102, 204, 153]]]], dtype=torch.uint8)
        red, green, blue = attempt(images, mean, std)[0, :, 0, 0]
        pixel = f"the BGR pixel [0, 51, 255] with mean={short(mean)}, std={short(std)}"
        observation[f"your result for {pixel}"] = torch.stack([red, green, blue])
    height = rng.randint(4, 6)
    images = torch.randint(0, 256, (4, height, height + 1, 3), generator=g, dtype=torch.uint8)
    mean = [0.3 + 0.1 * i + 0.05 * rng.random() for i in range(3)]
    std = [0.2 + 0.04 * i + 0.02 * rng.random() for i in range(3)]
    answer = attempt(images, mean, std)
    return {**observation, f"your result for images of shape {tuple(images.shape)}": answer}


def prepare(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Convert uint8 BGR images (N, H, W, 3) to normalised RGB images (N, 3, H, W)."""
    return _normalise(images.flip(3).permute(0, 3, 1, 2).float() / 255, mean, std)


def _normalise(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Subtract the mean of each channel of (N, 3, H, W) and divide by its standard deviation."""
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _still_bgr(images, mean, std):  # type: ignore[no-untyped-def]
    return _normalise(images.permute(0, 3, 1, 2).float() / 255, mean, std)


def _flipped_afterwards(images, mean, std):  # type: ignore[no-untyped-def]
    return _still_bgr(images, mean, std).flip(1)


def _levels(images, mean, std):  # type: ignore[no-untyped-def]
    return _normalise(images.flip(3).permute(0, 3, 1, 2).float(), mean, std)


def _divided_last(images, mean, std):  # type: ignore[no-untyped-def]
    return _levels(images, mean, std) / 255


def _not_normalised(images, mean, std):  # type: ignore[no-untyped-def]
    return images.flip(3).permute(0, 3, 1, 2).float() / 255


def _own_statistics(images, mean, std):  # type: ignore[no-untyped-def]
    pixels = _not_normalised(images, mean, std)
    return _normalise(
        pixels, pixels.mean(dim=(0, 2, 3)).tolist(), pixels.std(dim=(0, 2, 3)).tolist()
    )


def _reshaped(images, mean, std):  # type: ignore[no-untyped-def]
    n, h, w, c = images.shape
    return _normalise(images.flip(3).reshape(n, c, h, w).float() / 255, mean, std)


def _mirrored(images, mean, std):  # type: ignore[no-untyped-def]
    return _still_bgr(images.flip(2), mean, std)


def _multiplied(images, mean, std):  # type: ignore[no-untyped-def]
    return _normalise(_not_normalised(images, mean, std), mean, [1 / s for s in std])


PREPARE = Exercise(
    name="prepare",
    task="`prepare(images, mean, std) -> normalised RGB images (N, 3, H, W)`, from uint8 BGR "
    "(N, H, W, 3)",
    observe=_observe_prepare,
    answer=prepare,
    praise="The pixel range, the axes, the channel order and the normalisation all match the "
    "pretraining.",
    hint="follow one pixel: its range, axes, channel order, `mean`, `std`",
    mistakes={
        "still BGR": Mistake(
            _still_bgr,
            "your channels are still in the order blue, green, red, but the network was trained "
            "on red, green, blue.",
            "which axis holds the channels, and how can you reverse it?",
        ),
        "turned after normalising": Mistake(
            _flipped_afterwards,
            "you reverse the channels after normalising, so the blue channel was normalised with "
            "the mean and standard deviation of red.",
            "which channel order do `mean` and `std` use?",
        ),
        "levels 0 to 255": Mistake(
            _levels,
            "you never divide the pixels by 255, so they are hundreds of times too large for the "
            "network.",
            "`mean` and `std` are meant for pixels in [0, 1]",
        ),
        "divided last": Mistake(
            _divided_last,
            "you divide by 255 after normalising, so you subtract the mean from pixels that go up "
            "to 255.",
            "first bring the pixels to the same range as `mean`",
        ),
        "not normalised": Mistake(
            _not_normalised,
            "you don't use `mean` and `std`.",
            "what did the first convolution get as its input in pretraining?",
        ),
        "its own statistics": Mistake(
            _own_statistics,
            "you normalise with the mean and standard deviation of these images, but the network "
            "was trained with those of its own data.",
            "the result for one image must not depend on the others",
        ),
        "reshaped": Mistake(
            _reshaped,
            "your `reshape` or `view` gives the right shape, but it scrambles the pixels.",
            "use `permute` to move axes",
        ),
        "mirrored": Mistake(
            _mirrored,
            "you reverse the columns instead of the channels, so the images are mirrored and "
            "still BGR.",
            "which of the axes (N, H, W, C) did you flip?",
        ),
        "multiplied": Mistake(
            _multiplied,
            "you multiply by `std`, but normalising divides by it.",
            "what should the standard deviation be afterwards?",
        ),
    },
)

# --- mean_average_precision -----------------------------------------------------------------------


def _observe_retrieval(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 9, 7)
    three = torch.tensor([[1.0, 0.0], [2.0, 2.0], [0.0, 1.0]])
    observation: dict[str, Any] = {}
    for k in (1, 2):
        value = attempt(three, torch.tensor([0, 1, 0]), k)
        name = f"your result for features [[1, 0], [2, 2], [0, 1]], labels [0, 1, 0], k={k}"
        observation[name] = _number(value)
    features = torch.randn(12, 4, generator=g) * torch.rand(12, 1, generator=g).mul(3).exp()
    labels = torch.tensor([*(i % 3 for i in range(11)), 3])  # class 3 has one image
    features += 2 * F.one_hot(labels, 4)
    for k in (2, 8):  # fewer places than a class has relevant images, and more
        name = f"your result for twelve images of three classes and one of a fourth, k={k}"
        observation[name] = _number(attempt(features, labels, k))
    return observation


def _number(value: Any) -> Any:
    """Return a tensor with one value as a number; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def mean_average_precision(features: Tensor, labels: Tensor, k: int) -> float:
    """Return the mean average precision at k, each image being a query to all others."""
    return _mean_ap(features, labels, k)


def _mean_ap(  # type: ignore[no-untyped-def]
    features,
    labels,
    k,
    *,
    itself=False,
    diagonal=-torch.inf,
    cosine=True,
    nearest=True,
    average=lambda precision, hits, relevant, k: (precision * hits).sum(1) / relevant.clamp(max=k),
    skip=True,
    clean=True,
    counts_itself=False,
):
    """Return a mean average precision; the options make the known mistakes."""
    x = F.normalize(features, dim=1) if cosine else features
    similarity = x @ x.T
    same = labels[:, None] == labels
    if diagonal is not None:
        similarity.fill_diagonal_(diagonal if nearest else -diagonal)
    if not itself:
        same = same & ~torch.eye(len(labels), dtype=torch.bool)
    order = similarity.argsort(dim=1, descending=nearest, stable=True)[:, :k]
    hits = same.gather(1, order).float()
    precision = hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1)
    relevant = same.sum(1) + counts_itself
    scores = average(precision, hits, relevant, k)
    scores = scores.nan_to_num() if clean else scores
    return (scores[relevant > 0] if skip else scores).mean().item()


def _finds_itself(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, itself=True, diagonal=None)


def _diagonal_of_zeros(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, itself=True, diagonal=0.0, counts_itself=-1)


def _dot_product(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, cosine=False)


def _farthest(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, nearest=False)


def _precision_at_k(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, average=lambda p, hits, r, k: hits.sum(1) / k)


def _at_every_rank(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, average=lambda p, hits, r, k: p.mean(1))


def _by_hits(features, labels, k):  # type: ignore[no-untyped-def]
    def average(precision, hits, relevant, k):  # type: ignore[no-untyped-def]
        return (precision * hits).sum(1) / hits.sum(1)

    return _mean_ap(features, labels, k, average=average)


def _by_relevant(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, average=lambda p, hits, r, k: (p * hits).sum(1) / r)


def _by_k(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, average=lambda p, hits, r, k: (p * hits).sum(1) / k)


def _divides_by_zero(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, skip=False, clean=False)


def _itself_is_relevant(features, labels, k):  # type: ignore[no-untyped-def]
    def average(precision, hits, relevant, k):  # type: ignore[no-untyped-def]
        return ((precision * hits).sum(1) / relevant.clamp(max=k))[relevant > 1]

    return _mean_ap(features, labels, k, average=average, skip=False, counts_itself=True)


def _recall(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, average=lambda p, hits, r, k: hits.sum(1) / r)


def _hit_rate(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, average=lambda p, hits, r, k: hits.amax(1))


def _counts_hopeless(features, labels, k):  # type: ignore[no-untyped-def]
    return _mean_ap(features, labels, k, skip=False)


RETRIEVAL = Exercise(
    name="mean_average_precision",
    task="`mean_average_precision(features, labels, k) -> number`; every image is a query to all "
    "others",
    observe=_observe_retrieval,
    answer=mean_average_precision,
    praise="No query finds itself, long features have no advantage, and queries that nothing could "
    "answer don't count.",
    hint="rank the other two images of the small example by hand, and write down each precision",
    mistakes={
        "finds itself": Mistake(
            _finds_itself,
            "each query finds itself first, which is a hit for nothing.",
            "the similarity of an image with itself stands on the diagonal of the matrix",
        ),
        "zeros on the diagonal": Mistake(
            _diagonal_of_zeros,
            "the 0 on your diagonal beats every negative similarity, so some queries still find "
            "themselves.",
            "which value is smaller than any cosine?",
        ),
        "dot product": Mistake(
            _dot_product,
            "you rank by the dot product, so images with long features come first everywhere.",
            "what must be divided out, so that only the direction counts?",
        ),
        "farthest": Mistake(
            _farthest,
            "your ranking begins with the *least* similar images.",
            "is the first one of your order the largest or the smallest similarity?",
        ),
        "precision at k": Mistake(
            _precision_at_k,
            "this is the precision at k, which doesn't ask at which ranks the hits are.",
            "a hit at rank 1 should be worth more than one at rank k",
        ),
        "every rank": Mistake(
            _at_every_rank,
            "you average the precision over all ranks, but only the ranks of hits count.",
            "what happens at a rank without a hit?",
        ),
        "by the hits": Mistake(
            _by_hits,
            "you divide by the number of hits that were found, so missing the others costs "
            "nothing.",
            "how many relevant images could have been among the first k?",
        ),
        "by all relevant": Mistake(
            _by_relevant,
            "you divide by the number of all relevant images, so with many of them nobody can "
            "reach 1.",
            "how many of them fit into k places?",
        ),
        "by k": Mistake(
            _by_k,
            "you always divide by k, so a query with fewer than k relevant images can't reach 1.",
            "how many hits are possible for such a query?",
        ),
        "0 / 0": Mistake(
            _divides_by_zero,
            "your result is NaN, because something divides 0 by 0: a query without any relevant "
            "image, or a rank counted from 0.",
            "which divisor can be 0?",
        ),
        "itself is relevant": Mistake(
            _itself_is_relevant,
            "you count the query among its own relevant images, so too many hits seem possible.",
            "how many *other* images have its label?",
        ),
        "recall": Mistake(
            _recall,
            "this is the recall at k, which doesn't ask at which ranks the hits are.",
            "a hit at rank 1 should be worth more than one at rank k",
        ),
        "hit rate": Mistake(
            _hit_rate,
            "this only asks whether there is any hit among the first k.",
            "the other hits and their ranks count too",
        ),
        "hopeless queries": Mistake(
            _counts_hopeless,
            "you count queries that have no relevant image at all as 0.",
            "an image that is the only one of its class has nothing to find",
        ),
    },
)

EXERCISES = (OCCLUSION, PREPARE, FREEZE, RETRIEVAL)

PREDICTIONS = (
    Prediction(
        question="How probable is espresso with the worst place hidden?",
        text=(
            "A network is 94 % confident that a photograph shows an espresso. A square of 56 "
            "pixels hides a sixteenth of the photograph, at the place where it hurts most. How "
            "probable is espresso then, from 0 to 1?"
        ),
        answer=0.69,
        why=(
            "No single place decides the espresso, so hiding one part doesn't change the "
            "prediction."
        ),
        section="A network that has seen the world",
    ),
    Prediction(
        question="How many colour photographs keep their predicted class as BGR?",
        text=(
            "A pretrained network gets the channels of eleven colour photographs as BGR instead "
            "of RGB. For how many of the eleven does its prediction stay the same?"
        ),
        answer=4,
        why=(
            "Wrong channels raise no error, and some predictions even survive. That's why the "
            "mistake is so easy to overlook."
        ),
        section="Speak its language",
        within=1,
    ),
    Prediction(
        question="How accurate is a head on frozen features with five labels?",
        text=(
            "You have five labelled photographs per class of CIFAR-10, fifty in all. What "
            "accuracy does a linear classifier on the frozen features of a pretrained network "
            "reach? (Chance is 0.1.)"
        ),
        answer=0.412,
        why=(
            "The features were learnt from 1.3 million photographs. Training from scratch on "
            "the same fifty reaches about 0.24."
        ),
        section="How many labels does it save?",
    ),
    Prediction(
        question="Which finds similar digits better, random weights or pixels?",
        text=(
            "For each test digit, you take the five nearest training digits and score whether "
            "they show the same digit. The features of a pretrained network win. Which comes "
            "second: the features of the same network with random weights, or the raw pixels?"
        ),
        answer="pixels",
        why=(
            "So the success of the pretrained features comes from what they learnt, and not "
            "from being convolutional. Always keep the random network as a control."
        ),
        section="Find similar images",
        options=("random", "pixels"),
    ),
)
