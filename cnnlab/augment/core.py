"""What is drawn for each image, and in which order it is applied."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from cnnlab.augment import colour, geometry
from cnnlab.augment.draws import Draw
from cnnlab.augment.geometry import Affine, Window
from cnnlab.errors import DataError
from cnnlab.rng import fold_in


CHUNK = 2**19  # values changed at a time: what fits a processor's cache is changed faster


class Params(NamedTuple):
    """What was drawn for a batch, on the CPU; None for what is off.

    Attributes:
        brightness: factor, (N,); `contrast` and `saturation` alike.
        hue: turn of the colour circle, (N,).
        window: crop, in source pixels.
        flip: mirror left and right, bool (N,).
        vflip: mirror top and bottom, bool (N,).
        affine: rotation, shear, scale and shift.
        blur: standard deviation in pixels, (N,).
        noise: standard deviation, (N,).
        noise_seed: decides the noise.
        erase: boxes, int64 (N, 4): top, left, bottom, right.
    """

    brightness: Tensor | None = None
    contrast: Tensor | None = None
    saturation: Tensor | None = None
    hue: Tensor | None = None
    window: Window | None = None
    flip: Tensor | None = None
    vflip: Tensor | None = None
    affine: Affine | None = None
    blur: Tensor | None = None
    noise: Tensor | None = None
    noise_seed: int = 0
    erase: Tensor | None = None

    def part(self, chosen: slice) -> "Params":
        """Return the parameters of some of the images; their noise gets a seed of its own."""
        seed = fold_in(self.noise_seed, chosen.start)
        return Params(*(_part(value, chosen) for value in self))._replace(noise_seed=seed)


@dataclass(kw_only=True)
class Augment:
    """Change each image of a batch in its own random way, without changing what it shows.

    The order is that of a camera: the light (brightness, contrast, saturation, hue), the framing
    (crop, flips, then the affine map about the centre of the crop), the lens (blur), the sensor
    (noise), and at last what stands in the way (erase). What a crop cut away does not come back
    by a rotation: it stays black. Each operation by itself gives what torchvision's v2 gives for
    float images and the same parameters, and draws them from the same distributions; torchvision
    shuffles the order of its colour operations, and here it is fixed. Nothing is normalised.

    Args:
        flip: chance to mirror left and right.
        vflip: chance to mirror top and bottom.
        rotate: largest angle, degrees.
        translate: largest shift, as a share of the side; rounded to whole pixels.
        scale: smallest and largest factor.
        shear: largest shear along x, degrees.
        crop_pad: largest shift of a crop of the image's size, pixels; black comes in.
        resized_crop: smallest and largest share of the area, stretched to the image's size; the
            sides are to each other as 3 : 4 to 4 : 3. Not together with `crop_pad`.
        brightness: b draws a factor from 1 - b to 1 + b; so do `contrast` and `saturation`.
        contrast: see `brightness`.
        saturation: see `brightness`.
        hue: largest turn of the colour circle, at most 0.5.
        blur: largest standard deviation, pixels.
        noise: largest standard deviation, for pixels in [0, 1].
        erase: chance to blacken a rectangle, 2 to 33 % of the area (Zhong et al. 2017,
            https://arxiv.org/abs/1708.04896).
        strength: 0 to 1, multiplies every size and chance; or a function of the step, see `ramp`.
        interpolation: "nearest" or "bilinear" (smoother, slower).

    Raises:
        ValueError: a number is out of its range, or `crop_pad` meets `resized_crop`.

    >>> augment = Augment(flip=0.5, rotate=15, erase=0.5, strength=ramp(0, 1, steps=100))
    >>> import torch
    >>> images = torch.rand(2, 3, 8, 8)
    >>> torch.equal(augment(images), images)
    True
    """

    flip: float = 0.0
    vflip: float = 0.0
    rotate: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] | None = None
    shear: float = 0.0
    crop_pad: int = 0
    resized_crop: tuple[float, float] | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    erase: float = 0.0
    strength: float | Callable[[int], float] = 1.0
    interpolation: str = "nearest"
    step: int = field(default=0, init=False)  # finished updates; the Trainer sets it

    def __post_init__(self) -> None:
        for name, top in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= top:
                raise ValueError(f"{name} must lie between 0 and {top:g}, got {value}")
        _check_range("scale", self.scale, math.inf)
        _check_range("resized_crop", self.resized_crop, 1)
        if self.resized_crop and self.crop_pad:
            raise ValueError("crop_pad and resized_crop together; choose one way to crop")
        if self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(
                f'interpolation is "nearest" or "bilinear", got {self.interpolation!r}'
            )

    def __call__(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return augmented images (N, C, H, W); the argument is not changed.

        Args:
            x: float (N, C, H, W) in [0, 1], with 1 or 3 channels; on any device.
            generator: of the CPU; torch's global one by default.

        Raises:
            DataError: the images have another form.
        """
        if x.ndim != 4 or not x.is_floating_point() or x.shape[1] not in (1, 3):
            raise DataError(
                f"Augment takes float images (N, C, H, W) in [0, 1] with 1 or 3 channels, got "
                f"{x.dtype} of shape {tuple(x.shape)}; from uint8 pixels: x.float() / 255"
            )
        n, _, height, width = x.shape
        return self.apply(x, self.sample(n, height, width, generator))

    def now(self) -> "Augment":
        """Return the augmentation of this step: every size and chance times the strength.

        >>> Augment(rotate=30, scale=(0.5, 1.5), strength=0.5).now().scale
        (0.75, 1.25)
        """
        s = self.strength(self.step) if callable(self.strength) else self.strength
        if not 0 <= s <= 1:
            raise ValueError(f"strength must lie between 0 and 1, got {s} at step {self.step}")
        if s == 1 and isinstance(self.crop_pad, int):
            return self
        smaller: dict[str, Any] = {name: getattr(self, name) * s for name in _LIMITS}
        for name in ("scale", "resized_crop"):
            if (pair := getattr(self, name)) is not None:
                smaller[name] = tuple(1 + s * (value - 1) for value in pair) if s else None
        return replace(self, strength=1.0, **smaller | {"crop_pad": round(smaller["crop_pad"])})

    def sample(self, n: int, height: int, width: int, generator: Generator | None = None) -> Params:
        """Draw the parameters for n images of height x width pixels at this step's strength.

        >>> Augment(flip=1.0).sample(2, 8, 8).flip
        tensor([True, True])
        """
        now, draw = self.now(), Draw(n, generator)
        moved = (now.rotate, now.shear, now.scale or (1.0, 1.0), now.translate)
        return Params(
            brightness=draw.factor(now.brightness) if now.brightness else None,
            contrast=draw.factor(now.contrast) if now.contrast else None,
            saturation=draw.factor(now.saturation) if now.saturation else None,
            hue=draw.uniform(-now.hue, now.hue) if now.hue else None,
            window=now._window(draw, height, width),
            flip=draw.chance(now.flip) if now.flip else None,
            vflip=draw.chance(now.vflip) if now.vflip else None,
            affine=draw.affine(*moved, height, width) if moved != (0, 0, (1, 1), 0) else None,
            blur=draw.uniform(0, now.blur) if now.blur else None,
            noise=draw.uniform(0, now.noise) if now.noise else None,
            noise_seed=draw.seed() if now.noise else 0,
            erase=draw.boxes(now.erase, height, width) if now.erase else None,
        )

    def _window(self, draw: Draw, height: int, width: int) -> Window | None:
        if self.crop_pad:
            return draw.shifted(self.crop_pad, height, width)
        if self.resized_crop:
            return draw.resized(self.resized_crop, height, width)
        return None

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Return the images (N, C, H, W) changed by parameters that have been drawn.

        >>> import torch
        >>> images = torch.rand(2, 3, 8, 8)
        >>> half = Params(brightness=torch.tensor([0.5, 0.5]))
        >>> torch.equal(Augment().apply(images, half), images / 2)
        True
        """
        n = max(1, CHUNK // max(1, x[:1].numel())) if x.device.type == "cpu" else len(x)
        if n >= len(x):
            return self._apply(x, params)
        out = torch.empty_like(x)
        for start in range(0, len(x), n):
            part = slice(start, start + n)
            out[part] = self._apply(x[part], params.part(part))
        return out

    def _apply(self, x: Tensor, params: Params) -> Tensor:
        """Change all images at once, in the order that the class describes."""
        given = x
        light = (params.brightness, params.contrast, params.saturation, params.hue)
        if any(numbers is not None for numbers in light):
            x = x.clone()
        for change_, numbers in zip(_COLOURS, light, strict=True):
            if numbers is not None:
                change_(x, numbers)
        framing = (params.window, params.flip, params.vflip, params.affine)
        if any(part is not None for part in framing):
            x = self._framed(x, *framing)
        if params.blur is not None:
            x = colour.blur(x, params.blur)
        if params.noise is not None:
            x = colour.noise(x, params.noise, params.noise_seed)
        if params.erase is not None:
            x = geometry.erase_(x.clone() if x is given else x, params.erase)
        return x

    def _framed(
        self,
        x: Tensor,
        window: Window | None,
        flip: Tensor | None,
        vflip: Tensor | None,
        affine: Affine | None,
    ) -> Tensor:
        """Return the images cropped, mirrored and mapped."""
        if window is not None and window.stretches(*x.shape[2:]):
            smooth = self.interpolation == "bilinear"
            x = geometry.stretch(x, window) if smooth else geometry.frame(x, window)
            window = None
        return geometry.transform(x, affine, window, flip, vflip, self.interpolation)


def ramp(start: float, end: float, steps: int) -> Callable[[int], float]:
    """Return a strength that goes along a straight line from `start` to `end`, reached at `steps`.

    Args:
        start: strength at step 0, 0 to 1.
        end: strength from step `steps` on, 0 to 1.
        steps: optimizer updates.

    Raises:
        ValueError: a strength is not in 0 to 1, or steps is not positive.

    >>> [ramp(0.0, 1.0, steps=10)(step) for step in (0, 5, 10, 99)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if not (0 <= start <= 1 and 0 <= end <= 1 and steps > 0):
        raise ValueError(
            f"ramp needs strengths between 0 and 1 and a positive number of steps, got {start}, "
            f"{end}, {steps}"
        )
    return lambda step: start + (end - start) * min(step / steps, 1.0)


def _part(value: Any, chosen: slice) -> Any:
    if isinstance(value, Window | Affine):
        return type(value)(*(numbers[chosen] for numbers in value))
    return value[chosen] if isinstance(value, Tensor) else value


def _check_range(name: str, pair: tuple[float, float] | None, top: float) -> None:
    if pair is not None and not 0 < pair[0] <= pair[1] <= top:
        raise ValueError(
            f"{name} takes (smallest, largest) with 0 < smallest <= largest <= {top:g}, got {pair}"
        )


_COLOURS = (colour.brightness_, colour.contrast_, colour.saturation_, colour.hue_)
_LIMITS = {  # what the strength multiplies, and the largest value of each
    "flip": 1, "vflip": 1, "rotate": 360, "translate": 1, "shear": 89, "crop_pad": math.inf,
    "brightness": math.inf, "contrast": math.inf, "saturation": math.inf, "hue": 0.5,
    "blur": math.inf, "noise": math.inf, "erase": 1,
}  # fmt: skip
