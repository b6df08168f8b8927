"""Decode image files to 8-bit RGB, whatever their mode and depth."""

import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from operator import index as as_index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnlab.data.image_files import printable
from cnnlab.errors import DataError


if TYPE_CHECKING:
    from PIL.Image import Image

# A list, because PIL also opens formats that have been used for attacks and hold no photographs.
FORMATS = (
    "JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000", "DIB", "QOI", "HEIF"
)  # fmt: skip
PIXEL_LIMIT = 2**26  # per image, because a file of a few bytes can decode to gigabytes
LEVELS = (1, 255, 1023, 4095, 16383, 65535)  # white in a data set of 1, 8, 10, 12, 14 or 16 bits


class Whites(NamedTuple):
    """The values that are white in images of more than 8 bits: among integers, among floats."""

    integers: int = 65535
    floats: int = 1


class Decoded(NamedTuple):
    """A decoded image.

    Args:
        pixels: uint8 RGB, (3, H, W).
        kind: how its values were stored: in 8 bits, in more bits, as floats, or as colours of 16
            bits, of which PIL keeps the upper 8.
        largest: the largest stored value; of 16-bit colours, the largest that PIL keeps.
    """

    pixels: Tensor
    kind: Literal["8 bits", "integers", "floats", "colours"] = "8 bits"
    largest: float = 0


class DecodeError(Exception):
    """The reason why a file can't be decoded, without its name."""


def decode(path: Path, size: int | None, whites: Whites = Whites()) -> Tensor:  # noqa: B008
    """Decode an image file to uint8 RGB (3, H, W), upright as its camera recorded it.

    Args:
        path: a file.
        size: side of the square to crop and resize it to, in pixels; None keeps the whole image.
        whites: what is white in an image of more than 8 bits.

    Raises:
        DataError: the file isn't an image, or is damaged; the message names the file.
    """
    try:
        return read_image(path, size, whites).pixels
    except DecodeError as error:
        raise DataError(f"cannot read the image {printable(path)}: {error}") from None


def read_image(path: Path, size: int | None, whites: Whites | None) -> Decoded:
    """Decode an image file, and return how its values were stored, too.

    Args:
        path: a file.
        size: side of the square to crop and resize it to, in pixels; None keeps the whole image.
        whites: what is white in an image of more than 8 bits; None takes the level of this image.

    Raises:
        DecodeError: the file isn't an image, is damaged, or its values have no known range.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        if path.is_dir():
            raise DecodeError("it is a folder; an image is a single file")
        if not path.exists() and not path.is_symlink():
            raise DecodeError(_missing(path))
        if not path.is_file():  # reading from a pipe would never end
            raise DecodeError("it is not a regular file, or a link to a file that doesn't exist")
        with Image.open(path, formats=_formats()) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise DecodeError(
                    f"{image.width} x {image.height} pixels is too large; reduce it to at most "
                    f"{PIXEL_LIMIT:,} pixels"
                )
            white, inverted, sixteen = _declared(image)
            upright = ImageOps.exif_transpose(image)
            if upright.mode[0] in "IF":
                kind: Any = "floats" if upright.mode == "F" else "integers"
                values = np.asarray(upright)
                largest = _largest(values)
                if white is not None:
                    kind = "8 bits"  # the file itself says what is white, so nothing is to be found
                else:
                    white = level(largest) if whites is None else getattr(whites, kind)
                grey = _grey(values, white, largest)
                rgb = to_rgb(ImageOps.invert(grey) if inverted else grey, size)
            else:
                rgb = to_rgb(upright, size)
                kind = "colours" if sixteen else "8 bits"
                largest = float(np.asarray(upright.convert("RGB")).max()) if sixteen else 0
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    except Exception as error:  # noqa: BLE001 - PIL raises a dozen types for a damaged file
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, OSError | SyntaxError) and reason == str(error):  # not of the system
            reason = f"it is damaged or incomplete, so copy or download it again ({reason})"
        raise DecodeError(reason) from None
    # (H, W, 3) -> (3, H, W)
    pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()
    return Decoded(pixels, kind, largest)


def _missing(path: Path) -> str:
    """Say that there is no such file, and name one that has a similar name."""
    if str(path).startswith(("http:", "https:")):
        return "it is a web address; download the image, and give the name of the file"
    says = "there is no such file"
    if not path.is_absolute():
        says += f", seen from the current folder {Path.cwd()}"
    files = path.parent.iterdir() if path.parent.is_dir() else []
    names = {file.name.casefold(): file for file in files}
    close = get_close_matches(path.name.casefold(), names, n=1)
    return f"{says}; did you mean {printable(names[close[0]])}?" if close else says


def to_rgb(image: "Image", size: int | None) -> "Image":
    """Convert a PIL image to RGB, on white where it's transparent.

    Args:
        image: in any mode. Integers of more than 8 bits are taken as 0..65535, floats as 0..1.
        size: side of the square to crop and resize it to, in pixels; None keeps the whole image.
    """
    from PIL import Image, ImageOps

    if image.mode[0] in "IF":  # PIL would clip the values at 255
        values = np.asarray(image)
        image = _grey(values, Whites().floats if image.mode == "F" else 65535, _largest(values))
    if image.mode == "LAB":
        raise DecodeError("its colours are in LAB, which Pillow can't convert; save it as RGB")
    if image.mode == "La":  # multiplied by its transparency
        image = image.convert("LA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR) if size else image


def check_size(size: Any) -> int:
    """Return the side of a square image, in pixels, as an int.

    Raises:
        TypeError: it's not a whole number.
        ValueError: it's less than one pixel.
    """
    try:
        pixels = as_index(size)
    except TypeError:
        raise TypeError(
            f"size must be a whole number of pixels, the side of a square, got {size!r}; try "
            "size=64"
        ) from None
    if pixels < 1:
        raise ValueError(f"size must be 1 pixel or more, got {pixels}; try size=64")
    return pixels


def level(largest: float) -> int:
    """Return the white level of a data set: the smallest of `LEVELS` that holds its values.

    >>> level(0.8), level(4000), level(60_000)
    (1, 4095, 65535)
    """
    return next(white for white in LEVELS if largest <= white)


def common_whites(decoded: Iterable[Decoded]) -> Whites:
    """Return the white levels of a data set, the same for all its images, so they stay comparable.

    >>> dim, bright = (Decoded(torch.empty(0), "integers", n) for n in (200, 4000))
    >>> common_whites([dim, bright])
    Whites(integers=4095, floats=1)
    """
    largest = {"integers": -1.0, "floats": -1.0}
    for image in decoded:
        if image.kind in largest:
            largest[image.kind] = max(largest[image.kind], image.largest)
    return Whites(**{kind: level(n) for kind, n in largest.items() if n >= 0})


def is_readable(path: Path) -> bool:
    """Return whether PIL recognises a file as an image in one of the formats, by its first bytes.

    For files whose name doesn't say it.
    """
    from PIL import Image

    if not path.is_file():
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path, formats=_formats()).close()
    except Image.DecompressionBombError:
        return True  # reported when it's decoded
    except Exception:  # noqa: BLE001 - a text may begin like an image
        return False
    return True


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that this installation of PIL knows; HEIF comes with a package."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _declared(image: "Image") -> tuple[int | None, bool, bool]:
    """Return what the header says about the values.

    Returns:
        What is white, if the file says it; whether 0 is white instead; and whether these are
        colours of 16 bits.
    """
    tags = getattr(image, "tag_v2", {})
    white = {10: 1023, 12: 4095, 14: 16383}.get((tags.get(258) or (0,))[0])  # bits per sample
    tiles: Any = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ()
    if image.format == "PPM" and image.mode == "I" and isinstance(args, tuple):
        white = 65535  # PIL has scaled the values by the largest one that the header allows
    inverted = tags.get(262) == 0 and image.mode[0] in "IF"
    return white, inverted, image.mode[0] not in "IF" and ";16" in str(args)


def _largest(values: np.ndarray) -> float:
    """Return the largest value; raise DecodeError if the values have no known range."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= LEVELS[-1]):
        raise DecodeError(
            f"its pixel values run from {low:g} to {high:g}. In images of more than 8 bits, they "
            f"must be in 0 to {LEVELS[-1]:,}, or in 0 to 1: rescale them"
        )
    return high


def _grey(values: np.ndarray, white: int, largest: float) -> "Image":
    """Return the values as an 8-bit image, in which `white` becomes 255."""
    from PIL import Image

    if largest > white:
        raise DecodeError(
            f"its largest pixel value is {largest:g}, but {white:g} is white in this data set"
        )
    levels: np.ndarray
    if values.dtype.kind == "f":
        levels = (values.astype(np.float64) * 255 / white).round()
    elif white < 255:
        levels = values * (255 // white)
    else:
        levels = values.astype(np.int64) * 256 // (white + 1)
    return Image.fromarray(levels.astype(np.uint8))
