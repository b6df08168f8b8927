"""Name the classes that a network recognises in images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.augment.core import TOLERANCE
from cnnlab.data.decoding import DecodeError, decode, to_rgb
from cnnlab.data.images import unit
from cnnlab.errors import DataError
from cnnlab.models.modes import eval_mode


if TYPE_CHECKING:
    import pandas as pd

BATCH_SIZE = 64


def top_classes(
    model: nn.Module, images: Any, classes: Sequence[str], *, size: int, top: int
) -> "pd.DataFrame":
    """Return the most probable classes of each image, as `Backbone.classify` does.

    Args:
        model: maps images (N, 3, H, W) to logits (N, K).
        images: as in `Backbone.classify`.
        classes: the K names.
        size: side of the square to which files and PIL images are resized, in pixels.
        top: number of classes per image.
    """
    import pandas as pd

    if not 1 <= top <= len(classes):
        raise ValueError(f"top must be between 1 and {len(classes)}, got {top}")
    logits = torch.cat([_logits(model, batch) for batch in _batches(images, size)])
    if logits.shape[1] != len(classes):
        raise ValueError(
            f"the model returns {logits.shape[1]} logits, but there are {len(classes)} class names"
        )
    probabilities, indices = logits.softmax(dim=1).topk(top)
    table = pd.DataFrame(index=pd.Index(_row_names(images, len(logits)), name="image"))
    for rank in range(top):
        suffix = f" {rank + 1}" if rank else ""
        table[f"class{suffix}"] = [classes[k] for k in indices[:, rank].tolist()]
        table[f"probability{suffix}"] = probabilities[:, rank].double().numpy().round(3)
    return table


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits in evaluation mode, on the CPU; the mode of every module is restored."""
    with torch.no_grad(), eval_mode(model):
        return model(images.to(next(model.parameters()))).float().cpu()


def _batches(images: Any, size: int) -> Iterator[Tensor]:
    """Yield batches (n, C, H, W) of a tensor; of anything else, one image at a time."""
    if isinstance(images, Tensor):
        yield from _checked(images).split(BATCH_SIZE)
        return
    listed = images if isinstance(images, list | tuple) else [images]
    if not listed:
        raise DataError("classify needs at least one image, got an empty list")
    for image in listed:
        yield _checked(_as_tensor(image, size))


def _as_tensor(image: Any, size: int) -> Tensor:
    """Return an image as a float tensor, files and PIL images as squares (3, size, size)."""
    from PIL import Image, ImageOps

    if isinstance(image, Tensor):
        return image
    if isinstance(image, str | Path):
        return unit(decode(Path(image).expanduser(), size))
    if not isinstance(image, Image.Image):
        hint = " Use PIL.Image.fromarray(array)" if isinstance(image, np.ndarray) else ""
        raise TypeError(
            "classify takes a tensor, a PIL image, the path of an image, or a list of them; got "
            f"{type(image).__name__}.{hint}"
        )
    try:
        pixels = np.array(to_rgb(ImageOps.exif_transpose(image), size))
    except DecodeError as error:
        raise DataError(f"can't convert the image to RGB: {error}") from None
    return unit(torch.from_numpy(pixels).permute(2, 0, 1))


def _checked(images: Tensor) -> Tensor:
    """Return images (N, C, H, W), C 1 or 3, float in [0, 1]; refuse anything else."""
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        last = images.ndim == 4 and images.shape[3] in (1, 3)
        hint = ". If the channels are last, use images.movedim(-1, -3)" if last else ""
        raise DataError(
            f"images must be (N, C, H, W) or (C, H, W), with 1 or 3 channels; got "
            f"{tuple(images.shape)}{hint}"
        )
    if not images.is_floating_point():
        raise DataError(
            f"images are {str(images.dtype).removeprefix('torch.')}, but classify takes float "
            "images in [0, 1]: use images.float() / 255"
        )
    low, high = images.min().item(), images.max().item()
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise DataError(
            f"pixels run from {low:.4g} to {high:.4g}, but classify takes images in [0, 1]. Divide "
            "pixels in 0..255 by 255, and don't normalise: the first layer of the model does it"
        )
    return images


def _row_names(images: Any, n: int) -> list[Any]:
    """Return the names of files; images without one are numbered."""
    listed = images if isinstance(images, list | tuple) else [images]
    names = [Path(i).name if isinstance(i, str | Path) else k for k, i in enumerate(listed)]
    return names if len(names) == n else list(range(n))
