"""Check the exercises of chapter 9: a new head, a frozen backbone and the input preprocessing.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import copy
import itertools
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.course.check.compare import short
from cnnlab.course.check.core import Exercise, Mistake, Observation
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


# --- replace_head ---------------------------------------------------------------------------------


def _observe_head(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 9, 1))
    n_features, n_old_classes = rng.randint(5, 9), rng.randint(12, 20)
    num_classes = rng.randint(3, 4)
    torch.manual_seed(fold_in(seed, 9, 2))
    model = Classifier(n_features, n_old_classes)
    original = copy.deepcopy(model)
    answer = attempt(model, num_classes)
    if type(answer) is not Classifier:
        return {"the model that you return": type(answer).__name__}
    head = answer.fc
    observation: dict[str, Any] = {
        "the model that you return": "Classifier",
        "you return a copy: change the model that you were given, and return it.": (
            answer is not model
        ),
        "the type of `model.fc`": type(head).__name__,
        "you change the weights of the backbone: only the head is new.": not _equal(
            answer.body.state_dict(), original.body.state_dict()
        ),
        "you freeze parameters: all of them should be trainable.": not all(
            p.requires_grad for p in answer.parameters()
        ),
    }
    if isinstance(head, nn.Linear):
        in_and_out = head.in_features, head.out_features
        observation["the number of inputs and outputs of `model.fc`"] = in_and_out
        observation["the shape of `model.fc.weight`"] = tuple(head.weight.shape)
    observation["the number of weight and bias tensors in the model"] = len([*answer.parameters()])
    images = torch.rand(6, 3, 8, 8, generator=generator(seed, 9))
    with torch.no_grad():
        old_logits = original.eval()(images)
        try:
            logits = answer.eval()(images)
        except RuntimeError:
            return {**observation, "your model can't be called with images any more.": True}
    outputs = itertools.product(logits.T, old_logits.T)
    return {
        **observation,
        "your model can't be called with images any more.": False,
        "the shape of the outputs for six images": tuple(logits.shape),
        "your model returns probabilities, but the loss expects logits.": torch.allclose(
            logits.sum(1), torch.ones(6), atol=1e-4
        ),
        "an output for an old class is still among the new ones.": any(
            torch.allclose(new, old, atol=1e-6) for new, old in outputs
        ),
    }


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Tell whether two state dicts have the same keys and values."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def replace_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Replace `model.fc` by a new linear layer with the same number of inputs."""
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


def _reset_backbone(model, num_classes):  # type: ignore[no-untyped-def]
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
    task="`replace_head(model, num_classes) -> model`; the head is `model.fc`",
    observe=_observe_head,
    answer=replace_head,
    praise="You replace the old head by one new layer, and the backbone is unchanged.",
    hint="how many features go into the old `model.fc`, and who computes the output now?",
    mistakes={
        "on top of the old head": Mistake(
            _on_top_of_the_old,
            "your layer sits on top of the old head, so it gets the logits of the old classes "
            "instead of the features.",
            "the old head has to go; what was its input?",
        ),
        "the number only": Mistake(
            _number_only,
            "you changed the layer's `out_features` attribute, but its weight matrix is still the "
            "old one, and so are its outputs.",
            "`out_features` is used only when a layer is built; build a new one",
        ),
        "under another name": Mistake(
            _another_name,
            "you gave the new layer a name that `forward` doesn't use, so the old layer still "
            "computes the outputs.",
            "what does `forward` call the last layer?",
        ),
        "a piece of the old head": Mistake(
            _cut_the_old,
            "you cut the new head out of the old one, so its rows still look for the old classes.",
            "class 0 of the new task has nothing to do with class 0 of the old one",
        ),
        "softmax": Mistake(
            _with_softmax,
            "you put a softmax after the head, but `F.cross_entropy` applies one itself, and two "
            "of them make the gradients very small.",
            "what does the loss expect: logits or probabilities?",
        ),
        "the body anew": Mistake(
            _reset_backbone,
            "the backbone has lost everything it had learnt, because you gave it random weights "
            "again.",
            "initialise only the new layer",
        ),
        "returns the head": Mistake(
            _returns_the_head,
            "you return the new layer, but the exercise asks for the whole model.",
            "what will be called with images?",
        ),
        "returns nothing": Mistake(
            _returns_nothing,
            "you return None instead of the model.",
            "the last line is missing",
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

EXERCISES = (HEAD, FREEZE, PREPARE)
