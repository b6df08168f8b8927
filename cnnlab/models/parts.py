"""Take a classifier apart: replace its head, or split it into stages."""

from typing import TypeVar

from torch import nn

from cnnlab.models.initial import initialise
from cnnlab.models.resnet import Backbone, SmallResNet, build_head, check_dropout


M = TypeVar("M", bound=nn.Module)

# Families of torchvision models that run their children in the order of their definition.
_FAMILIES = ("ResNet", "VGG", "DenseNet", "MobileNetV2", "MobileNetV3", "EfficientNet", "ConvNeXt")


def replace_head(model: M, num_classes: int, dropout: float = 0.0) -> M:
    """Replace the last linear layer of a classifier, in place; the backbone stays as it is.

    Args:
        model: a classifier whose last linear layer is its head. This holds for all classifiers of
            the course and for nearly all of torchvision's.
        num_classes: K, the number of classes of the new task.
        dropout: fraction of the features that is set to zero in front of the new layer.

    Returns:
        The same model.

    Raises:
        ValueError: the model has no linear layer, or an argument is out of range.

    >>> import torch
    >>> from cnnlab.models import small_resnet
    >>> model = replace_head(small_resnet(97), 10)
    >>> model(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    check_dropout(dropout)
    name, old = last_linear(model)
    linear = initialise(nn.Linear(old.in_features, num_classes, bias=old.bias is not None))
    linear.to(old.weight)  # the device and dtype of the old layer
    parent = name.rpartition(".")[0]
    head: nn.Module = linear
    if isinstance(model, SmallResNet):
        name, head = "head", build_head(linear, dropout)
    elif isinstance(model.get_submodule(parent), _DropoutLinear):  # from an earlier call
        name = parent
    if dropout and head is linear:
        head = _DropoutLinear(nn.Dropout(dropout), linear)
    model.set_submodule(name, head.train(model.training))
    return model


class _DropoutLinear(nn.Sequential):
    """A new head: dropout, then a linear layer."""


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the dotted name of the last linear layer, and the layer."""
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no linear layer inside that could be its head; add one "
            "yourself: model.head = nn.Linear(n_features, num_classes)"
        )
    return linear[-1]


def stages(model: nn.Module) -> list[nn.Module]:
    """Split a model into stages, from bottom to top: stem, blocks, head.

    Every parameter is in exactly one stage. Freezing, layer-wise learning rates and gradual
    unfreezing work on stages. In torchvision's models a new stage begins wherever a layer reduces
    the resolution.

    Args:
        model: a `small_resnet`; a ResNet, VGG, DenseNet, MobileNet, EfficientNet or ConvNeXt from
            torchvision, with or without `pretrained`; or any module that runs its children one
            after the other, in which case every child with parameters is a stage.

    Returns:
        At least one module; the last one is the head.

    Raises:
        ValueError: some parameters belong to the model itself and to none of its children.

    >>> from cnnlab.models import small_resnet
    >>> [type(s).__name__ for s in stages(small_resnet(10))]
    ['Sequential', 'Block', 'Block', 'Sequential']
    """
    if isinstance(model, SmallResNet):
        return [model.stem, *model.blocks, model.head]
    if isinstance(model, Backbone):
        return stages(model.net)
    kind = type(model)
    if kind.__name__ in _FAMILIES and kind.__module__.startswith("torchvision.models."):
        return _stages_by_resolution(model)
    loose = [name for name, _ in model.named_parameters(recurse=False)]
    if loose:
        raise ValueError(
            f"the parameters {', '.join(loose)} of {kind.__name__} are in none of its children, so "
            "it can't be split; list its stages yourself, from bottom to top"
        )
    return [child for child in model.children() if _has_parameters(child)]


def _stages_by_resolution(model: nn.Module) -> list[nn.Module]:
    """Start a new stage at each layer that reduces the resolution.

    The hidden layers of the classifier, if there are any, and the head are the last two stages.
    """
    *backbone, classifier = model.children()
    # All families but ResNet keep their convolutions in `features`, followed only by pooling.
    if type(model).__name__ != "ResNet":
        backbone = list(model.get_submodule("features").children())
    *hidden, head = classifier if isinstance(classifier, nn.Sequential) else [classifier]
    groups: list[list[nn.Module]] = []
    for layer in backbone:
        if not groups or _downsamples(layer):
            groups.append([])
        groups[-1].append(layer)
    groups = [[layer for layer in group if _has_parameters(layer)] for group in (*groups, hidden)]
    return [*(g[0] if len(g) == 1 else nn.Sequential(*g) for g in groups if g), head]


def _downsamples(layer: nn.Module) -> bool:
    """Return whether a layer, or one inside it, has a stride above 1."""
    strides = (getattr(m, "stride", 1) for m in layer.modules())
    return any(max(s) > 1 if isinstance(s, tuple) else s > 1 for s in strides)


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
