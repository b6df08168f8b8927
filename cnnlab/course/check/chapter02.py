"""Check the exercises of chapter 2: initialisation, batch norm, and folding it into a convolution.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import generator


DIMS = (0, 2, 3)  # the mean of a channel is over images, rows and columns


def _observe_batch_norm(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 21)
    mean = torch.tensor([4.0, 9.0]).view(2, 1, 1)
    at_mean = attempt(
        mean.repeat(2, 1, 1, 2), torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0]), 1e-3
    )
    # A small standard deviation, so that eps changes the result, and its place in the formula too.
    x = 0.05 * torch.randn(3, 2, 1, 2, generator=g) + torch.randn(2, 1, 1, generator=g)
    plain = attempt(x, torch.ones(2), torch.zeros(2), 1e-3)
    scale, shift = 0.5 + torch.rand(2, generator=g), torch.randn(2, generator=g)
    settings = "with scale=[1, 1], shift=[0, 0],"
    return {
        "your result where `x` equals its mean, with scale=[2, 3], shift=[5, 7],": at_mean[
            0, :, 0, 0
        ],
        f"the mean of your channels, {settings}": plain.mean(DIMS).round(decimals=3),
        f"the standard deviation of your channels, {settings}": plain.std(DIMS, correction=0),
        "your result for `x` of shape (3, 2, 1, 2)": attempt(x, scale, shift, 1e-3),
    }


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


def _std_plus_eps(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    std = x.std(DIMS, keepdim=True) + eps
    return _normalise(x, scale, shift, std, x.mean(DIMS, keepdim=True))


def _by_the_variance(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    variance = x.var(DIMS, keepdim=True, correction=0) + eps
    return _normalise(x, scale, shift, variance, x.mean(DIMS, keepdim=True))


def _no_scale_and_shift(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    return batch_norm(x, torch.ones_like(scale), torch.zeros_like(shift), eps)


def _each_image_and_channel_alone(x, scale, shift, eps):  # type: ignore[no-untyped-def]
    std = (x.var((2, 3), keepdim=True, correction=0) + eps).sqrt()
    return _normalise(x, scale, shift, std, x.mean((2, 3), keepdim=True))


BATCH_NORM = Exercise(
    name="batch_norm",
    task="`batch_norm(x, scale, shift, eps)`, the forward pass in training mode",
    observe=_observe_batch_norm,
    answer=batch_norm,
    praise="You normalise each channel over images and pixels, then apply the scale and the shift.",
    hint="per channel: what do you average over, and what do you divide by and add?",
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
        "unbiased, and eps outside the root": Mistake(
            _std_plus_eps,
            "your standard deviation divides by N - 1, and you add eps to it. Batch norm divides "
            "by N, and adds eps to the variance.",
            "begin with `var` and its `correction`, and take the root at the end",
        ),
        "divides by the variance": Mistake(
            _by_the_variance,
            "you divide by the variance, so the standard deviation of the result isn't 1.",
            "what is the variance of x / a, and which a makes it 1?",
        ),
        "no scale and shift": Mistake(
            _no_scale_and_shift,
            "you don't apply the scale and the shift, which the network learns.",
            "where do γ and β appear in the equation?",
        ),
        "each image and channel alone": Mistake(
            _each_image_and_channel_alone,
            "you normalise each channel of each image by itself: that is instance norm.",
            "which dimension keeps its own mean, and which ones do you average over?",
        ),
    },
)


_SHAPES = ((8, 3, 3, 3), (16, 8, 5, 5), (64, 32, 1, 1), (10, 128), (7, 4, 3, 5), (50, 20))
_ACTIVATIONS = {"ReLU": torch.relu, "tanh": torch.tanh, "the identity": lambda z: z}


def _observe_init(attempt: Callable[..., Any], seed: int) -> Observation:
    # Mirrored and scaled, so that the values for ReLU are exactly those of He's rule.
    half = torch.randn(10_000, generator=generator(seed, 22))
    z = torch.cat([half, -half]) / half.square().mean().sqrt()
    shape = _SHAPES[seed % len(_SHAPES)]
    cases = {
        f"your value for shape {shape} after {name}": (shape, activation)
        for shape in ((4, 9), (4, 2, 3, 3), shape)
        for name, activation in _ACTIVATIONS.items()
    }
    return {
        name: attempt(torch.zeros(shape), activation, z)
        for name, (shape, activation) in cases.items()
    }


def init_std(weight: Tensor, activation: Callable[[Tensor], Tensor], z: Tensor) -> float:
    """Return 1 / sqrt(fan_in * q), where q is the mean square of the activation's outputs."""
    return (weight[0].numel() * activation(z).square().mean().item()) ** -0.5


def _ignores_kernel_size(weight, activation, z):  # type: ignore[no-untyped-def]
    return (weight.shape[1] * activation(z).square().mean().item()) ** -0.5


def _fan_out(weight, activation, z):  # type: ignore[no-untyped-def]
    return (weight[:, 0].numel() * activation(z).square().mean().item()) ** -0.5


def _variance(weight, activation, z):  # type: ignore[no-untyped-def]
    return 1 / (weight[0].numel() * activation(z).square().mean().item())


def _centred(weight, activation, z):  # type: ignore[no-untyped-def]
    return (weight[0].numel() * activation(z).var().item()) ** -0.5


def _squares_first(weight, activation, z):  # type: ignore[no-untyped-def]
    return (weight[0].numel() * activation(z.square()).mean().item()) ** -0.5


def _lecun(weight, activation, z):  # type: ignore[no-untyped-def]
    return float(weight[0].numel() ** -0.5)


def _he(weight, activation, z):  # type: ignore[no-untyped-def]
    return float((2 / weight[0].numel()) ** 0.5)


def _he_of_channels(weight, activation, z):  # type: ignore[no-untyped-def]
    return float((2 / weight.shape[1]) ** 0.5)


INIT_STD = Exercise(
    name="init_std",
    task="`init_std(weight, activation, z) -> float`, which keeps the size of a signal",
    observe=_observe_init,
    answer=init_std,
    praise="For ReLU this is He's rule, for the identity LeCun's, and it works for any activation.",
    hint="print your n and your q: with ReLU and 9 inputs, they are 9 and 0.5",
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
        "variance of the inputs": Mistake(
            _centred,
            "you use the variance of the layer's inputs, but their mean isn't 0 after a ReLU, and "
            "it contributes to the sum as well.",
            "what is the mean square of a product w x, if w has mean 0 and x doesn't?",
        ),
        "squares first": Mistake(
            _squares_first,
            "you square before the activation, but the next layer reads the activation's outputs.",
            "which values are the inputs of the next layer, and what is their mean square?",
        ),
        "no activation": Mistake(
            _lecun,
            "your value doesn't depend on the activation. This is LeCun initialisation, which "
            "suits inputs with mean square 1.",
            "which part of the mean square survives a ReLU?",
        ),
        "He's rule for everything": Mistake(
            _he,
            "you use He's rule, which is made for ReLU, whatever the activation is.",
            "the 2 in He's rule is 1 / 0.5; which number takes the place of 0.5 for tanh?",
        ),
        "He's rule for channels": Mistake(
            _he_of_channels,
            "you use He's rule, whatever the activation is, and your fan-in counts only channels, "
            "not the pixels of the kernel.",
            "what is the mean square of `activation(z)`, and how many inputs has one sum?",
        ),
    },
)


def _observe_fold(attempt: Callable[..., Any], seed: int) -> Observation:
    one, norm_of_one = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0).eval()
    for value, number in (
        (one.weight, 3.0),
        (one.bias, 2.0),
        (norm_of_one.weight, 6.0),
        (norm_of_one.bias, 5.0),
        (norm_of_one.running_mean, 1.0),
        (norm_of_one.running_var, 4.0),
    ):
        nn.init.constant_(value, number)  # type: ignore[arg-type]
    small = attempt(one, norm_of_one)
    g = generator(seed, 23)
    conv, norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, eps=0.5).eval()
    values = {
        "weight": torch.randn(2, 2, 1, 1, generator=g),
        "bias": torch.randn(2, generator=g),
    }
    conv.load_state_dict(values)
    norm.load_state_dict(
        {
            "weight": 0.5 + torch.rand(2, generator=g),
            "bias": torch.randn(2, generator=g),
            "running_mean": torch.randn(2, generator=g),
            "running_var": 1 + 3 * torch.rand(2, generator=g),
            "num_batches_tracked": torch.tensor(5),
        }
    )
    before = [value.clone() for m in (conv, norm) for value in m.state_dict().values()]
    weight, bias = (value.detach().clone() for value in attempt(conv, norm))
    after = [value for m in (conv, norm) for value in m.state_dict().values()]
    problem = "weight=3, bias=2, running mean 1, running variance 4, γ=6, β=5, eps=0"
    return {
        "you change `conv` or `norm`, which belong to the caller.": not all(
            map(torch.equal, before, after)
        ),
        "you switch `norm` to training mode, in which it uses the batch.": norm.training,
        f"your [weight, bias] for {problem}": [value.sum().item() for value in small],
        "your weight for two channels": weight,
        "your bias for two channels": bias,
    }


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of one convolution that computes norm(conv(x)) at inference."""
    return _fold(conv, norm)


def _fold(
    conv: Any, norm: Any, *, scale: Any = None, mean: Any = None, bias: Any = None
) -> tuple[Tensor, Tensor]:
    """Fold with the correct values, except for those that are given."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt() if scale is None else scale
    mean = norm.running_mean if mean is None else mean
    bias = conv.bias if bias is None else bias
    return conv.weight * scale[:, None, None, None], norm.bias + (bias - mean) * scale


def _fold_without_mean(conv, norm):  # type: ignore[no-untyped-def]
    return _fold(conv, norm, mean=0.0)


def _fold_by_variance(conv, norm):  # type: ignore[no-untyped-def]
    return _fold(conv, norm, scale=norm.weight / (norm.running_var + norm.eps))


def _fold_without_eps(conv, norm):  # type: ignore[no-untyped-def]
    return _fold(conv, norm, scale=norm.weight / norm.running_var.sqrt())


def _fold_without_bias(conv, norm):  # type: ignore[no-untyped-def]
    return _fold(conv, norm, bias=0.0)


def _fold_without_scale_and_shift(conv, norm):  # type: ignore[no-untyped-def]
    scale = 1 / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], (conv.bias - norm.running_mean) * scale


def _fold_input_channels(conv, norm):  # type: ignore[no-untyped-def]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None], _fold(conv, norm)[1]


def _fold_in_place(conv, norm):  # type: ignore[no-untyped-def]
    weight, bias = _fold(conv, norm)
    conv.weight.data, conv.bias.data = weight.detach(), bias.detach()
    return conv.weight, conv.bias


FOLD_BATCH_NORM = Exercise(
    name="fold_batch_norm",
    task="`fold_batch_norm(conv, norm) -> (weight, bias)`, for inference",
    observe=_observe_fold,
    answer=fold_batch_norm,
    praise="One convolution now does the work of both layers, which is how networks are deployed.",
    hint="write norm(conv(x)) for one channel as a * x + b: what are a and b?",
    mistakes={
        "no running mean": Mistake(
            _fold_without_mean,
            "you leave out the running mean, which batch norm subtracts.",
            "what does norm(conv(x)) give where conv(x) equals the running mean?",
        ),
        "divides by the variance": Mistake(
            _fold_by_variance,
            "you divide by the variance, but batch norm divides by the standard deviation.",
            "which of the two has the units of the signal?",
        ),
        "no eps": Mistake(
            _fold_without_eps,
            "you leave out eps, so channels with a small variance come out too large.",
            "what does `norm.eps` do in the equation of batch norm?",
        ),
        "bias of the convolution lost": Mistake(
            _fold_without_bias,
            "you lose the bias of the convolution: batch norm sees it, too.",
            "what does the convolution output for an image of zeros?",
        ),
        "no scale and shift": Mistake(
            _fold_without_scale_and_shift,
            "you leave out the norm's own scale and shift, which it learned.",
            "where do γ and β appear in the equation of batch norm?",
        ),
        "scales the input channels": Mistake(
            _fold_input_channels,
            "you scale the input channels of the weight, but batch norm scales the output "
            "channels.",
            "the weight is (out, in, height, width): which dimension is the channel of the norm?",
        ),
        "in place": Mistake(
            _fold_in_place,
            "you overwrite the convolution, so a second call would fold the norm in again.",
            "compute new tensors and return them",
        ),
    },
)

EXERCISES = (INIT_STD, BATCH_NORM, FOLD_BATCH_NORM)

PREDICTIONS = (
    Prediction(
        question="Power of ten after twenty layers?",
        text=(
            "A signal with a size near 1 passes through twenty convolutions with ReLU and "
            "PyTorch's default initial weights. What size is left? Give a power of ten: 0 for "
            "1, -2 for a hundredth, -6 for a millionth."
        ),
        answer=-7.94,
        why=(
            "Each layer multiplies the mean square by the same factor, which is far below 1 "
            "here, and twenty layers take it to the twentieth power. He initialisation makes "
            "the factor 1."
        ),
        section="Initialisation: does the image survive twenty layers?",
        within=1,
    ),
    Prediction(
        question="Accuracy with noisy batch norm at a learning rate of 0.4?",
        text=(
            "At a learning rate of 0.4, a network of the chapter only guesses without "
            "normalisation, and with batch norm it reaches an accuracy of 0.67. Now every "
            "channel gets a new random shift and scale behind its batch norm at every step, so "
            "the distributions move more than in a network without any norm. What accuracy does "
            "it reach?"
        ),
        answer=0.611,
        why=(
            "The noise costs some points, but the network still trains where the one without a "
            "norm only guesses. So stable distributions aren't the main reason why batch norm "
            "works."
        ),
        section="Why it works: a famous explanation, and the experiment against it",
        within=0.05,
    ),
    Prediction(
        question="Accuracy in training mode, class by class?",
        text=(
            "A network with batch norm was trained on shuffled batches and reaches an accuracy "
            "of about 0.7. You evaluate it in training mode, class by class, in batches of 64. "
            "What accuracy do you see?"
        ),
        answer=0.264,
        why=(
            "If all images of a batch show the same class, the batch mean carries what the "
            "class has in common, and subtracting it removes the evidence. `eval()` cures it."
        ),
        section="Batch norm in code",
    ),
    Prediction(
        question="Accuracy after training on sorted batches?",
        text=(
            "You train a network with batch norm on batches sorted by class. While it trains, "
            "four in five of its predictions are correct. What accuracy does it reach "
            "afterwards, in evaluation mode, on the very images that it was trained on? (There "
            "are twelve classes.)"
        ),
        answer=0.083,
        why=(
            "A few steps teach the network to predict the class that is going by, and by the "
            "end of the epoch it has forgotten the others. Shuffle the batches."
        ),
        section="Batch norm in code",
    ),
    Prediction(
        question="Accuracy lost with statistics of two images?",
        text=(
            "A small network with batch norm reaches an accuracy of 0.70. By how much does the "
            "accuracy fall if batch norm takes its statistics from two images at a time, in "
            "training as well? Give a difference, such as 0.1 for ten points."
        ),
        answer=0.012,
        why=(
            "Even two images give each channel many values to average, and the running "
            "statistics fit, because the network was trained that way. In large networks the "
            "cost is larger."
        ),
        section="The other norms",
        within=0.03,
    ),
    Prediction(
        question="Gain by dropout with wrong labels?",
        text=(
            "Many of the training labels are wrong. By how much does dropout with p = 0.5 "
            "change the validation accuracy at the end of training? Give a difference, such as "
            "0.02 or -0.02."
        ),
        answer=0.11,
        why=(
            "Without dropout, the network memorises nearly all of the wrong labels. Weights "
            "that serve a single wrong label are made unreliable by dropout, and weights that "
            "serve hundreds of images withstand it."
        ),
        section="When do dropout and weight decay help?",
        within=0.03,
    ),
)
