"""Name the classes that a network recognises in images."""

from collections.abc import Iterable, Iterator, Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.augment.core import TOLERANCE
from cnnlab.data.arrays import as_tensor, channels_first
from cnnlab.data.decoding import DecodeError, check_size, decode, to_rgb
from cnnlab.data.images import unit
from cnnlab.errors import DataError, NonFiniteError, holds
from cnnlab.files import user_path
from cnnlab.models.modes import eval_mode
from cnnlab.plots.core import in_ipython


if TYPE_CHECKING:
    import pandas as pd

BATCH_SIZE = 64


def classify(
    model: nn.Module,
    image: Any,
    classes: Sequence[str],
    *,
    size: int | None = None,
    top: int = 3,
) -> "pd.DataFrame":
    """Classify one image, and show it in a notebook beside its most probable classes.

    The picture shows what the model gets: the image cropped to a square at the centre and resized.
    For many images, use `trainer.predict`.

    Args:
        model: maps images (N, C, H, W) in [0, 1] to logits (N, K). It's evaluated in evaluation
            mode, and the mode of every module is as before afterwards.
        image: the path of an image file, a PIL image, or the pixels as a tensor or an array
            (C, H, W), (H, W, C) or (H, W), either uint8 or float in [0, 1].
        classes: the K names in the order of the labels, such as `data.classes`.
        size: side in pixels of the square; by default `model.size`, the size a pretrained model was
            trained on.
        top: number of classes to show, at most.

    Returns:
        One row per class, with the columns `class` and `probability`, the most probable one first.

    Raises:
        DataError: there is no such file, or it isn't an image; or the pixels have another shape or
            another range of values.
        ValueError: the number of classes isn't the number of logits, the size is unknown, or `top`
            is less than 1.
        TypeError: an argument has another type.
        NonFiniteError: the model returns NaN or infinite logits.

    >>> import cnnlab
    >>> from PIL import Image
    >>> model = cnnlab.pretrained("glyphnet", 2)
    >>> table = classify(model, Image.new("RGB", (60, 40), "white"), ["cat", "dog"])
    >>> sorted(table["class"]), table["probability"].sum().round(3).item()
    (['cat', 'dog'], 1.0)
    """
    import pandas as pd

    names = _checked_call(model, image, classes, top)
    size = _size(model, size)
    pixels = _square(_pixels(image, size), size)
    probabilities, indices = _most_probable(model, [pixels], names, min(top, len(names)))
    chosen = [names[k] for k in indices[0].tolist()]
    table = pd.DataFrame({"class": chosen, "probability": probabilities[0].double().numpy()})
    _show(pixels[0], table, image)
    return table


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
    probabilities, indices = _most_probable(model, _batches(images, size), classes, top)
    table = pd.DataFrame(index=pd.Index(_row_names(images, len(indices)), name="image"))
    for rank in range(top):
        suffix = f" {rank + 1}" if rank else ""
        table[f"class{suffix}"] = [classes[k] for k in indices[:, rank].tolist()]
        table[f"probability{suffix}"] = probabilities[:, rank].double().numpy().round(3)
    return table


def _most_probable(
    model: nn.Module, batches: Iterable[Tensor], classes: Sequence[str], top: int
) -> tuple[Tensor, Tensor]:
    """Return the largest probabilities of each image, (N, top), and the indices of their classes.

    Raises:
        ValueError: there are more or fewer logits than classes.
        NonFiniteError: a logit is NaN or infinite.
    """
    logits = torch.cat([_logits(model, batch) for batch in batches])
    if logits.ndim != 2 or logits.shape[1] != len(classes):
        n = logits.shape[1] if logits.ndim == 2 else f"outputs of shape {tuple(logits.shape)}, no"
        raise ValueError(
            f"the model returns {n} logits, but there are {len(classes)} class names: pass those "
            "of the data it was trained on, in the order of the labels"
        )
    if not logits.isfinite().all():
        raise NonFiniteError(
            "the model returns NaN or infinite logits, so there are no probabilities; its weights "
            "are probably damaged. cnnlab.diagnose.nan_hunt(model, batch, loss_fn) finds the layer"
        )
    return logits.softmax(dim=1).topk(top)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits in evaluation mode, on the CPU; the mode of every module is restored."""
    weight = next(model.parameters(), images)
    with torch.no_grad(), eval_mode(model):
        return model(_with_channels(images, model).to(weight)).float().cpu()


def _with_channels(images: Tensor, model: nn.Module) -> Tensor:
    """Return images with as many channels as the first convolution takes: grey or in colour."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.in_channels == images.shape[1]:
        return images
    if first.in_channels == 1:
        from torchvision.transforms.v2 import functional

        return functional.rgb_to_grayscale(images)
    return images.expand(-1, first.in_channels, -1, -1) if images.shape[1] == 1 else images


def _checked_call(model: Any, image: Any, classes: Any, top: Any) -> tuple[str, ...]:
    """Return the names of the classes; refuse arguments of `classify` that can't be used."""
    if not isinstance(model, nn.Module):
        hint = ": pass trainer.model" if hasattr(model, "model") else ""
        raise TypeError(f"classify takes a model, got {type(model).__name__}{hint}")
    if isinstance(image, list | tuple):
        raise TypeError(
            f"classify takes one image, got a {type(image).__name__} of {len(image)}: call it for "
            "each of them, or use trainer.predict for many"
        )
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise TypeError(
            "classes must be a list of names in the order of the labels, such as data.classes, got "
            f"{type(classes).__name__}"
        )
    if not holds(lambda: top >= 1 and index(top) == top):
        raise ValueError(f"top must be a whole number, 1 or more, got {top!r}")
    return tuple(map(str, classes))


def _size(model: nn.Module, size: Any) -> int:
    """Return the side of the square that a model gets; raise ValueError if nobody says it."""
    size = getattr(model, "size", None) if size is None else size
    if size is None:
        raise ValueError(
            "this model doesn't say how large its images are; pass the side of those you trained "
            "it on, in pixels, such as size=32 (see data.train.shape)"
        )
    return check_size(size)


def _pixels(image: Any, size: int) -> Tensor:
    """Return an image as floats (C, H, W) or (1, C, H, W); an array may have its channels last.

    Pixels in 8 bits are resized as those of a file are, so they get the same probabilities.
    """
    from PIL import Image

    if not isinstance(image, Tensor | np.ndarray):
        return _as_tensor(image, size)
    pixels = as_tensor(image)
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim == 3:
        pixels = channels_first(pixels[None])
    if pixels.dtype != torch.uint8:
        return pixels
    if pixels.ndim != 4 or len(pixels) != 1 or pixels.shape[1] not in (1, 3, 4):
        return unit(pixels)  # refused with a message about its shape
    array = pixels[0].permute(1, 2, 0).cpu().numpy()
    return _as_tensor(Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array), size)


def _square(pixels: Tensor, size: int) -> Tensor:
    """Return one image as a batch (1, C, size, size), cropped at the centre and resized."""
    from torchvision.transforms.v2 import functional

    images = _checked(pixels)
    if len(images) > 1:
        raise DataError(
            f"classify takes one image, got {len(images)} (shape {tuple(images.shape)}): pass "
            "images[0], or use trainer.predict for many"
        )
    if images.shape[2:] == (size, size):
        return images
    resized = functional.resize(images, [size], antialias=True)
    return functional.center_crop(resized, [size, size]).clamp(0, 1)


def _show(image: Tensor, table: "pd.DataFrame", source: Any) -> None:
    """Show the image beside its most probable classes, in a notebook."""
    from cnnlab import plots

    if not in_ipython():
        return
    from IPython.display import display

    name = Path(source).name if isinstance(source, str | Path) else "the image"
    probabilities = dict(zip(table["class"], table["probability"], strict=True))
    best = table["class"][0]
    message = f"Most probable class of {name}: {best} ({probabilities[best]:.3f})."
    display(plots.prediction(image, probabilities, message=message))


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
        return unit(decode(user_path(image), size))
    if not isinstance(image, Image.Image):
        hint = " Use PIL.Image.fromarray(array)" if isinstance(image, np.ndarray) else ""
        raise TypeError(
            "classify takes the path of an image, a PIL image, or pixels as a tensor; got "
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
        hint = ""
        if images.ndim == 4 and images.shape[3] in (1, 3):
            hint = ". If the channels are last, use images.movedim(-1, -3)"
        elif images.ndim == 4 and images.shape[1] == 4:
            hint = ". If the fourth channel is transparency, leave it out: images[:, :3]"
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
