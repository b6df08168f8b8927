"""Move pixels: resize a crop, or crop, mirror and apply an affine map in one look-up per pixel.

With the same parameters the pixels are the same as torchvision's.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


# From this many pixels on, a loop over the images that copies or erases rectangles is faster on a
# CPU than an operation on the whole batch.
LARGE = 64 * 64


class Window(NamedTuple):
    """The crop of each image, in source pixels, int64 (N,) each; it may extend beyond the image.

    >>> Window.whole(1, 4, 6)
    Window(top=tensor([0]), left=tensor([0]), height=tensor([4]), width=tensor([6]))
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    @classmethod
    def whole(cls, n: int, height: int, width: int) -> "Window":
        """Return the window that covers the whole image."""
        zero = torch.zeros(n, dtype=torch.int64)
        return cls(zero, zero, zero + height, zero + width)

    def differs_in_size(self, height: int, width: int) -> bool:
        """Return whether any window is not height x width pixels large, and so must be resized."""
        return bool(((self.height != height) | (self.width != width)).any())


class Affine(NamedTuple):
    """An affine map of each image about its centre, as in torchvision's `affine`, (N,) each.

    Attributes:
        angle: rotation in degrees, clockwise.
        shear: shear along x in degrees.
        scale: factor; 1 changes nothing.
        right: shift to the right in pixels.
        down: shift downwards in pixels.
    """

    angle: Tensor
    shear: Tensor
    scale: Tensor
    right: Tensor
    down: Tensor


def inverse_matrix(affine: Affine) -> Tensor:
    """Return the matrices (N, 2, 3) from output pixels to source pixels, (x, y) from the centre.

    >>> quarter_turn = Affine(*torch.tensor([[90.0], [0.0], [1.0], [0.0], [0.0]]))
    >>> inverse_matrix(quarter_turn).round()[0, :, :2] + 0.0
    tensor([[ 0.,  1.],
            [-1.,  0.]])
    """
    angle, tangent = affine.angle * (math.pi / 180), torch.tan(affine.shear * (math.pi / 180))
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows = torch.stack([cosine - sine * tangent, cosine * tangent + sine, -sine, cosine], dim=1)
    linear = rows.view(-1, 2, 2) / affine.scale[:, None, None]
    shift = torch.stack([affine.right, affine.down], dim=1)[:, :, None]
    # Not `linear @ shift`, which a GPU may round to the 10 bits of TF32.
    return torch.cat([linear, -(linear * shift.transpose(1, 2)).sum(2, keepdim=True)], dim=2)


def resize_nearest(images: Tensor, window: Window) -> Tensor:
    """Resize the windows to the size of the images by nearest-neighbour interpolation.

    Args:
        images: float (N, C, H, W).
        window: may extend beyond the images; pixels outside are black.

    >>> resize_nearest(torch.arange(4.0).view(1, 1, 1, 4), Window.whole(1, 1, 2))
    tensor([[[[0., 0., 1., 1.]]]])
    """
    n, c, height, width = images.shape
    black = height * width  # index of an extra, black pixel; larger indices are clamped to it
    rows = source_pixels(window.top, window.height, height)
    columns = source_pixels(window.left, window.width, width)
    rows = torch.where((rows >= 0) & (rows < height), rows * width, black)
    columns = torch.where((columns >= 0) & (columns < width), columns, black)
    source = (rows[:, :, None] + columns[:, None, :]).clamp_(max=black)  # (N, H, W)
    source = source.view(n, 1, black).expand(n, c, black)
    return F.pad(images.flatten(2), (0, 1)).gather(2, source).view(images.shape)


def source_pixels(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return the index of the source pixel of each output pixel along one axis, int64 (N, size).

    Args:
        start: first source pixel of the window, int64 (N,).
        length: source pixels in the window, int64 (N,).
        size: number of output pixels.

    >>> source_pixels(torch.tensor([-1]), torch.tensor([4]), 4)
    tensor([[-1,  0,  1,  2]])
    """
    # The window pixel under the centre of each output pixel: floor((i + 1/2) * length / size).
    middle = 2 * torch.arange(size, device=start.device) + 1
    return start[:, None] + middle * length[:, None] // (2 * size)


def resize_bilinear(images: Tensor, window: Window) -> Tensor:
    """Resize the windows to the size of the images by bilinear interpolation.

    Args:
        images: float (N, C, H, W).
        window: inside the images; pixels outside the window have no influence.

    >>> images = torch.tensor([0.0, 1.0, 9.0, 9.0]).view(1, 1, 1, 4)
    >>> resize_bilinear(images, Window.whole(1, 1, 2))
    tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]])
    """
    n, _, height, width = images.shape
    y = _sample_positions(window.top[:, None], window.height[:, None], height)[:, :, None]
    x = _sample_positions(window.left[:, None], window.width[:, None], width)[:, None, :]
    grid = torch.stack([x.expand(n, height, width), y.expand(n, height, width)], dim=3)
    return F.grid_sample(images, grid.to(images), padding_mode="border", align_corners=False)


def crop_flip_affine(
    images: Tensor,
    affine: Affine | None = None,
    window: Window | None = None,
    flip: Tensor | None = None,
    vflip: Tensor | None = None,
    mode: str = "nearest",
) -> Tensor:
    """Crop, mirror and apply the affine maps, combined in one map with one look-up per pixel.

    Pixels outside the crop are set to black first, so a rotation can't bring them back.

    Args:
        images: float (N, C, H, W).
        affine: applied last; by default none. Pixels from outside are black.
        window: the crop, of the image's size; by default the whole image.
        flip: whether to mirror left and right, bool (N,).
        vflip: whether to mirror top and bottom, bool (N,).
        mode: "nearest" or "bilinear".

    >>> right = Affine(*torch.tensor([[0.0], [0.0], [1.0], [1.0], [0.0]]))
    >>> crop_flip_affine(torch.arange(1.0, 5.0).view(1, 1, 1, 4), right)
    tensor([[[[0., 1., 2., 3.]]]])
    """
    if affine is None and mode == "nearest" and images.device.type == "cpu":
        return crop_flip(images, window, flip, vflip)
    dtype, (n, _, height, width) = images.dtype, images.shape
    # 16 bits are too few for the coordinates of a pixel.
    images = images.to(torch.promote_types(dtype, torch.float32))
    if affine is None:
        matrix = torch.eye(2, 3, device=images.device).repeat(n, 1, 1)
    else:
        matrix = inverse_matrix(affine)
    for row, mirrored in ((0, flip), (1, vflip)):
        if mirrored is not None:
            matrix[:, row] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    if window is not None:
        if affine is not None:
            images = blacken_outside(images, window)
        matrix[:, :, 2] += torch.stack([window.left, window.top], dim=1)
    matrix[:, 0] *= 2 / width  # pixels -> [-1, 1]
    matrix[:, 1] *= 2 / height
    per_column, per_row, shift = matrix.to(images)[:, :, None, None].unbind(4)  # (N, 2, 1, 1) each
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    grid = per_column * x + (per_row * y[:, None] + shift)  # (N, 2, H, W)
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), mode=mode, align_corners=False).to(dtype)


def crop_flip(
    images: Tensor,
    window: Window | None = None,
    flip: Tensor | None = None,
    vflip: Tensor | None = None,
) -> Tensor:
    """Crop and mirror by copying rows of pixels, several times as fast as one look-up per pixel.

    Args:
        images: float (N, C, H, W), on the CPU.
        window: the crop, of the image's size; by default the whole image. Outside is black.
        flip: whether to mirror left and right, bool (N,).
        vflip: whether to mirror top and bottom, bool (N,).

    >>> window = Window.whole(1, 1, 4)._replace(left=torch.tensor([-1]))
    >>> crop_flip(torch.arange(1.0, 5.0).view(1, 1, 1, 4), window, torch.tensor([True]))
    tensor([[[[3., 2., 1., 0.]]]])
    """
    n, c, height, width = images.shape
    if window is None:
        out = images.clone(memory_format=torch.contiguous_format)
    elif height * width >= LARGE:
        out = torch.zeros_like(images, memory_format=torch.contiguous_format)
        corners = zip(window.top.tolist(), window.left.tolist(), strict=True)
        for target, image, (top, left) in zip(out, images, corners, strict=True):
            (to_y, from_y), (to_x, from_x) = _overlap(top, height), _overlap(left, width)
            target[:, to_y, to_x] = image[:, from_y, from_x]
    else:
        top, left = window.top.clamp(-height, height), window.left.clamp(-width, width)
        y, x = int(top.abs().max()), int(left.abs().max())  # the padding that the windows need
        padded = F.pad(images.contiguous(), (x, x, y, y))
        h, w = padded.shape[2:]
        starts = torch.arange(n) * (c * h * w) + (top + y) * w + (left + x)
        # In this view row i is the crop that starts at element i of the padded images.
        crops = padded.as_strided((int(starts.max()) + 1, c, height, width), (1, h * w, w, 1))
        out = crops.index_select(0, starts)
    for mirrored, axis in ((flip, 3), (vflip, 2)):
        if mirrored is not None:
            rows = mirrored.nonzero().flatten()
            out.index_copy_(0, rows, out.index_select(0, rows).flip(axis))
    return out


def _overlap(start: int, size: int) -> tuple[slice, slice]:
    """Return the pixels of a crop that show the image, and the pixels of the image they show.

    >>> _overlap(-2, 10)
    (slice(2, 10, None), slice(0, 8, None))
    """
    before, after = min(max(-start, 0), size), min(max(start, 0), size)
    return slice(before, size - after), slice(after, size - before)


def blacken_outside(images: Tensor, window: Window) -> Tensor:
    """Return the images (N, C, H, W) with black pixels outside the window, which has their size.

    >>> window = Window.whole(1, 1, 4)._replace(left=torch.tensor([-1]))
    >>> blacken_outside(torch.arange(1.0, 5.0).view(1, 1, 1, 4), window)
    tensor([[[[1., 2., 3., 0.]]]])
    """
    height, width = images.shape[2:]
    if images.device.type != "cpu" or height * width < LARGE:
        box = [window.top, window.left, window.top + height, window.left + width]
        return images * box_masks(torch.stack(box, dim=1), height, width).to(images)
    images = images.clone()
    corners = zip(window.top.tolist(), window.left.tolist(), strict=True)
    for image, (top, left) in zip(images, corners, strict=True):
        (_, y), (_, x) = _overlap(top, height), _overlap(left, width)
        image[:, : y.start] = image[:, y.stop :] = 0
        image[:, :, : x.start] = image[:, :, x.stop :] = 0
    return images


def erase_(images: Tensor, boxes: Tensor) -> Tensor:
    """Set a rectangle in each image to black, in place.

    Args:
        images: float (N, C, H, W).
        boxes: int64 (N, 4): top, left, bottom, right in pixels; bottom and right are exclusive.

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


def _sample_positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return where each of `size` output pixels samples the window, [-1, 1] over the image."""
    position = start + (torch.arange(size, device=start.device) + 0.5) * length / size - 0.5
    position = torch.minimum(torch.maximum(position, start), start + length - 1)
    return (2 * position + 1) / size - 1


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return 1 for the pixels in each box and 0 elsewhere, float (n, 1, H, W).

    Args:
        boxes: int64 (n, 4): top, left, bottom, right in pixels; bottom and right are exclusive.
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
