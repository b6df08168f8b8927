"""Weight initialisation."""

import math
from typing import Literal, TypeVar

from torch import nn


M = TypeVar("M", bound=nn.Module)
Scheme = Literal["he", "xavier", "lecun", "tiny", "huge"]

_SCHEMES = ("he", "xavier", "lecun", "tiny", "huge")


def initialise(model: M, scheme: Scheme = "he") -> M:
    """Draw new weights for every convolution and linear layer, in place.

    The weights of a layer with fan-in n and fan-out m come from torch's global generator. They are
    normally distributed with mean 0 and the standard deviation

    | scheme | standard deviation | source |
    |---|---|---|
    | he | sqrt(2 / n) | He et al. 2015, eq. 10, https://arxiv.org/abs/1502.01852 |
    | xavier | sqrt(2 / (n + m)) | Glorot & Bengio 2010, eq. 12 |
    | lecun | sqrt(1 / n) | LeCun et al. 1998, "Efficient BackProp", eq. 16 |
    | tiny, huge | a tenth of he, three times he | to watch activations vanish or explode |

    Biases become 0. Normalisation layers are reset, to weight 1 and bias 0.

    Args:
        model: changed in place.
        scheme: one of the names above.

    Returns:
        The same model.

    Raises:
        ValueError: the scheme is unknown.

    >>> layer = initialise(nn.Conv2d(64, 64, 3), "he")
    >>> abs(layer.weight.std().item() / (2 / (64 * 9)) ** 0.5 - 1) < 0.05
    True
    """
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(_SCHEMES)}; got {scheme!r}")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=_std(module, scheme))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
    return model


def _std(layer: nn.Conv2d | nn.Linear, scheme: str) -> float:
    """Return the standard deviation of a layer's weights under a scheme."""
    n, m = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    he = math.sqrt(2 / n)
    return {
        "he": he,
        "xavier": math.sqrt(2 / (n + m)),
        "lecun": math.sqrt(1 / n),
        "tiny": 0.1 * he,
        "huge": 3 * he,
    }[scheme]
