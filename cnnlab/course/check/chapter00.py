"""Check the exercises of chapter 0: pixels to a batch, a convolution, a gradient step, two counts.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.attempt import Raised
from cnnlab.course.check.compare import short
from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import generator


Layer = tuple[Any, ...]  # ("conv", 3, 16, 3), ("norm", 16), ("relu",), ("linear", 64, 12)

# --- pixels to a batch ----------------------------------------------------------------------------


def _observe_batch(attempt: Callable[..., Any], seed: int) -> Observation:
    pixel = torch.tensor([[[51, 102, 204]]], dtype=torch.uint8)
    # Eighteen different values, so that every other order of the pixels can be told apart.
    order = torch.randperm(18, generator=generator(seed, 1))
    pixels = (5 + 14 * order).to(torch.uint8).reshape(2, 3, 3)
    return {
        "your batch for one pixel, [51, 102, 204],": attempt(pixel).flatten()[:3],
        "your batch for 2 x 3 pixels": attempt(pixels),
    }


def to_batch(pixels: Tensor) -> Tensor:
    """Turn uint8 pixels (H, W, 3) into a batch (1, 3, H, W) of floats in [0, 1]."""
    return pixels.permute(2, 0, 1)[None] / 255


def _view(pixels):  # type: ignore[no-untyped-def]
    height, width, channels = pixels.shape
    return pixels.reshape(1, channels, height, width) / 255


def _without_a_batch_axis(pixels):  # type: ignore[no-untyped-def]
    return pixels.permute(2, 0, 1) / 255


def _channels_last(pixels):  # type: ignore[no-untyped-def]
    return pixels[None] / 255


def _sideways(pixels):  # type: ignore[no-untyped-def]
    return pixels.permute(2, 1, 0)[None] / 255


def _from_0_to_255(pixels):  # type: ignore[no-untyped-def]
    return pixels.permute(2, 0, 1)[None].float()


def _still_uint8(pixels):  # type: ignore[no-untyped-def]
    return pixels.permute(2, 0, 1)[None]


def _integer_division(pixels):  # type: ignore[no-untyped-def]
    return pixels.permute(2, 0, 1)[None].float() // 255


def _by_256(pixels):  # type: ignore[no-untyped-def]
    return pixels.permute(2, 0, 1)[None] / 256


def _double(pixels):  # type: ignore[no-untyped-def]
    return pixels.permute(2, 0, 1)[None].double() / 255


BATCH = Exercise(
    name="to_batch",
    task="`to_batch(pixels)`, from uint8 (H, W, 3) to float (1, 3, H, W) in [0, 1]",
    observe=_observe_batch,
    answer=to_batch,
    praise="The axes are in the order (N, C, H, W), and the values are floats between 0 and 1.",
    hint="follow one pixel: where does it go, and what does its value become?",
    mistakes={
        "view instead of permute": Mistake(
            _view,
            "your pixels are scrambled: `view` and `reshape` keep the values in the order of "
            "memory and only cut them into other rows.",
            "which method moves an axis to another place?",
        ),
        "no batch axis": Mistake(
            _without_a_batch_axis,
            "you return one image (3, H, W), but a network takes a batch of images, even if there "
            "is only one in it.",
            "how do you add an axis of length 1 at the front?",
        ),
        "channels last": Mistake(
            _channels_last,
            "the colours are still the last axis, as in an image file. PyTorch wants them right "
            "after the batch axis.",
            "where should the axis of length 3 be?",
        ),
        "height and width swapped": Mistake(
            _sideways,
            "height and width have changed places, so the image lies on its side.",
            "in which order do you name the three axes in `permute`?",
        ),
        "values from 0 to 255": Mistake(
            _from_0_to_255,
            "your values still run from 0 to 255.",
            "what is the largest value of a uint8 pixel, and what should it become?",
        ),
        "still uint8": Mistake(
            _still_uint8,
            "your values are still whole numbers of the type uint8, with which a network can't "
            "compute.",
            "the result should be floats between 0 and 1",
        ),
        "integer division": Mistake(
            _integer_division,
            "`//` drops everything after the point, so nearly every pixel becomes 0.",
            "which operator divides and keeps the fraction?",
        ),
        "divided by 256": Mistake(
            _by_256,
            "you divide by 256, so a white pixel becomes 0.996 and not 1.",
            "a uint8 pixel has 256 possible values; what is the largest one?",
        ),
        "float64": Mistake(
            _double,
            "your values are float64, and the weights of a network are float32. The two can't be "
            "multiplied.",
            "dividing a uint8 tensor by a Python number already gives float32",
        ),
    },
)


# --- a convolution by hand ------------------------------------------------------------------------


def _observe_convolve(attempt: Callable[..., Any], seed: int) -> Observation:
    observation: dict[str, Any] = {}
    for rows in ([[1.0, 10.0]], [[1.0], [10.0]]):
        result = attempt(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor(rows))
        name = f"your result for image=[[1, 2], [3, 4]], kernel={short(rows)}"
        observation[name] = result
    g = generator(seed, 2)
    image = torch.randperm(15, generator=g).reshape(3, 5).float()
    weights = torch.tensor([-3.0, -2.0, -1.0, 1.0, 2.0, 4.0])
    kernel = weights[torch.randperm(6, generator=g)].reshape(2, 3)
    result = attempt(image, kernel)
    return {**observation, "your result for a 3 x 5 image and a 2 x 3 kernel": result}


def convolve(image: Tensor, kernel: Tensor) -> Tensor:
    """Slide a kernel (h, w) over an image (H, W); return the sums, (H - h + 1, W - w + 1)."""
    h, w = kernel.shape
    rows, columns = image.shape[0] - h + 1, image.shape[1] - w + 1
    out = torch.zeros(rows, columns)
    for i in range(rows):
        for j in range(columns):
            out[i, j] = (image[i : i + h, j : j + w] * kernel).sum()
    return out


def _flipped_kernel(image, kernel):  # type: ignore[no-untyped-def]
    return convolve(image, kernel.flip(0, 1))


def _one_place_short(image, kernel):  # type: ignore[no-untyped-def]
    return convolve(image, kernel)[:-1, :-1]


def _same_size(image, kernel):  # type: ignore[no-untyped-def]
    out = torch.zeros_like(image)
    small = convolve(image, kernel)
    out[: small.shape[0], : small.shape[1]] = small
    return out


def _mean_of_products(image, kernel):  # type: ignore[no-untyped-def]
    return convolve(image, kernel) / kernel.numel()


def _tiles(image, kernel):  # type: ignore[no-untyped-def]
    return convolve(image, kernel)[:: kernel.shape[0], :: kernel.shape[1]]


def _without_negative_values(image, kernel):  # type: ignore[no-untyped-def]
    return convolve(image, kernel).clamp(min=0)


def _the_first_sum(image, kernel):  # type: ignore[no-untyped-def]
    return convolve(image, kernel)[0, 0]


def _extra_axes(image, kernel):  # type: ignore[no-untyped-def]
    return convolve(image, kernel)[None, None]


def _transposed(image, kernel):  # type: ignore[no-untyped-def]
    return convolve(image, kernel).T


CONVOLVE = Exercise(
    name="convolve",
    task="`convolve(image, kernel) -> feature map`, one channel, no padding",
    observe=_observe_convolve,
    answer=convolve,
    praise="Each place of the kernel gives one sum, and the result is smaller by kernel size - 1.",
    hint="compute the top left value on paper: which pixel meets which weight?",
    mistakes={
        "flipped kernel": Mistake(
            _flipped_kernel,
            "you turn the kernel by 180 degrees first. In mathematics that is a convolution, but "
            "deep learning doesn't turn it.",
            "which pixel should the top left weight be multiplied with?",
        ),
        "one place short": Mistake(
            _one_place_short,
            "your result lacks the last row and the last column of places.",
            "a kernel of width 3 fits into a row of 5 pixels at how many places?",
        ),
        "same size as the image": Mistake(
            _same_size,
            "your result is as large as the image, and zeros fill the places where the kernel "
            "would stick out.",
            "how large is the result if the kernel may not stick out?",
        ),
        "mean instead of sum": Mistake(
            _mean_of_products,
            "you take the mean of the products, but a convolution is their sum.",
            "what happens to the products in the worked example?",
        ),
        "tiles": Mistake(
            _tiles,
            "your kernel jumps by its own size, so the places don't overlap.",
            "how far does the kernel move between two sums?",
        ),
        "negative values cut off": Mistake(
            _without_negative_values,
            "you set negative sums to zero. A layer called ReLU does that afterwards, but the "
            "convolution doesn't.",
            "what does the edge filter give where the image gets darker?",
        ),
        "the first sum alone": Mistake(
            _the_first_sum,
            "you return a single value, the sum at the top left.",
            "is `return` inside the loops?",
        ),
        "extra axes": Mistake(
            _extra_axes,
            "your result has two axes too many: `F.conv2d` works on batches and channels, and here "
            "there is one image with one channel.",
            "the shape should be (rows, columns)",
        ),
        "rows and columns swapped": Mistake(
            _transposed,
            "your feature map is transposed: rows and columns are swapped.",
            "in `out[i, j]`, which of the two counts the rows?",
        ),
    },
)


# --- one step of gradient descent -----------------------------------------------------------------


REFUSED = "autograd refuses to change `w` in place, as `w -= ...` does: compute a new tensor."


def _observe_gradient_step(attempt: Callable[..., Any], seed: int) -> Observation:
    try:
        return _observe_steps(attempt, seed)
    except Raised as raised:
        if "leaf Variable that requires grad" in str(raised):
            return {REFUSED: True}
        raise


def _observe_steps(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 3)
    w = torch.randn(2, generator=g).requires_grad_()
    w.grad = 1 + torch.rand(2, generator=g)  # left over from an earlier step
    x = torch.randint(-3, 4, (3, 2), generator=g) + 0.5
    y = torch.randint(5, 9, (3,), generator=g).float()
    one, two = (
        attempt(torch.tensor([3.0]).requires_grad_(), torch.tensor(rows), torch.tensor(ys), 0.1)
        for rows, ys in (([[2.0]], [10.0]), ([[2.0], [1.0]], [10.0, 4.0]))
    )
    three = attempt(w, x, y, 0.25)
    return {
        REFUSED: False,
        "your new weights still require gradients.": three.requires_grad,
        "your step makes the loss larger for w=[3], x=[[2]], y=[10].": bool(
            (2 * one - 10).abs().max() > 4
        ),
        "your result for w=[3], x=[[2]], y=[10], lr=0.1": one.tolist(),
        "your result for w=[3], x=[[2], [1]], y=[10, 4], lr=0.1": two.tolist(),
        "your result for three random samples": three.detach().clone(),
    }


def gradient_step(w: Tensor, x: Tensor, y: Tensor, lr: float) -> Tensor:
    """Return the weights after one step of gradient descent on the mean squared error of x @ w."""
    w = w.detach().requires_grad_()
    loss = ((x @ w - y) ** 2).mean()
    loss.backward()
    assert w.grad is not None
    return (w - lr * w.grad).detach()


def _gradient(w, x, y):  # type: ignore[no-untyped-def]
    w = w.detach().clone().requires_grad_()
    ((x @ w - y) ** 2).mean().backward()
    return w.grad


def _uphill(w, x, y, lr):  # type: ignore[no-untyped-def]
    return w.detach() + lr * _gradient(w, x, y)


def _stale_gradient(w, x, y, lr):  # type: ignore[no-untyped-def]
    ((x @ w - y) ** 2).mean().backward()
    return (w - lr * w.grad).detach()


def _still_attached(w, x, y, lr):  # type: ignore[no-untyped-def]
    return w - lr * _gradient(w, x, y)


def _sum_of_squares(w, x, y, lr):  # type: ignore[no-untyped-def]
    return w.detach() - lr * len(y) * _gradient(w, x, y)


def _without_lr(w, x, y, lr):  # type: ignore[no-untyped-def]
    return w.detach() - _gradient(w, x, y)


def _the_gradient_alone(w, x, y, lr):  # type: ignore[no-untyped-def]
    return _gradient(w, x, y)


STEP = Exercise(
    name="gradient_step",
    task="`gradient_step(w, x, y, lr) -> new weights` of a linear model",
    observe=_observe_gradient_step,
    answer=gradient_step,
    praise="You step against a fresh gradient, and the new weights don't depend on the old graph.",
    hint="try w = 3, x = 2, y = 10 on paper: the gradient of the squared error is -16",
    mistakes={
        "uphill": Mistake(
            _uphill,
            "you step in the direction of the gradient, so the loss gets larger.",
            "if the slope is negative, should the weight grow or shrink?",
        ),
        "stale gradient": Mistake(
            _stale_gradient,
            "you step along the sum of two gradients: yours, and one that was left in `w.grad`.",
            "what does `backward()` do to a `.grad` that already has a value?",
        ),
        "still attached": Mistake(
            _still_attached,
            "your new weights remember how they were computed, so the next `backward()` would run "
            "through this step too.",
            "which method gives the same values without their history?",
        ),
        "sum instead of mean": Mistake(
            _sum_of_squares,
            "you use the sum of the squared errors, so your step gets longer with every sample.",
            "what is the loss divided by?",
        ),
        "no learning rate": Mistake(
            _without_lr,
            "your step is the whole gradient; the learning rate isn't used.",
            "what should `lr` be multiplied with?",
        ),
        "the gradient alone": Mistake(
            _the_gradient_alone,
            "you return the gradient, but the exercise asks for the weights after the step.",
            "how do you get from the gradient to the new weights?",
        ),
    },
)


# --- the number of parameters ---------------------------------------------------------------------


def _observe_count(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 4)
    a, b, c = (4 + torch.randperm(6, generator=g)[:3]).tolist()  # unlike the kernel of 3
    layers: list[Layer] = [("conv", a, b, 3), ("norm", b), ("linear", b, c)]
    counts = {f"your count for [{layer}]": attempt([layer]) for layer in [*layers, ("relu",)]}
    first, *_ = counts.values()
    total = attempt(layers)
    return {
        **counts,
        "of several layers, you count only the first.": total == first,
        f"your count for {layers}": total,
    }


def count_parameters(layers: Sequence[Layer]) -> int:
    """Count the parameters of a list of layers, each a tuple of its kind and its sizes."""
    total = 0
    for kind, *sizes in layers:
        if kind == "conv":
            channels, width, kernel = sizes
            total += width * channels * kernel * kernel
        elif kind == "norm":
            total += 2 * sizes[0]
        elif kind == "linear":
            inputs, outputs = sizes
            total += inputs * outputs + outputs
    return total


def _each_layer(**counts: Callable[..., int]) -> Callable[[Sequence[Layer]], int]:
    """Return a count with another rule for the layers of some kinds."""

    def attempt(layers: Sequence[Layer]) -> int:
        return sum(
            counts[kind](*sizes) if kind in counts else count_parameters([(kind, *sizes)])
            for kind, *sizes in layers
        )

    return attempt


def _only_the_last_layer(layers):  # type: ignore[no-untyped-def]
    return count_parameters(layers[-1:])


COUNT = Exercise(
    name="count_parameters",
    task="`count_parameters(layers) -> int`",
    observe=_observe_count,
    answer=count_parameters,
    praise="Filters reach through all channels, a norm has two values per channel, a linear layer "
    "has biases.",
    hint="take this layer alone: which values does it multiply by, and which does it add?",
    mistakes={
        "flat filters": Mistake(
            _each_layer(conv=lambda channels, width, kernel: width * kernel * kernel),
            "your filters are flat: each has kernel x kernel weights. A filter reaches through all "
            "channels of its input.",
            "what is the shape of `nn.Conv2d(3, 16, 3).weight`?",
        ),
        "kernel not squared": Mistake(
            _each_layer(conv=lambda channels, width, kernel: width * channels * kernel),
            "you count one row of each filter: the kernel is a square.",
            "how many pixels does a kernel of side 3 cover?",
        ),
        "one input and one output": Mistake(
            _each_layer(conv=lambda channels, width, kernel: channels * kernel * kernel),
            "you count a single filter, but there is one filter for each output channel.",
            "what does the second number of the layer stand for?",
        ),
        "a bias in the convolution": Mistake(
            _each_layer(conv=lambda channels, width, kernel: (channels * kernel**2 + 1) * width),
            "you give the convolution a bias. Here it has none, because the batch norm after it "
            "would subtract it again.",
            "read the sentence about biases in the task again",
        ),
        "one value per norm channel": Mistake(
            _each_layer(norm=lambda channels: channels),
            "you count one parameter per channel of a batch norm, but it learns two.",
            "a batch norm multiplies each channel by something, and then?",
        ),
        "running statistics": Mistake(
            _each_layer(norm=lambda channels: 4 * channels),
            "you count the running mean and variance of a batch norm. They are stored, but no "
            "gradient changes them, so they aren't parameters.",
            "which of the four values per channel are learned by gradient descent?",
        ),
        "no bias in the linear layer": Mistake(
            _each_layer(linear=lambda inputs, outputs: inputs * outputs),
            "your linear layer has no biases.",
            "what is added to each score at the end?",
        ),
        "only the last layer": Mistake(
            _only_the_last_layer,
            "of several layers, you count only the last one.",
            "look for `=` where `+=` should be",
        ),
    },
)


# --- the receptive field --------------------------------------------------------------------------


def _observe_field(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 5)
    sides = (3 + 2 * torch.randint(0, 2, (4,), generator=g)).tolist()
    strides = (2 + torch.randint(0, 2, (4,), generator=g)).tolist()
    single, flat = [(sides[0], strides[0])], [(sides[0], 1), (sides[1], 1)]
    two, four = [(sides[0], strides[0]), (sides[1], 1)], list(zip(sides, strides, strict=True))
    return {f"your field for {layers}": attempt(layers) for layers in (single, flat, two, four, [])}


def receptive_field(layers: Sequence[tuple[int, int]]) -> int:
    """Return the side of the square of pixels that one value sees, for (kernel, stride) layers."""
    side, jump = 1, 1
    for kernel, stride in layers:
        side += (kernel - 1) * jump
        jump *= stride
    return side


def _adds_kernels(layers):  # type: ignore[no-untyped-def]
    return sum(kernel for kernel, _ in layers)


def _ignores_strides(layers):  # type: ignore[no-untyped-def]
    return receptive_field([(kernel, 1) for kernel, _ in layers])


def _own_stride_first(layers):  # type: ignore[no-untyped-def]
    side, jump = 1, 1
    for kernel, stride in layers:
        jump *= stride
        side += (kernel - 1) * jump
    return side


def _top_to_bottom(layers):  # type: ignore[no-untyped-def]
    return receptive_field(list(layers)[::-1])


def _previous_stride_only(layers):  # type: ignore[no-untyped-def]
    side, jump = 1, 1
    for kernel, stride in layers:
        side += (kernel - 1) * jump
        jump = stride
    return side


def _adds_strides(layers):  # type: ignore[no-untyped-def]
    side, jump = 1, 1
    for kernel, stride in layers:
        side += (kernel - 1) * jump
        jump += stride
    return side


def _starts_at_zero(layers):  # type: ignore[no-untyped-def]
    return receptive_field(layers) - 1


FIELD = Exercise(
    name="receptive_field",
    task="`receptive_field(layers) -> pixels`",
    observe=_observe_field,
    answer=receptive_field,
    praise="Each layer widens the field by kernel - 1 places, and the strides below it say how "
    "many pixels a place is.",
    hint="draw the layers as rows of dots, and mark what one dot at the top depends on",
    mistakes={
        "kernels added up": Mistake(
            _adds_kernels,
            "you add up the kernels. Neighbouring squares overlap, so a kernel of 3 adds two "
            "places to the field, not three.",
            "two layers with kernel 3 and stride 1: which pixels does one value see?",
        ),
        "strides ignored": Mistake(
            _ignores_strides,
            "your answer doesn't depend on the strides. After a stride of 2, one step in the "
            "feature map is two steps in the image.",
            "how many pixels apart are two neighbouring values after the first layer?",
        ),
        "own stride too early": Mistake(
            _own_stride_first,
            "you let a layer's own stride widen its own field, but a stride matters only for the "
            "layers above.",
            "one layer with kernel 3 and stride 2: how many pixels does one value see?",
        ),
        "top to bottom": Mistake(
            _top_to_bottom,
            "you multiply with the strides of the layers above, but they come later and don't "
            "change what a layer reads.",
            "which layers' strides move the values that a layer reads apart?",
        ),
        "only the stride just below": Mistake(
            _previous_stride_only,
            "you use the stride of the layer just below. All strides below act together.",
            "after two layers of stride 2, how many pixels apart are two neighbours?",
        ),
        "strides added up": Mistake(
            _adds_strides,
            "you add strides up. Two layers of stride 2 put neighbours four pixels apart, and "
            "three layers eight, not six.",
            "what happens to the distance between neighbours at each layer?",
        ),
        "starts at zero": Mistake(
            _starts_at_zero,
            "your field is one pixel too small.",
            "without any layer, how many pixels does a pixel see?",
        ),
    },
)

EXERCISES = (BATCH, CONVOLVE, STEP, COUNT, FIELD)

PREDICTIONS = (
    Prediction(
        question="How probable is the first choice for the moon?",
        text=(
            "EfficientNet-Lite0 knows the 1,000 classes of ImageNet, and the moon isn't one of "
            "them. It classifies a photograph of the moon. How probable is its first choice?"
        ),
        answer=0.24,
        why=(
            "Its first choice is nematode, a tiny worm that is photographed in a bright round "
            "field. A softmax has to distribute all of the probability over the classes it "
            "knows."
        ),
        section="A network that names photographs",
        within=0.15,
    ),
    Prediction(
        question="What is w.grad after two calls to backward()?",
        text=(
            "The loss is the square of `w`, and `w` is 3. What is `w.grad` after you've "
            "computed the loss and called `backward()` twice, with nothing in between?"
        ),
        answer=12,
        why=(
            "`backward()` adds to `.grad`, so the second call gives twice the derivative of 6. "
            "Clear the gradient before each step."
        ),
        section="Gradients, by hand and by machine",
    ),
    Prediction(
        question="What fraction of the mistakes confuse two speed limits?",
        text=(
            "A small network classifies twelve traffic signs. Four are speed limits (30, 50, "
            "60, 80), two are arrows, and the others are no entry, no stopping, yield, warning, "
            "stop and priority. What fraction of its mistakes, from 0 to 1, confuse one speed "
            "limit with another?"
        ),
        answer=0.87,
        why=(
            "To tell two limits apart, the network has to compare digits that are only some "
            "eight pixels wide."
        ),
        section="What it gets wrong",
        within=0.15,
    ),
)
