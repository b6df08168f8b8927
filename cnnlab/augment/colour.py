"""Change the values of pixels: one factor for each image, the formulas of torchvision's float path.

All functions take images float (N, C, H, W) in [0, 1] and one number for each image, (N,). Those
whose name ends in _ write into the images they are given. Images of one channel are grey:
saturation and hue leave them alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def grey(images: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W), by the weights of ITU-R BT.601.

    >>> grey(torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)).flatten()
    tensor([0.5870])
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]


def brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by the factor: 0 is black, 1 changes nothing.

    >>> brightness_(torch.full((1, 3, 1, 1), 0.5), torch.tensor([1.5])).flatten()
    tensor([0.7500, 0.7500, 0.7500])
    """
    return images.mul_(_each(factor, images)).clamp_(0, 1)


def contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """Move away from the mean grey of the image: 0 is grey all over, 1 changes nothing.

    >>> contrast_(torch.tensor([0.4, 0.6]).view(1, 1, 1, 2), torch.tensor([2.0])).flatten()
    tensor([0.3000, 0.7000])
    """
    factor = _each(factor, images)
    mean = grey(images.mean(dim=(2, 3), keepdim=True))  # the mean of the grey values, (N, 1, 1, 1)
    return images.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """Move away from the grey of the pixel: 0 is a grey picture, 1 changes nothing.

    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> saturation_(red, torch.tensor([0.0])).flatten()
    tensor([0.2989, 0.2989, 0.2989])
    """
    if images.shape[1] == 1:
        return images
    factor = _each(factor, images)
    own = grey(images).mul_(1 - factor)
    return images.mul_(factor).add_(own).clamp_(0, 1)


def hue_(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the colour circle: 1/3 makes red green, 1/2 gives the opposite colour, 0 changes nothing.

    By way of hue, saturation and value (Smith 1978, https://doi.org/10.1145/800248.807361).

    >>> hue_(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1), torch.tensor([1 / 3])).flatten().round()
    tensor([0., 1., 0.])
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    high, where = images.max(dim=1)
    chroma = high - images.amin(dim=1)
    sixth = torch.stack([green - blue, blue - red, red - green], dim=1)
    sixth = sixth.gather(1, where[:, None]) / chroma.clamp(min=1e-12)[:, None] + 2 * where[:, None]
    corner = torch.tensor([5.0, 3.0, 1.0]).to(images)[:, None, None]  # red, green, blue
    place = (sixth + 6 * _each(turn, images) + corner) % 6  # (N, 3, H, W)
    pale = torch.minimum(place, 4 - place).clamp_(0, 1)
    return images.copy_(high[:, None] - chroma[:, None] * pale)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a Gaussian of standard deviation sigma (in pixels), reflecting at the border.

    The kernel reaches three times the largest sigma of the batch, if the image is that large.

    >>> dot = torch.zeros(1, 1, 5, 5).index_fill(2, torch.tensor(2), 1.0)
    >>> (100 * blur(dot, torch.tensor([0.5]))[0, 0, :, 0]).round()
    tensor([ 0., 11., 79., 11.,  0.])
    """
    n, c, height, width = images.shape
    reach = min(math.ceil(3 * float(sigma.max())), height - 1, width - 1)
    distance = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)[:, None]) ** 2)  # (N, reach)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(images).repeat_interleave(c, dim=0)
    planes = images.reshape(1, n * c, height, width)  # each plane is a group with its own kernel
    padded = F.pad(planes, (reach,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, None, None, :], groups=n * c)
    return F.conv2d(rows, kernel[:, None, :, None], groups=n * c).view_as(images)


def noise(images: Tensor, std: Tensor, seed: int) -> Tensor:
    """Add Gaussian noise of standard deviation std to every value; the seed decides it.

    >>> grey_image = torch.full((1, 1, 2, 2), 0.5)
    >>> torch.equal(noise(grey_image, torch.ones(1), 7), noise(grey_image, torch.ones(1), 7))
    True
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    field = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return field.mul_(_each(std, images)).add_(images).clamp_(0, 1)


def _each(numbers: Tensor, images: Tensor) -> Tensor:
    """One number for each image, (N,) -> (N, 1, 1, 1), where the images are."""
    return numbers.to(images)[:, None, None, None]
