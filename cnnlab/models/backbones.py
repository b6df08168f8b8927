"""Networks that have learnt already: the course's own, which ships with it, and every classifier of torchvision."""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import nn

from cnnlab.data.torchvision_sets import knock, patience
from cnnlab.errors import CheckpointError, DownloadError
from cnnlab.models.parts import last_linear, replace_head
from cnnlab.models.resnet import Backbone, Normalize, SmallResNet, small_resnet


GLYPHNET = Path(__file__).parent / "weights" / "glyphnet.safetensors"
WIDTH = 24  # channels of its stem
INSTEAD = 'pretrained("glyphnet", ...) ships with cnnlab and needs no network'

# They train with a second loss, which no usual loop has.
_TWO_OUTPUTS = ("googlenet", "inception_v3")


def pretrained(
    name: str, num_classes: int, *, weights: str | None = "default"
) -> SmallResNet | Backbone:
    """Return a network that has learnt on another task, with a new head for yours.

    | name | learnt on | network needed |
    |---|---|---|
    | `"glyphnet"` | 16,000 printed letters and symbols, 32 x 32 | no |
    | `"resnet18"`, `"resnet50"`, `"vgg16"`, `"densenet121"`, `"mobilenet_v3_small"`, ... | ImageNet | once |

    Every network takes pixels in [0, 1]: its own normalisation is its first layer. The size that it has learnt on is
    `model.size`; `data.transform(model)` brings a data set to it. Downloaded weights are kept in torch's cache.

    Args:
        name: `"glyphnet"`, or a classifier in `torchvision.models.list_models(torchvision.models)`.
        num_classes: K of your task; the head is new and random.
        weights: `"default"`, the best known; the name of others, such as `"IMAGENET1K_V1"`; or None for random
            ones: the same network from scratch.

    Raises:
        ValueError: the name or the weights are unknown, or the network is not one that `replace_head` understands.
        DownloadError: the weights are not in the cache and could not be fetched.
        CheckpointError: the file of weights is damaged.

    >>> import torch
    >>> model = pretrained("glyphnet", 10)
    >>> model(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    if name == "glyphnet":
        return _glyphnet(num_classes, weights)
    import torchvision

    _check_name(name, torchvision.models.list_models(torchvision.models))
    choices = torchvision.models.get_model_weights(name)
    chosen = None if weights is None else _choose(weights, choices)
    net = torchvision.models.get_model(name, weights=None)
    last_linear(net)  # before the download
    if chosen is not None:
        _fill(net, chosen)
    preset = (chosen or choices.DEFAULT).transforms()
    normalize = Normalize(preset.mean, preset.std)
    return Backbone(replace_head(net, num_classes), normalize, preset.crop_size[0])


def _glyphnet(num_classes: int, weights: str | None) -> SmallResNet:
    if weights not in ("default", None):
        raise ValueError(
            f'glyphnet has the weights "default", or None for random ones; got {weights!r}'
        )
    if weights is None:
        return small_resnet(num_classes, width=WIDTH)
    contents = GLYPHNET.read_bytes()
    card = json.loads(GLYPHNET.with_suffix(".json").read_text(encoding="utf-8"))
    if hashlib.sha256(contents).hexdigest() != card["sha256"]:
        raise CheckpointError(
            f"{GLYPHNET} is damaged: its digest is not the one in {GLYPHNET.stem}.json; install cnnlab again, or call "
            "`cnnlab pretrain`, which makes both anew in a few minutes"
        )
    state = load(contents)
    model = small_resnet(len(state["head.linear.bias"]), width=WIDTH)
    model.load_state_dict(state)  # copies half precision into the model's own
    return replace_head(model, num_classes)


def packed(model: nn.Module) -> bytes:
    """Return the weights of a model as the contents of a safetensors file, in half precision."""
    return save(
        {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    )


def _check_name(name: str, known: list[str]) -> None:
    if name in _TWO_OUTPUTS:
        raise ValueError(
            f"{name} gives two outputs in training, which the Trainer does not understand; resnet50 does as well"
        )
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "glyphnet"], n=3)
        guess = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ValueError(
            f"no pretrained network is called {name!r}. {guess}There is 'glyphnet', and what "
            "torchvision.models.list_models(torchvision.models) lists"
        )


def _choose(weights: str, choices: Any) -> Any:
    """The member of torchvision's enum of that name."""
    named = choices.__members__
    if weights.upper() != "DEFAULT" and weights not in named:
        raise ValueError(
            f'weights may be "default", None, {", ".join(map(repr, named))}; got {weights!r}'
        )
    return choices.DEFAULT if weights.upper() == "DEFAULT" else named[weights]


def _fill(net: nn.Module, weights: Any) -> None:
    """Load weights from torch's cache, or fetch them if they are not there; only tensors are read."""
    import torch.hub

    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    there = path.exists()
    try:
        with patience():
            if not there:
                knock(weights.url)
            state = weights.get_state_dict(map_location="cpu", weights_only=True, check_hash=True)
        net.load_state_dict(state)
    except Exception as error:  # noqa: BLE001 - of a dozen types: no network, no room, a damaged file
        if there:
            raise CheckpointError(
                f"{path} cannot be read as weights ({_line(error)}); delete it, and it will be fetched again"
            ) from None
        raise DownloadError(
            f"{weights} is not in {path.parent} and did not come from {weights.url} ({_line(error)}). "
            f"Fetch it where there is a network and put it there, or take another network: {INSTEAD}"
        ) from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
