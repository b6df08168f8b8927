"""Take a classifier apart: replace its head, or split it into stages."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import TypeVar

from torch import nn
from torch.nn.parameter import is_lazy

from cnnlab.errors import holds
from cnnlab.models.efficientnet import EfficientNetLite0
from cnnlab.models.initial import initialise
from cnnlab.models.resnet import Backbone, SmallResNet, build_head, check_dropout
from cnnlab.models.tracing import Calls, trace


M = TypeVar("M", bound=nn.Module)
Part = nn.Module | nn.Parameter

# Families of torchvision models in which a new stage begins where the resolution falls.
_FAMILIES = (
    *("ConvNeXt", "DenseNet", "EfficientNet", "MaxVit", "MNASNet", "MobileNetV2", "MobileNetV3"),
    *("RegNet", "ResNet", "SqueezeNet", "SwinTransformer", "VGG"),
)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LARGEST = 0.6  # fraction of all weights; a larger stage is split further, if it is deep enough


def replace_head(model: M, num_classes: int, dropout: float = 0.0) -> M:
    """Replace the linear layer that computes the logits, in place; the backbone stays as it is.

    The layer is found by following the forward pass, wherever it was defined. In a model whose
    forward pass can't be followed (see `torch.fx`), it is the linear layer that was defined last.

    Args:
        model: a classifier whose logits come from a linear layer. This holds for all classifiers of
            the course and for nearly all of torchvision's.
        num_classes: K, the number of classes of the new task.
        dropout: fraction of the features that is set to zero in front of the new layer.

    Returns:
        The same model.

    Raises:
        ValueError: the logits don't come from a single linear layer, or an argument is out of
            range.

    >>> import torch
    >>> from cnnlab.models import small_resnet
    >>> model = replace_head(small_resnet(97), 10)
    >>> model(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    if not holds(lambda: index(num_classes) >= 1):
        raise ValueError(f"num_classes must be a whole number of at least 1, got {num_classes!r}")
    check_dropout(dropout)
    network = uncompiled(model)
    name, old = last_linear(network, only=True)
    linear = initialise(nn.Linear(old.in_features, num_classes, bias=old.bias is not None))
    linear.to(old.weight)  # the device and dtype of the old layer
    parent = name.rpartition(".")[0]
    head: nn.Module = linear
    if isinstance(network, SmallResNet):
        name, head = "head", build_head(linear, dropout)
    elif isinstance(network.get_submodule(parent), _DropoutLinear):  # from an earlier call
        name = parent
    if dropout and head is linear:
        head = _DropoutLinear(nn.Dropout(dropout), linear)
    network.set_submodule(name, head.train(network.training))
    for module in network.modules():
        if isinstance(module, Backbone):
            module.classes = ()  # they belong to the old head
    return model


class _DropoutLinear(nn.Sequential):
    """A new head: dropout, then a linear layer."""


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model inside what `torch.compile(model)` returned; any other model as it is."""
    return getattr(model, "_orig_mod", model)


def last_linear(model: nn.Module, only: bool = False) -> tuple[str, nn.Linear]:
    """Return the dotted name of the linear layer that computes the outputs, and the layer.

    Args:
        model: a classifier.
        only: whether to refuse a model in which several linear layers do; otherwise it is the last
            of them.

    Raises:
        ValueError: there is no such layer, or several.
    """
    name, kind = _last_linear_name(model, only), type(model).__name__
    layer = model.get_submodule(name) if name else None
    if isinstance(layer, nn.Linear):
        return name, layer
    if layer is None:
        raise ValueError(
            f"{kind} has no linear layer inside that could be its head; add one yourself: "
            "model.head = nn.Linear(n_features, num_classes)"
        )
    raise ValueError(
        f"{kind} has no linear layer at its end: its last layer is {name}, a "
        f"{type(layer).__name__}. Replace that one yourself: model.set_submodule({name!r}, layer)"
    )


def _last_linear_name(model: nn.Module, only: bool) -> str:
    """Return the name of the last layer that computes outputs, if possible a linear one."""
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    calls = trace(model)
    outputs = calls.output_layers() if calls else []
    heads = [name for name in dict.fromkeys(outputs) if name in linear]
    if only and len(heads) > 1:
        raise ValueError(
            f"{type(model).__name__} has {len(heads)} linear layers at its end, "
            f"{', '.join(heads)}: replace each yourself, as in model.set_submodule({heads[-1]!r}, "
            "nn.Linear(n_features, num_classes))"
        )
    return (heads or outputs or linear or [""])[-1]


def stages(model: nn.Module) -> list[nn.Module]:
    """Split a model into stages, from bottom to top: stem, blocks, head.

    Every parameter is in exactly one stage. Freezing, layer-wise learning rates and gradual
    unfreezing work on stages. In EfficientNet-Lite0 and torchvision's convolutional networks a new
    stage begins wherever a layer reduces the resolution; in a vision transformer every layer is a
    stage. In any other network every child with parameters is a stage, in the order in which they
    run, and a child with more than 60 % of the weights is split into its own children, if they run
    one after the other. Wrappers, such as `nn.Sequential(Normalize(mean, std), network)` or
    `torch.compile(network)`, are split like the network inside.

    Args:
        model: a `small_resnet`; a network of `pretrained`, or of torchvision without it; or any
            other network.

    Returns:
        At least one module; the last one is the head.

    Raises:
        ValueError: there are no parameters, or some belong to the model itself and it isn't known
            where they are used.

    >>> from cnnlab.models import small_resnet
    >>> [type(s).__name__ for s in stages(small_resnet(10))]
    ['Sequential', 'Block', 'Block', 'Sequential']
    """
    model = _without_wrappers(model)
    if isinstance(model, SmallResNet):
        return [model.stem, *model.blocks, model.head]
    kind = type(model)
    torchvision = kind.__name__ in _FAMILIES and kind.__module__.startswith("torchvision.models.")
    if torchvision or isinstance(model, EfficientNetLite0):
        groups = _groups_by_resolution(model)
    else:
        groups = _groups_by_child(model)
    if not groups:
        raise ValueError(f"{kind.__name__} has no parameters, so it has no stages")
    return [_as_module(group) for group in groups]


def _without_wrappers(model: nn.Module) -> nn.Module:
    """Return the network inside modules that contain nothing else with parameters."""
    while not isinstance(model, SmallResNet):
        inside = list(_parts(model).values())
        if len(inside) != 1 or not isinstance(inside[0], nn.Module) or not _parts(inside[0]):
            break
        if not any(isinstance(part, nn.Module) for part in _parts(inside[0]).values()):
            break  # a single layer
        model = inside[0]
    return model


def _groups_by_child(model: nn.Module) -> list[list[Part]]:
    """Return the parts of each stage of a network of unknown structure."""
    calls, limit = trace(model), LARGEST * _size([model])
    parts = _parts(model)
    loose = [name for name, part in parts.items() if isinstance(part, nn.Parameter)]
    if loose and calls is not None and len(loose) == len(parts):
        return [[model]]  # a single layer
    if loose and calls is None:
        raise ValueError(
            f"the parameters {', '.join(loose)} of {type(model).__name__} are in none of its "
            "children, so it can't be split; list its stages yourself, from bottom to top, as in "
            "param_groups(model, lr, stages=[...])"
        )
    waiting = list(parts)
    while waiting:
        name = waiting.pop()
        part = parts[name]
        others = [other for n, other in parts.items() if n != name]
        # a child that shares its weights with another one stays whole
        if isinstance(part, nn.Module) and _size([part, *others]) - _size(others) > limit:
            inside = _parts(part, f"{name}.")
            known = calls is not None and calls.is_known(name)
            if _can_be_split(part, inside, calls if known else None, limit):
                del parts[name]
                parts |= inside
                waiting += inside
    groups: list[list[Part]] = []
    for part in _in_order(parts, model, calls):
        if groups and (_is_small(part) or all(map(_is_small, groups[-1]))):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _can_be_split(
    module: nn.Module, inside: Mapping[str, Part], calls: Calls | None, limit: float
) -> bool:
    """Return whether the children of a module are layers that run one after the other."""
    children = {name: part for name, part in inside.items() if isinstance(part, nn.Module)}
    if not children or isinstance(module, _CONTAINERS) or len(inside) == 1:
        return bool(children)
    if calls is not None:
        return calls.run_in_sequence(list(children))
    # Not known, but a long list of layers that makes up nearly everything is rarely anything else.
    return len(inside) == len(children) and any(
        isinstance(child, _CONTAINERS) and _size([child]) > limit for child in children.values()
    )


def _in_order(parts: Mapping[str, Part], model: nn.Module, calls: Calls | None) -> list[Part]:
    """Return parts in the order in which they run, the head last.

    A part that never runs, such as an auxiliary classifier, keeps its place below the next one.
    """
    modules = model.named_modules(remove_duplicate=False)
    defined = [n for n, _ in [*modules, *model.named_parameters(remove_duplicate=False)]]
    names = sorted(parts, key=defined.index)
    used = {name: calls.positions(name) for name in names} if calls else {}
    if not any(used.values()):
        return [parts[name] for name in names]
    head = max(
        (name for name in names if used[name] and _size([parts[name]])),
        key=lambda name: used[name][-1],
        default=None,
    )
    start, last = {}, -1
    for name in names:
        start[name] = last = used[name][0] if used[name] else last
    return [parts[n] for n in sorted(names, key=lambda name: (name == head, start[name]))]


def _groups_by_resolution(model: nn.Module) -> list[list[Part]]:
    """Start a new stage at each layer that reduces the resolution.

    The hidden layers of the classifier, if there are any, are a stage, and the head is one.
    """
    *backbone, classifier = _in_order(dict(model.named_children()), model, trace(model))
    assert isinstance(classifier, nn.Module)  # a child
    *hidden, head = _children(classifier) if isinstance(classifier, nn.Sequential) else [classifier]
    groups: list[list[Part]] = []
    for layer in (layer for child in backbone for layer in _layers_by_resolution(child)):
        if not groups or _downsamples(layer):
            groups.append([])
        groups[-1].append(layer)
    groups = [[layer for layer in group if _size([layer])] for group in groups]
    groups = [group for group in groups if group]
    if groups and all(map(_is_small, hidden)):
        groups[-1] += hidden
    else:
        groups.append([*hidden])
    # The head counts as one for ImageNet: the stages don't depend on the number of classes.
    features = next((p.shape[1] for p in head.parameters() if p.ndim > 1), 0)
    limit = LARGEST * (sum(map(_size, groups)) + 1000 * features)
    return [half for group in groups for half in _halved(group, limit)] + [[head]]


def _layers_by_resolution(module: Part) -> list[Part]:
    """Return the layers of a container in which several reduce the resolution."""
    if not isinstance(module, nn.Sequential | nn.ModuleList) or sum(map(_downsamples, module)) < 2:
        return [module]
    return [layer for child in module for layer in _layers_by_resolution(child)]


def _downsamples(layer: Part) -> bool:
    """Return whether a layer, or one inside it, has a stride above 1 or merges patches."""
    modules = list(layer.modules()) if isinstance(layer, nn.Module) else []
    strides = (getattr(m, "stride", 1) for m in modules)
    return any(max(s) > 1 if isinstance(s, tuple) else s > 1 for s in strides) or any(
        type(m).__name__.startswith("PatchMerging") for m in modules
    )


def _halved(group: list[Part], limit: float) -> list[list[Part]]:
    """Cut a group with more than `limit` weights in halves, between blocks or inside a long one."""
    blocks = [block for part in group for block in _blocks(part)]
    if _size(group) <= limit or len(blocks) < 4:
        return [group] if group else []
    first, second = _cut(group)
    if max(_size(first), _size(second)) > limit:
        first, second = _cut(blocks)
    return _halved(first, limit) + _halved(second, limit)


def _cut(layers: list[Part]) -> tuple[list[Part], list[Part]]:
    """Cut a list of layers where both sides have the most similar number of weights."""
    cuts = [(layers[:i], layers[i:]) for i in range(len(layers))]
    return min(cuts, key=lambda cut: abs(_size(cut[0]) - _size(cut[1])))


def _blocks(part: Part) -> list[Part]:
    """Return the blocks of a sequence of blocks; anything else counts as one block."""
    children = _children(part) if isinstance(part, nn.Sequential) else []
    if not children or any(not _children(child) for child in children):
        return [part]
    return [block for child in children for block in _blocks(child)]


def _parts(module: nn.Module, prefix: str = "") -> dict[str, Part]:
    """Return the parameters of the module itself and its children with parameters, by name."""
    parts: dict[str, Part] = dict(module.named_parameters(prefix.rstrip("."), recurse=False))
    return parts | {f"{prefix}{n}": child for n, child in module.named_children() if _size([child])}


def _children(module: nn.Module) -> list[nn.Module]:
    """Return the children with parameters."""
    return [child for child in module.children() if _size([child])]


def _is_small(part: Part) -> bool:
    """Return whether a part is no stage of its own: a normalisation layer or a loose parameter."""
    return isinstance(part, nn.Parameter) or not any(
        is_lazy(p) or p.ndim > 1 for p in part.parameters()
    )


def _size(parts: Sequence[Part]) -> int:
    """Return the number of weights, each counted once; a lazy layer, which has none yet, as one."""
    parameters = {
        id(p): p
        for part in parts
        for p in ([part] if isinstance(part, nn.Parameter) else part.parameters())
    }
    return sum(1 if is_lazy(p) else p.numel() for p in parameters.values())


def _as_module(group: Sequence[Part]) -> nn.Module:
    """Return the parts of a stage as one module, which shares their parameters."""
    modules = [part for part in group if isinstance(part, nn.Module)]
    loose = [part for part in group if isinstance(part, nn.Parameter)]
    if loose:
        modules.append(nn.ParameterList(loose))
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
