"""Chapter 2: batch norm, dropout, and how wide fresh weights should scatter."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import generator


OVER = (0, 2, 3)  # images and pixels: everything but the channels


def _observe_batch_norm(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 21)
    # A small spread, so that eps matters and where it stands shows.
    x = 0.05 * torch.randn(5, 3, 4, 2, generator=g) + torch.randn(3, 1, 1, generator=g)
    scale, shift = 0.5 + torch.rand(3, generator=g), torch.randn(3, generator=g)
    kept = x.clone()
    returned = attempt(x, scale, shift, 1e-3)
    return {"what you return": returned, "the images you were given": torch.equal(x, kept)}


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """The answer: every channel centred and scaled over the images and pixels of the batch."""
    mean = x.mean(dim=OVER, keepdim=True)
    variance = x.var(dim=OVER, keepdim=True, correction=0)
    x_hat = (x - mean) / (variance + eps).sqrt()
    return scale[:, None, None] * x_hat + shift[:, None, None]


def _normalised(x: Tensor, scale: Tensor, shift: Tensor, spread: Tensor, mean: Tensor) -> Tensor:
    return scale[:, None, None] * (x - mean) / spread + shift[:, None, None]


def _unbiased(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    spread = (x.var(OVER, keepdim=True) + eps).sqrt()
    return _normalised(x, scale, shift, spread, x.mean(OVER, keepdim=True))


def _each_image_alone(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    over = (1, 2, 3)
    spread = (x.var(over, keepdim=True, correction=0) + eps).sqrt()
    return _normalised(x, scale, shift, spread, x.mean(over, keepdim=True))


def _each_pixel_alone(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    spread = (x.var(0, keepdim=True, correction=0) + eps).sqrt()
    return _normalised(x, scale, shift, spread, x.mean(0, keepdim=True))


def _one_for_all_channels(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    return _normalised(x, scale, shift, (x.var(correction=0) + eps).sqrt(), x.mean())


def _eps_outside(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    spread = x.var(OVER, keepdim=True, correction=0).sqrt() + eps
    return _normalised(x, scale, shift, spread, x.mean(OVER, keepdim=True))


def _by_the_variance(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    spread = x.var(OVER, keepdim=True, correction=0) + eps
    return _normalised(x, scale, shift, spread, x.mean(OVER, keepdim=True))


def _no_scale_and_shift(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    return batch_norm(x, torch.ones_like(scale), torch.zeros_like(shift), eps)


def _in_place(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    return x.copy_(batch_norm(x, scale, shift, eps))


BATCH_NORM = Exercise(
    name="batch_norm",
    observe=_observe_batch_norm,
    answer=batch_norm,
    praise="Each channel is centred and scaled over images and pixels, then scaled and shifted.",
    mistakes={
        "unbiased variance": Mistake(
            _unbiased,
            "you divide by N - 1 in the variance; batch norm normalises with the plain mean of squares.",
            "`var` divides by N - 1 unless you tell it otherwise",
        ),
        "each image alone": Mistake(
            _each_image_alone,
            "every image is normalised alone, over its channels: that is layer norm.",
            "which dimensions may differ after averaging, and which are averaged away?",
        ),
        "each pixel alone": Mistake(
            _each_pixel_alone,
            "every pixel has a mean of its own; the pixels of a channel share one.",
            "average over the images and over height and width",
        ),
        "one for all channels": Mistake(
            _one_for_all_channels,
            "one mean and one spread serve all channels; each channel has its own.",
            "which dimension must be kept?",
        ),
        "eps outside the root": Mistake(
            _eps_outside,
            "eps is added to the standard deviation; it belongs to the variance, under the root.",
            "look at the place of eps in the equation",
        ),
        "divides by the variance": Mistake(
            _by_the_variance,
            "you divide by the variance, not by its root: the result has no unit spread.",
            "what is the variance of x / a?",
        ),
        "no scale and shift": Mistake(
            _no_scale_and_shift,
            "the scale and the shift, which the network learns, are not applied.",
            "two lines of the equation use gamma and beta",
        ),
        "in place": Mistake(
            _in_place,
            "the result is right, but you wrote it over the images you were given.",
            "work on a new tensor; the backward pass still needs the old one",
        ),
    },
)


def _observe_dropout(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 22)
    x = 1 + torch.rand(6, 8, generator=g)
    draws = torch.rand(6, 8, generator=g)
    p = 0.2 + 0.2 * torch.rand((), generator=g).item()  # so that keeping and dropping differ
    kept = x.clone()
    return {
        "training mode": attempt(x, p, draws, True),
        "evaluation mode": attempt(x, p, draws, False),
        "the features you were given": torch.equal(x, kept),
    }


def dropout(x: Tensor, p: float, draws: Tensor, training: bool) -> Tensor:
    """The answer: zero where a draw is below p, the rest scaled up; nothing in evaluation mode."""
    return torch.where(draws < p, 0.0, x / (1 - p)) if training else x


def _no_scaling(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws < p, 0.0, x) if training else x


def _scaled_in_use(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws < p, 0.0, x) if training else x * (1 - p)


def _keeps_p(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws < p, x / p, 0.0) if training else x


def _scaled_by_p(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws < p, 0.0, x / p) if training else x


def _always_on(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws < p, 0.0, x / (1 - p))


def _one_draw_a_feature(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws[:1] < p, 0.0, x / (1 - p)) if training else x


def _dropout_in_place(x, p, draws, training):  # type: ignore[no-untyped-def]
    return x.copy_(dropout(x, p, draws, training))


DROPOUT = Exercise(
    name="dropout",
    observe=_observe_dropout,
    answer=dropout,
    praise="The mean stays what it was, so evaluation mode has nothing to correct.",
    mistakes={
        "no scaling": Mistake(
            _no_scaling,
            "nothing is scaled up: the next layer sees smaller features in training than in use.",
            "which share of the sum is left after dropping, and by what must you divide?",
        ),
        "scaled in use": Mistake(
            _scaled_in_use,
            "you scale in evaluation mode. That is right on average, but the inverted form, which is asked for "
            "here, scales while training.",
            "evaluation mode should return what it was given",
        ),
        "keeps the share p": Mistake(
            _keeps_p,
            "p is the share that is dropped; you keep that share.",
            "with p = 0 everything stays",
        ),
        "divides by p": Mistake(
            _scaled_by_p,
            "the features that stay are divided by p; the share that stays is another one.",
            "with p = 0.1 nearly everything stays: by how much must that grow?",
        ),
        "always on": Mistake(
            _always_on,
            "features are dropped in evaluation mode too, so the answers of the network are random.",
            "what should `training=False` do?",
        ),
        "one draw a feature": Mistake(
            _one_draw_a_feature,
            "all images lose the same features; each image should lose its own.",
            "compare the shape of your mask with that of x",
        ),
        "in place": Mistake(
            _dropout_in_place,
            "the result is right, but you wrote it over the features you were given.",
            "work on a new tensor",
        ),
    },
)

_SHAPES = ((8, 3, 3, 3), (16, 8, 5, 5), (64, 32, 1, 1), (10, 128), (7, 4, 3, 5), (50, 20))


def _observe_he(attempt: Callable[..., Any], seed: int) -> Observation:
    shapes = [
        _SHAPES[seed % len(_SHAPES)],
        _SHAPES[(seed + 1) % len(_SHAPES)],
        _SHAPES[0],
        _SHAPES[3],
    ]
    return {f"weights of shape {shape}": attempt(torch.empty(shape)) for shape in shapes}


def he_std(weight: Tensor) -> float:
    """The answer: sqrt(2 / fan-in), where the fan-in counts channels and pixels of the kernel."""
    return math.sqrt(2 / weight[0].numel())


def _channels_alone(weight):  # type: ignore[no-untyped-def]
    return math.sqrt(2 / weight.shape[1])


def _fan_out(weight):  # type: ignore[no-untyped-def]
    return math.sqrt(2 / weight[:, 0].numel())


def _variance(weight):  # type: ignore[no-untyped-def]
    return 2 / weight[0].numel()


def _lecun(weight):  # type: ignore[no-untyped-def]
    return math.sqrt(1 / weight[0].numel())


def _xavier(weight):  # type: ignore[no-untyped-def]
    return math.sqrt(2 / (weight[0].numel() + weight[:, 0].numel()))


HE_STD = Exercise(
    name="he_std",
    observe=_observe_he,
    answer=he_std,
    praise="With this spread a signal keeps its size through convolutions and ReLUs.",
    mistakes={
        "channels alone": Mistake(
            _channels_alone,
            "the fan-in counts channels only; each output sums over the pixels of the kernel as well.",
            "how many products does one output pixel of a 3 x 3 convolution add up?",
        ),
        "fan-out": Mistake(
            _fan_out,
            "this is the fan-out: how many outputs one input feeds. For the forward pass count what flows in.",
            "weights have the shape (out, in, height, width)",
        ),
        "no root": Mistake(
            _variance,
            "this is the variance; the standard deviation is its root.",
            "look at the unit",
        ),
        "LeCun's rule": Mistake(
            _lecun,
            "this is LeCun's rule for tanh-like units; a ReLU throws half of the signal away.",
            "which factor makes up for the half that a ReLU sets to zero?",
        ),
        "Xavier's rule": Mistake(
            _xavier,
            "this is Xavier's rule, the middle between fan-in and fan-out.",
            "He's rule looks at the fan-in alone",
        ),
    },
)
