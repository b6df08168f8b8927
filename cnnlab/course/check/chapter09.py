"""Chapter 9: a new head on an old body, a body that stands still, pixels as the network knows them."""

import copy
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in, generator


class _Classifier(nn.Module):
    """A body with batch norm, and a linear layer `fc` on top, as torchvision's ResNets have it."""

    def __init__(self, features: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, features, 3), nn.BatchNorm2d(features), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.dropout(self.body(images).flatten(1)))


# --- a new head -----------------------------------------------------------------------------------


def _observe_head(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 9, 1))
    features, old_classes = draw.randint(5, 9), draw.randint(12, 20)
    num_classes = draw.randint(3, 4)
    torch.manual_seed(fold_in(seed, 9, 2))
    model = _Classifier(features, old_classes)
    old = copy.deepcopy(model)
    returned = attempt(model, num_classes)
    if returned is not model:
        return {"what you return is the model you were given": type(returned).__name__}
    images = torch.rand(6, 3, 8, 8, generator=generator(seed, 9))
    with torch.no_grad():
        logits, before = returned.eval()(images), old.eval()(images)
    weights, body = list(returned.parameters()), old.body.state_dict()
    head = getattr(returned, "fc", None)
    return {
        "what you return is the model you were given": "_Classifier",
        "the shape of the answers for six images": tuple(logits.shape),
        "`model.fc`": type(head).__name__,
        "its inputs and outputs": (
            getattr(head, "in_features", None),
            getattr(head, "out_features", None),
        ),
        "the body as it was": _same(model.body.state_dict(), body),
        "layers with weights": len(weights),
        "answers that are shares": bool(torch.allclose(logits.sum(1), torch.ones(6), atol=1e-4)),
        "answers of the old head among the new": any(
            torch.allclose(new, was, atol=1e-6) for new in logits.T for was in before.T
        ),
        "trainable": all(p.requires_grad for p in weights),
    }


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def replace_head(model: nn.Module, num_classes: int) -> nn.Module:
    """The answer: a new linear layer, as wide below as the old one, in the old one's place."""
    old = model.get_submodule("fc")
    assert isinstance(old, nn.Linear)
    model.fc = nn.Linear(old.in_features, num_classes)
    return model


def _on_top_of_the_old(model, num_classes):  # type: ignore[no-untyped-def]
    model.fc = nn.Sequential(model.fc, nn.Linear(model.fc.out_features, num_classes))
    return model


def _number_only(model, num_classes):  # type: ignore[no-untyped-def]
    model.fc.out_features = num_classes
    return model


def _another_name(model, num_classes):  # type: ignore[no-untyped-def]
    model.head = nn.Linear(model.fc.in_features, num_classes)
    return model


def _cut_the_old(model, num_classes):  # type: ignore[no-untyped-def]
    old = model.fc
    replace_head(model, num_classes)
    with torch.no_grad():
        model.fc.weight.copy_(old.weight[:num_classes])
        model.fc.bias.copy_(old.bias[:num_classes])
    return model


def _with_softmax(model, num_classes):  # type: ignore[no-untyped-def]
    replace_head(model, num_classes)
    model.fc = nn.Sequential(model.fc, nn.Softmax(dim=1))
    return model


def _body_anew(model, num_classes):  # type: ignore[no-untyped-def]
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return replace_head(model, num_classes)


def _returns_the_head(model, num_classes):  # type: ignore[no-untyped-def]
    return replace_head(model, num_classes).fc


def _returns_nothing(model, num_classes):  # type: ignore[no-untyped-def]
    replace_head(model, num_classes)


HEAD = Exercise(
    name="replace_head",
    observe=_observe_head,
    answer=replace_head,
    praise="One new layer in the old one's place; the body is untouched.",
    mistakes={
        "on top of the old head": Mistake(
            _on_top_of_the_old,
            "your layer sits on top of the old head and sees the old classes' logits instead of the features.",
            "the old head goes; what did it receive?",
        ),
        "the number only": Mistake(
            _number_only,
            "you changed what the layer says about itself; its weight matrix is the old one, and so are its answers.",
            "`out_features` is read when the layer is built; build one",
        ),
        "under another name": Mistake(
            _another_name,
            "the new layer hangs in the model under a name that `forward` does not use; the old one still answers.",
            "under which name does `forward` call its last layer?",
        ),
        "a piece of the old head": Mistake(
            _cut_the_old,
            "the new head is cut out of the old one: its rows go on asking for old classes.",
            "class 0 of the new task has nothing to do with class 0 of the old",
        ),
        "softmax": Mistake(
            _with_softmax,
            "there is a softmax behind the head. `F.cross_entropy` applies one itself, and two flatten the gradients.",
            "which numbers does the loss want?",
        ),
        "the body anew": Mistake(
            _body_anew,
            "the body has lost what it had learnt: its weights are random again.",
            "initialise the new layer only",
        ),
        "returns the head": Mistake(
            _returns_the_head,
            "you return the new layer; the whole model is asked for.",
            "what will be called with images?",
        ),
        "returns nothing": Mistake(
            _returns_nothing,
            "the model has its new head, but you return None.",
            "the last line is missing",
        ),
    },
)


# --- a body that stands still ---------------------------------------------------------------------


def _observe_freeze(attempt: Callable[..., Any], seed: int) -> Observation:
    torch.manual_seed(fold_in(seed, 9, 3))
    model = _Classifier(6, 3, dropout=0.5)
    g = generator(seed, 9, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    seen: dict[str, Any] = {}
    for epoch in ("first", "second"):
        body, head = (copy.deepcopy(part.state_dict()) for part in (model.body, model.fc))
        attempt(model)
        seen[f"the head's dropout at work in the {epoch} epoch"] = model.dropout.training
        for _ in range(2):
            images = 1 + 2 * torch.rand(8, 3, 8, 8, generator=g)
            labels = torch.randint(0, 3, (8,), generator=g)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            if loss.requires_grad:
                loss.backward()
                optimizer.step()
        moved = {k for k, v in model.body.state_dict().items() if not torch.equal(v, body[k])}
        seen[f"what moved in the body in the {epoch} epoch"] = sorted(map(_kind, moved))
        seen[f"the head learns in the {epoch} epoch"] = not _same(model.fc.state_dict(), head)
        model.eval()  # as the measurement after an epoch leaves it
    seen["`requires_grad` written on a module"] = "requires_grad" in vars(model.body)
    return seen


def _kind(name: str) -> str:
    return name.rpartition(".")[2] + (" of the norm" if name.startswith("1") else "")


def freeze(model: nn.Module) -> None:
    """The answer: no gradients for the body; training mode for the model, evaluation mode for its body."""
    body = model.get_submodule("body")
    body.requires_grad_(False)
    model.train()
    body.eval()


def _parameters_only(model):  # type: ignore[no-untyped-def]
    model.body.requires_grad_(False)


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
    observe=_observe_freeze,
    answer=freeze,
    praise="The body stands still, its running statistics too; the head learns, with its dropout at work.",
    mistakes={
        "parameters only": Mistake(
            _parameters_only,
            "the weights of the body stand still, but you leave the modes as you find them. In the first epoch the "
            "batch norm's statistics move; in the second, after a measurement, the head's dropout is off.",
            "running statistics are no parameters; what decides whether they move?",
        ),
        "eval undone by train": Mistake(
            _undone_by_train,
            "the weights of the body stand still, but its batch norm is in training mode and its running statistics "
            "move: `model.train()` reaches every module inside, whatever you had set before.",
            "does the body end up in the mode that you want?",
        ),
        "everything in eval mode": Mistake(
            _all_in_eval,
            "the whole model is in evaluation mode: the body stands still, but the head's dropout is off, too.",
            "which part should train?",
        ),
        "eval mode only": Mistake(
            _eval_only,
            "evaluation mode stops the running statistics, but the weights still have gradients, and they move.",
            "a mode decides what a layer computes, not whether it learns",
        ),
        "an attribute of the module": Mistake(
            _attribute_of_the_module,
            "`body.requires_grad = False` writes a new attribute on the module, which nobody reads; the weights move.",
            "it is the parameters that have `requires_grad`; modules have a method with an underscore at its end",
        ),
        "convolutions only": Mistake(
            _convolutions_only,
            "the scale and the shift of the batch norm are parameters as well, and the convolution's bias; they move.",
            "which parameters of the body are left out?",
        ),
        "the head too": Mistake(
            _everything,
            "the head is frozen as well, so nothing learns at all.",
            "freeze the body, not the model",
        ),
    },
)


# --- pixels as the network knows them -------------------------------------------------------------


def _observe_prepare(attempt: Callable[..., Any], seed: int) -> Observation:
    g, draw = generator(seed, 9, 4), random.Random(fold_in(seed, 9, 4))
    height = draw.randint(4, 6)
    images = torch.randint(0, 256, (4, height, height, 3), generator=g, dtype=torch.uint8)
    mean = [0.3 + 0.1 * i + 0.05 * draw.random() for i in range(3)]
    std = [0.2 + 0.04 * i + 0.02 * draw.random() for i in range(3)]
    before = images.clone()
    returned = attempt(images, mean, std)
    return {"what you return": returned, "the images left alone": torch.equal(images, before)}


def prepare(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """The answer: BGR to RGB, channels to the front, levels to [0, 1], then centred and scaled."""
    pixels = images.flip(3).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _scaled(pixels, mean, std):  # type: ignore[no-untyped-def]
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _still_bgr(images, mean, std):  # type: ignore[no-untyped-def]
    return _scaled(images.permute(0, 3, 1, 2).float() / 255, mean, std)


def _turned_afterwards(images, mean, std):  # type: ignore[no-untyped-def]
    return _still_bgr(images, mean, std).flip(1)


def _levels(images, mean, std):  # type: ignore[no-untyped-def]
    return _scaled(images.flip(3).permute(0, 3, 1, 2).float(), mean, std)


def _divided_last(images, mean, std):  # type: ignore[no-untyped-def]
    return _levels(images, mean, std) / 255


def _not_normalised(images, mean, std):  # type: ignore[no-untyped-def]
    return images.flip(3).permute(0, 3, 1, 2).float() / 255


def _own_statistics(images, mean, std):  # type: ignore[no-untyped-def]
    pixels = _not_normalised(images, mean, std)
    return _scaled(pixels, pixels.mean(dim=(0, 2, 3)).tolist(), pixels.std(dim=(0, 2, 3)).tolist())


def _reshaped(images, mean, std):  # type: ignore[no-untyped-def]
    n, h, w, c = images.shape
    return _scaled(images.flip(3).reshape(n, c, h, w).float() / 255, mean, std)


def _mirrored(images, mean, std):  # type: ignore[no-untyped-def]
    return _still_bgr(images.flip(2), mean, std)


def _multiplied(images, mean, std):  # type: ignore[no-untyped-def]
    return _scaled(_not_normalised(images, mean, std), mean, [1 / s for s in std])


PREPARE = Exercise(
    name="prepare",
    observe=_observe_prepare,
    answer=prepare,
    praise="Range, order of the axes, order of the channels and normalisation are those of the pretraining.",
    mistakes={
        "still BGR": Mistake(
            _still_bgr,
            "the channels are still in the order blue, green, red; the network has learnt them the other way round.",
            "which axis holds the channels, and how do you turn it around?",
        ),
        "turned after normalising": Mistake(
            _turned_afterwards,
            "the channels change places after normalising: blue pixels got red's mean and deviation.",
            "in which order do `mean` and `std` speak of the channels?",
        ),
        "levels 0 to 255": Mistake(
            _levels,
            "the pixels were never divided by 255, so they are some hundred times too large for the network.",
            "`mean` and `std` are numbers for pixels in [0, 1]",
        ),
        "divided last": Mistake(
            _divided_last,
            "you divide by 255 after normalising: the mean was taken from levels that run to 255.",
            "first bring the pixels to the units of `mean`",
        ),
        "not normalised": Mistake(
            _not_normalised,
            "the pixels are RGB in [0, 1], but `mean` and `std` are not used.",
            "what did the first convolution see in pretraining?",
        ),
        "its own statistics": Mistake(
            _own_statistics,
            "you normalise with the mean and deviation of these images; the network knows those of its own data.",
            "`mean` and `std` are given; an image must not depend on the others in its batch",
        ),
        "reshaped": Mistake(
            _reshaped,
            "`reshape` or `view` gives the right shape and scrambles the pixels.",
            "axes change places with `permute`",
        ),
        "mirrored": Mistake(
            _mirrored,
            "you turned the columns around, not the channels: the pictures are mirrored and still BGR.",
            "which of the axes (N, H, W, C) did you flip?",
        ),
        "multiplied": Mistake(
            _multiplied,
            "you multiply by `std`; normalising divides by it.",
            "what should the deviation be afterwards?",
        ),
    },
)
