"""Move pixels: `frame` and `stretch` enlarge a part, `transform` crops, mirrors and applies an affine map.

With the same parameters they give the pixels that torchvision's transforms give: what a crop has
cut away stays black when the crop is rotated.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


LARGE = 64 * 64  # pixels; from there on a box at a time is cheaper than a mask, on a processor


class Window(NamedTuple):
    """The part of each image that fills the output, in pixels of the image; may reach outside it.

    >>> Window.whole(1, 4, 6)
    Window(top=tensor([0]), left=tensor([0]), height=tensor([4]), width=tensor([6]))
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    @classmethod
    def whole(cls, n: int, height: int, width: int) -> "Window":
        """Return the window that is the image, int64 (n,) each."""
        zero = torch.zeros(n, dtype=torch.int64)
        return cls(zero, zero, zero + height, zero + width)

    def stretches(self, height: int, width: int) -> bool:
        """Tell whether a window has another size than an image of height x width pixels."""
        return bool(((self.height != height) | (self.width != width)).any())


class Affine(NamedTuple):
    """An affine map of each image about its centre, (N,) each; torchvision's `affine`.

    Attributes:
        angle: degrees, clockwise.
        shear: degrees, along x.
        scale: factor, 1 changes nothing.
        right: pixels.
        down: pixels.
    """

    angle: Tensor
    shear: Tensor
    scale: Tensor
    right: Tensor
    down: Tensor


def inverse(affine: Affine) -> Tensor:
    """Return the matrices (N, 2, 3) from an output pixel to its source, (x, y) from the centre.

    >>> turn = Affine(*torch.tensor([[90.0], [0.0], [1.0], [0.0], [0.0]]))
    >>> inverse(turn).round()[0, :, :2] + 0.0
    tensor([[ 0.,  1.],
            [-1.,  0.]])
    """
    angle, tangent = affine.angle * (math.pi / 180), torch.tan(affine.shear * (math.pi / 180))
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows = torch.stack([cosine - sine * tangent, cosine * tangent + sine, -sine, cosine], dim=1)
    linear = rows.view(-1, 2, 2) / affine.scale[:, None, None]
    shift = torch.stack([affine.right, affine.down], dim=1)[:, :, None]
    return torch.cat([linear, -linear @ shift], dim=2)


def frame(images: Tensor, window: Window) -> Tensor:
    """Stretch the windows to the size of the images (N, C, H, W), to the nearest pixel; black outside.

    Args:
        images: float (N, C, H, W).
        window: may reach outside the images.

    >>> frame(torch.arange(4.0).view(1, 1, 1, 4), Window.whole(1, 1, 2))
    tensor([[[[0., 0., 1., 1.]]]])
    """
    n, c, height, width = images.shape
    black = height * width  # the number of one more pixel; greater sums are clamped to it
    rows = lookup(window.top, window.height, height)
    columns = lookup(window.left, window.width, width)
    rows = torch.where((rows >= 0) & (rows < height), rows * width, black).to(images.device)
    columns = torch.where((columns >= 0) & (columns < width), columns, black).to(images.device)
    source = (rows[:, :, None] + columns[:, None, :]).clamp_(max=black)  # (N, H, W)
    source = source.view(n, 1, black).expand(n, c, black)
    return F.pad(images.flatten(2), (0, 1)).gather(2, source).view(images.shape)


def lookup(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return which source pixel each of `size` output pixels shows along one axis, int64 (N, size).

    Args:
        start: first source pixel of the window, int64 (N,).
        length: source pixels in the window, int64 (N,).
        size: output pixels.

    >>> lookup(torch.tensor([-1]), torch.tensor([4]), 4)
    tensor([[-1,  0,  1,  2]])
    """
    place = (2 * torch.arange(size) + 1) * length[:, None] // (2 * size)  # where its centre falls
    return start[:, None] + place


def stretch(images: Tensor, window: Window) -> Tensor:
    """Stretch the windows to the size of the images (N, C, H, W) by bilinear interpolation.

    Args:
        images: float (N, C, H, W).
        window: inside the images; what lies outside of it has no influence.

    >>> images = torch.tensor([0.0, 1.0, 9.0, 9.0]).view(1, 1, 1, 4)
    >>> stretch(images, Window.whole(1, 1, 2))
    tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]])
    """
    n, _, height, width = images.shape
    y = _centres(window.top[:, None], window.height[:, None], height)[:, :, None]
    x = _centres(window.left[:, None], window.width[:, None], width)[:, None, :]
    grid = torch.stack([x.expand(n, height, width), y.expand(n, height, width)], dim=3)
    return F.grid_sample(images, grid.to(images), padding_mode="border", align_corners=False)


def transform(
    images: Tensor,
    affine: Affine | None = None,
    window: Window | None = None,
    flip: Tensor | None = None,
    vflip: Tensor | None = None,
    mode: str = "nearest",
) -> Tensor:
    """Crop, mirror and apply the affine maps, as one map with one look-up for each pixel.

    What the window cuts away is blackened first, and so does not come back by a rotation.

    Args:
        images: float (N, C, H, W).
        affine: applied last, none by default; black comes in from outside.
        window: what to crop, of the size of the image; all by default.
        flip: mirror left and right, bool (N,).
        vflip: mirror top and bottom, bool (N,).
        mode: "nearest" or "bilinear".

    >>> right = Affine(*torch.tensor([[0.0], [0.0], [1.0], [1.0], [0.0]]))
    >>> transform(torch.arange(1.0, 5.0).view(1, 1, 1, 4), right)
    tensor([[[[0., 1., 2., 3.]]]])
    """
    given, (n, _, height, width) = images.dtype, images.shape
    images = images.to(torch.promote_types(given, torch.float32))  # 16 bits are too few for a place
    matrix = torch.eye(2, 3).repeat(n, 1, 1) if affine is None else inverse(affine)
    for row, mirrored in ((0, flip), (1, vflip)):
        if mirrored is not None:
            matrix[:, row] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    if window is not None:
        if affine is not None:
            box = [window.top, window.left, window.top + height, window.left + width]
            images = images * box_masks(torch.stack(box, dim=1), height, width).to(images)
        matrix[:, :, 2] += torch.stack([window.left, window.top], dim=1)
    matrix *= torch.tensor([2 / width, 2 / height])[:, None]  # from pixels to -1 .. 1
    along, down, shift = matrix.to(images)[:, :, None, None].unbind(4)  # (N, 2, 1, 1) each
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    grid = along * x + (down * y[:, None] + shift)  # (N, 2, H, W)
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), mode=mode, align_corners=False).to(given)


def erase_(images: Tensor, boxes: Tensor) -> Tensor:
    """Blacken a rectangle in each image, in place.

    Args:
        images: float (N, C, H, W).
        boxes: int64 (N, 4): top, left, bottom, right in pixels; the last two are outside.

    >>> erase_(torch.ones(1, 1, 2, 3), torch.tensor([[0, 1, 1, 3]]))
    tensor([[[[1., 0., 0.],
              [1., 1., 1.]]]])
    """
    height, width = images.shape[2:]
    if images.device.type != "cpu" or height * width < LARGE:
        return images.mul_(1 - box_masks(boxes.to(images.device), height, width))
    for image, (top, left, bottom, right) in zip(images, boxes.tolist(), strict=True):
        image[:, top:bottom, left:right] = 0
    return images


def _centres(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where `size` output pixels look in a window, -1 .. 1 over the image, (N, size)."""
    place = start + (torch.arange(size) + 0.5) * length / size - 0.5
    place = torch.minimum(torch.maximum(place, start), start + length - 1)
    return (2 * place + 1) / size - 1


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return 1 for the pixels in each box and 0 elsewhere, float (n, 1, H, W).

    Args:
        boxes: int64 (n, 4): top, left, bottom, right in pixels; the last two are outside.
        height: H in pixels.
        width: W in pixels.

    >>> box_masks(torch.tensor([[0, 1, 1, 3]]), height=2, width=3)
    tensor([[[[0., 1., 1.],
              [0., 0., 0.]]]])
    """
    top, left, bottom, right = boxes[:, :, None].unbind(1)  # (n, 1) each
    y = torch.arange(height, device=boxes.device)
    x = torch.arange(width, device=boxes.device)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows.float()[:, :, None] * columns.float()[:, None, :])[:, None]  # -> (n, 1, H, W)
