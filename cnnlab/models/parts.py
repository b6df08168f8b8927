"""The parts of a classifier: its head, which can be replaced, and its stages."""

from typing import TypeVar

from torch import nn

from cnnlab.models.initial import initialise
from cnnlab.models.resnet import Backbone, SmallResNet, check_share, small_head


M = TypeVar("M", bound=nn.Module)

# Families of torchvision whose layers follow each other in the order in which they are written down.
_FAMILIES = ("ResNet", "VGG", "DenseNet", "MobileNetV2", "MobileNetV3", "EfficientNet", "ConvNeXt")


def replace_head(model: M, num_classes: int, dropout: float = 0.0) -> M:
    """Give a classifier a new last layer with `num_classes` outputs, in place; the body stays as it is.

    Args:
        model: a classifier whose last linear layer is its head, as in all of torchvision's and ours.
        num_classes: K of the new task.
        dropout: share of the features set to zero before the new layer.

    Returns:
        The same model.

    Raises:
        ValueError: the model has no linear layer.

    >>> import torch
    >>> from cnnlab.models import small_resnet
    >>> model = replace_head(small_resnet(97), 10)
    >>> model(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    check_share(dropout)
    name, old = last_linear(model)
    new = initialise(nn.Linear(old.in_features, num_classes, bias=old.bias is not None))
    new.to(old.weight)  # the device and the number type of the layer it replaces
    parent = name.rpartition(".")[0]
    head: nn.Module = new
    if isinstance(model, SmallResNet):
        name, head = "head", small_head(new, dropout)
    elif isinstance(model.get_submodule(parent), _WithDropout):  # of an earlier call
        name = parent
    if dropout and head is new:
        head = _WithDropout(nn.Dropout(dropout), new)
    model.set_submodule(name, head.train(model.training))
    return model


class _WithDropout(nn.Sequential):
    """Dropout and a linear layer."""


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the dotted name of the last linear layer, and the layer."""
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no linear layer inside that could be its head; "
            "put one there by hand: model.head = nn.Linear(features, num_classes)"
        )
    return linear[-1]


def stages(model: nn.Module) -> list[nn.Module]:
    """Split a model into its stages, bottom to top: stem, blocks, head.

    Each trainable parameter lies in exactly one stage. Freezing, layer-wise rates and gradual unfreezing work
    on these. In the families of torchvision a stage begins where the picture becomes smaller.

    Args:
        model: a `small_resnet`; a ResNet, VGG, DenseNet, MobileNet, EfficientNet or ConvNeXt of torchvision, from
            `pretrained` or bare; or any module whose children follow each other, each of which is then a stage.

    Returns:
        At least one module; the last one is the head.

    Raises:
        ValueError: the model has parameters of its own outside its children.

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
        return _by_size(model)
    loose = [name for name, _ in model.named_parameters(recurse=False)]
    if loose:
        raise ValueError(
            f"{kind.__name__} holds {', '.join(loose)} outside of its children; "
            "list its stages by hand, bottom to top"
        )
    return [child for child in model.children() if _has_weights(child)]


def _by_size(model: nn.Module) -> list[nn.Module]:
    """A stage from each layer that makes the picture smaller to the next; what lies below the head; the head."""
    *body, top = model.children()
    # All but the ResNets keep their body in `features`, between which and the classifier there is but pooling.
    layers = (
        body
        if type(model).__name__ == "ResNet"
        else list(model.get_submodule("features").children())
    )
    *hidden, head = top if isinstance(top, nn.Sequential) else [top]
    groups: list[list[nn.Module]] = []
    for layer in layers:
        if not groups or _shrinks(layer):
            groups.append([])
        groups[-1].append(layer)
    found = [[layer for layer in group if _has_weights(layer)] for group in (*groups, hidden)]
    return [*(g[0] if len(g) == 1 else nn.Sequential(*g) for g in found if g), head]


def _shrinks(layer: nn.Module) -> bool:
    """Whether a layer, or one inside it, takes more than one step at a time."""
    strides = (getattr(m, "stride", 1) for m in layer.modules())
    return any(max(s) > 1 if isinstance(s, tuple) else s > 1 for s in strides)


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
