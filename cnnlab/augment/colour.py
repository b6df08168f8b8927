"""Colour, blur and noise, with one parameter per image and torchvision's formulas for float images.

All functions take images (N, C, H, W), float in [0, 1], and one value per image, (N,). A name that
ends in _ means that the function changes the images in place. Images with one channel are grey, so
saturation and hue leave them unchanged.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def grey(images: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W), with the weights of ITU-R BT.601.

    >>> grey(torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)).flatten()
    tensor([0.5870])
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]


def brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply every pixel by a factor: 0 gives black, 1 changes nothing.

    >>> brightness_(torch.full((1, 3, 1, 1), 0.5), torch.tensor([1.5])).flatten()
    tensor([0.7500, 0.7500, 0.7500])
    """
    return images.mul_(_per_image(factor, images)).clamp_(0, 1)


def contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance from the mean grey of the image: 0 gives plain grey, 1 changes nothing.

    >>> contrast_(torch.tensor([0.4, 0.6]).view(1, 1, 1, 2), torch.tensor([2.0])).flatten()
    tensor([0.3000, 0.7000])
    """
    factor = _per_image(factor, images)
    mean = grey(images.mean(dim=(2, 3), keepdim=True))  # the mean of the grey values, (N, 1, 1, 1)
    return images.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance from each pixel's grey: 0 gives a grey image, 1 changes nothing.

    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> saturation_(red, torch.tensor([0.0])).flatten()
    tensor([0.2989, 0.2989, 0.2989])
    """
    if images.shape[1] == 1:
        return images
    factor = _per_image(factor, images)
    weighted_grey = grey(images).mul_(1 - factor)
    return images.mul_(factor).add_(weighted_grey).clamp_(0, 1)


def hue_(images: Tensor, turn: Tensor) -> Tensor:
    """Rotate the hue: 0 changes nothing, 1/3 turns red to green, 1/2 gives the opposite colour.

    The formula goes through hue, saturation and value (Smith 1978,
    https://doi.org/10.1145/800248.807361).

    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> hue_(red, torch.tensor([1 / 3])).flatten().round()
    tensor([0., 1., 0.])
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    value, brightest = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    # The hue in sixths of the colour circle, counted from red, (N, 1, H, W).
    difference = torch.stack([green - blue, blue - red, red - green], dim=1)
    difference = difference.gather(1, brightest[:, None])
    hue = difference / chroma.clamp(min=1e-12)[:, None] + 2 * brightest[:, None]
    channel = torch.arange(3, device=images.device, dtype=images.dtype)[:, None, None]
    offset = 5 - 2 * channel  # 5 for red, 3 for green, 1 for blue
    position = (hue + 6 * _per_image(turn, images) + offset) % 6  # (N, 3, H, W)
    darkening = torch.minimum(position, 4 - position).clamp_(0, 1)
    return images.copy_(value[:, None] - chroma[:, None] * darkening)


def blur_radius(sigma: Tensor) -> int:
    """Return how far the kernels of `blur` extend: three times the largest sigma, in pixels."""
    return math.ceil(3 * float(sigma.max()))


def blur(images: Tensor, sigma: Tensor, radius: int | None = None) -> Tensor:
    """Blur with a Gaussian of standard deviation sigma (in pixels), reflecting at the border.

    The kernel extends to the radius, by default `blur_radius(sigma)`, or as far as the image
    allows.

    >>> dot = torch.zeros(1, 1, 5, 5).index_fill(2, torch.tensor(2), 1.0)
    >>> (100 * blur(dot, torch.tensor([0.5]))[0, 0, :, 0]).round()
    tensor([ 0., 11., 79., 11.,  0.])
    """
    n, c, height, width = images.shape
    radius = blur_radius(sigma) if radius is None else radius
    radius = min(radius, height - 1, width - 1)
    distance = torch.arange(-radius, radius + 1, device=sigma.device)
    # (N, 2 * radius + 1)
    kernel = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(images).repeat_interleave(c, dim=0)
    planes = images.reshape(1, n * c, height, width)  # each plane is a group with its own kernel
    padded = F.pad(planes, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, None, None, :], groups=n * c)
    return F.conv2d(rows, kernel[:, None, :, None], groups=n * c).view_as(images)


def noise(images: Tensor, std: Tensor, seed: int) -> Tensor:
    """Add Gaussian noise with standard deviation std to every value; the seed determines the noise.

    >>> grey_image = torch.full((1, 1, 2, 2), 0.5)
    >>> torch.equal(noise(grey_image, torch.ones(1), 7), noise(grey_image, torch.ones(1), 7))
    True
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    normal = torch.randn(
        images.shape, generator=generator, device=images.device, dtype=images.dtype
    )
    return normal.mul_(_per_image(std, images)).add_(images).clamp_(0, 1)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """Reshape (N,) to (N, 1, 1, 1), with the device and type of the images."""
    return values.to(images)[:, None, None, None]
