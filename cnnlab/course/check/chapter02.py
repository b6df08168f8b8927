"""Check the exercises of chapter 2: batch norm, dropout and He initialisation.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import generator


DIMS = (0, 2, 3)  # the mean of a channel is over images, rows and columns


def _observe_batch_norm(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 21)
    # A small standard deviation, so that eps changes the result, and its place in the formula too.
    x = 0.05 * torch.randn(5, 3, 4, 2, generator=g) + torch.randn(3, 1, 1, generator=g)
    scale, shift = 0.5 + torch.rand(3, generator=g), torch.randn(3, generator=g)
    before = x.clone()
    returned = attempt(x, scale, shift, 1e-3)
    return {"the value you return": returned, "`x` unchanged": torch.equal(x, before)}


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Normalise each channel over the images and pixels of the batch, then scale and shift it."""
    mean = x.mean(dim=DIMS, keepdim=True)
    variance = x.var(dim=DIMS, keepdim=True, correction=0)
    x_hat = (x - mean) / (variance + eps).sqrt()
    return scale[:, None, None] * x_hat + shift[:, None, None]


def _normalise(x: Tensor, scale: Tensor, shift: Tensor, std: Tensor, mean: Tensor) -> Tensor:
    return scale[:, None, None] * (x - mean) / std + shift[:, None, None]


def _unbiased(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    std = (x.var(DIMS, keepdim=True) + eps).sqrt()
    return _normalise(x, scale, shift, std, x.mean(DIMS, keepdim=True))


def _each_image_alone(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    dims = (1, 2, 3)
    std = (x.var(dims, keepdim=True, correction=0) + eps).sqrt()
    return _normalise(x, scale, shift, std, x.mean(dims, keepdim=True))


def _each_pixel_alone(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    std = (x.var(0, keepdim=True, correction=0) + eps).sqrt()
    return _normalise(x, scale, shift, std, x.mean(0, keepdim=True))


def _one_for_all_channels(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    return _normalise(x, scale, shift, (x.var(correction=0) + eps).sqrt(), x.mean())


def _eps_outside(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    std = x.var(DIMS, keepdim=True, correction=0).sqrt() + eps
    return _normalise(x, scale, shift, std, x.mean(DIMS, keepdim=True))


def _by_the_variance(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    variance = x.var(DIMS, keepdim=True, correction=0) + eps
    return _normalise(x, scale, shift, variance, x.mean(DIMS, keepdim=True))


def _no_scale_and_shift(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    return batch_norm(x, torch.ones_like(scale), torch.zeros_like(shift), eps)


def _in_place(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    return x.copy_(batch_norm(x, scale, shift, eps))


BATCH_NORM = Exercise(
    name="batch_norm",
    task="`batch_norm(x, scale, shift, eps)`, the forward pass in training mode",
    observe=_observe_batch_norm,
    answer=batch_norm,
    praise="You normalise each channel over images and pixels, then apply the scale and the shift.",
    mistakes={
        "unbiased variance": Mistake(
            _unbiased,
            "your variance divides by N - 1, but batch norm normalises with the variance that "
            "divides by N.",
            "`var` divides by N - 1 by default; look up its `correction` argument",
        ),
        "each image alone": Mistake(
            _each_image_alone,
            "you normalise each image by itself, over all its channels: that is layer norm.",
            "which dimension keeps its own mean, and which ones do you average over?",
        ),
        "each pixel alone": Mistake(
            _each_pixel_alone,
            "you compute a separate mean for each pixel, but all pixels of a channel share one "
            "mean.",
            "over which dimensions besides the batch should you average?",
        ),
        "one for all channels": Mistake(
            _one_for_all_channels,
            "you use one mean and one variance for all channels, but each channel needs its own.",
            "over which dimension must you not average?",
        ),
        "eps outside the root": Mistake(
            _eps_outside,
            "you add eps to the standard deviation, but batch norm adds it to the variance.",
            "where is eps in the equation, inside the square root or outside?",
        ),
        "divides by the variance": Mistake(
            _by_the_variance,
            "you divide by the variance, so the standard deviation of the result isn't 1.",
            "what is the variance of x / a, and which a makes it 1?",
        ),
        "no scale and shift": Mistake(
            _no_scale_and_shift,
            "you don't apply the scale and the shift, which the network learns.",
            "where do gamma and beta appear in the equation?",
        ),
        "in place": Mistake(
            _in_place,
            "your result is correct, but you overwrite the images that were passed in.",
            "write into a new tensor; the backward pass still needs the old values",
        ),
    },
)


def _observe_dropout(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 22)
    x = 1 + torch.rand(6, 8, generator=g)
    draws = torch.rand(6, 8, generator=g)
    # Below 0.5, so that dropping and keeping with probability p are different.
    p = 0.2 + 0.2 * torch.rand((), generator=g).item()
    before = x.clone()
    return {
        "the value you return in training mode": attempt(x, p, draws, True),
        "the value you return in evaluation mode": attempt(x, p, draws, False),
        "`x` unchanged": torch.equal(x, before),
    }


def dropout(x: Tensor, p: float, draws: Tensor, training: bool) -> Tensor:
    """In training, zero the features whose draw is below p and scale up the rest."""
    return torch.where(draws < p, 0.0, x / (1 - p)) if training else x


def _no_scaling(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws < p, 0.0, x) if training else x


def _scales_in_evaluation(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws < p, 0.0, x) if training else x * (1 - p)


def _keeps_p(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws < p, x / p, 0.0) if training else x


def _divides_by_p(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws < p, 0.0, x / p) if training else x


def _always_on(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws < p, 0.0, x / (1 - p))


def _one_draw_per_feature(x, p, draws, training):  # type: ignore[no-untyped-def]
    return torch.where(draws[:1] < p, 0.0, x / (1 - p)) if training else x


def _dropout_in_place(x, p, draws, training):  # type: ignore[no-untyped-def]
    return x.copy_(dropout(x, p, draws, training))


DROPOUT = Exercise(
    name="dropout",
    task="`dropout(x, p, draws, training)`, inverted dropout",
    observe=_observe_dropout,
    answer=dropout,
    praise="The expected value of each feature stays the same, so evaluation mode needs no "
    "correction.",
    mistakes={
        "no scaling": Mistake(
            _no_scaling,
            "you don't scale the remaining features up, so the next layer sees smaller sums in "
            "training than at inference.",
            "what fraction of the sum is left on average after dropping, and how do you make up "
            "for the rest?",
        ),
        "scaled in use": Mistake(
            _scales_in_evaluation,
            "you scale in evaluation mode. That is correct on average, but inverted dropout, "
            "which the exercise asks for, scales in training.",
            "in evaluation mode, inverted dropout should return its input",
        ),
        "keeps the share p": Mistake(
            _keeps_p,
            "you keep features with probability p, but p is the probability of dropping one.",
            "what should remain when p = 0?",
        ),
        "divides by p": Mistake(
            _divides_by_p,
            "you divide the remaining features by p, but p isn't the fraction that remains.",
            "with p = 0.1 almost everything remains: by what factor should it grow?",
        ),
        "always on": Mistake(
            _always_on,
            "you drop features in evaluation mode too, so the predictions of the network are "
            "random.",
            "what should `training=False` do?",
        ),
        "one draw a feature": Mistake(
            _one_draw_per_feature,
            "all images lose the same features, but each image should get its own mask.",
            "compare the shape of your mask with the shape of `x`",
        ),
        "in place": Mistake(
            _dropout_in_place,
            "your result is correct, but you overwrite the features that were passed in.",
            "write the result into a new tensor",
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
    return {f"the value for shape {shape}": attempt(torch.empty(shape)) for shape in shapes}


def he_std(weight: Tensor) -> float:
    """Return sqrt(2 / fan_in); fan_in counts the input channels and the pixels of the kernel."""
    return math.sqrt(2 / weight[0].numel())


def _ignores_kernel_size(weight):  # type: ignore[no-untyped-def]
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
    task="`he_std(weight)`, the standard deviation of He initialisation",
    observe=_observe_he,
    answer=he_std,
    praise="With this standard deviation, the scale of the signal stays the same through "
    "convolutions and ReLUs.",
    mistakes={
        "channels alone": Mistake(
            _ignores_kernel_size,
            "your fan-in counts only the input channels, but each output also sums over the "
            "pixels of the kernel.",
            "how many products does a 3 x 3 convolution add up for one output value?",
        ),
        "fan-out": Mistake(
            _fan_out,
            "you use the fan-out, the number of outputs that one input feeds into. The forward "
            "pass depends on the number of inputs of each output.",
            "the shape of the weights is (out, in, height, width)",
        ),
        "no root": Mistake(
            _variance,
            "you return the variance, but the exercise asks for the standard deviation.",
            "how are the two related?",
        ),
        "LeCun's rule": Mistake(
            _lecun,
            "this is LeCun initialisation, which suits tanh-like activations, but a ReLU sets "
            "half of the signal to zero.",
            "which factor makes up for the lost half?",
        ),
        "Xavier's rule": Mistake(
            _xavier,
            "this is Xavier initialisation, which uses the mean of fan-in and fan-out.",
            "which of the two does He initialisation use?",
        ),
    },
)

EXERCISES = (BATCH_NORM, DROPOUT, HE_STD)
