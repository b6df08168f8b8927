"""The options of `Augment`, the random parameters of a batch, and the order they are applied in."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from cnnlab.augment import colour, geometry
from cnnlab.augment.draws import ParamSampler
from cnnlab.augment.geometry import Affine, Window
from cnnlab.devices import to_device
from cnnlab.errors import DataError, holds
from cnnlab.rng import fold_in


# Values that are changed at a time on a CPU: a chunk that fits into the cache is faster.
CHUNK = 2**19
# How far a pixel may be outside [0, 1]: more than the rounding of any 16-bit type.
TOLERANCE = 0.01


class Params(NamedTuple):
    """The random parameters of a batch, drawn on the CPU; None for an operation that is off.

    Attributes:
        brightness: factor per image, (N,).
        contrast: factor per image, (N,).
        saturation: factor per image, (N,).
        hue: rotation of the hue, as a fraction of the colour circle, (N,).
        window: the crop, in source pixels.
        flip: whether to mirror left and right, bool (N,).
        vflip: whether to mirror top and bottom, bool (N,).
        affine: rotation, shear, scale and shift.
        blur: standard deviation in pixels, (N,).
        noise: standard deviation, (N,).
        noise_seed: determines the noise.
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

    def to(self, device: torch.device) -> "Params":
        """Return the parameters on a device: all of them travel in one tensor.

        >>> Params(flip=torch.tensor([True])).to(torch.device("cpu")).flip
        tensor([True])
        """
        columns = [column for value in self for column in _columns(value)]
        if not columns:
            return self
        table = torch.cat([c.reshape(len(c), c[:1].numel()).float() for c in columns], dim=1)
        parts = to_device(table, device).split([c[:1].numel() for c in columns], dim=1)
        moved = iter(
            [part.reshape(c.shape).to(c.dtype) for part, c in zip(parts, columns, strict=True)]
        )
        return Params(*(_filled(value, moved) for value in self))

    def part(self, rows: slice) -> "Params":
        """Return the parameters of a slice of the batch, with a different seed for its noise."""
        seed = fold_in(self.noise_seed, rows.start)
        return Params(*(_slice(value, rows) for value in self))._replace(noise_seed=seed)


@dataclass(kw_only=True)
class Augment:
    """Augment each image of a batch with its own random parameters; the labels stay valid.

    The operations run in the order of a camera: light (brightness, contrast, saturation, hue),
    framing (crop, flips, then the affine map about the centre of the crop), lens (blur), sensor
    (noise), and finally an obstacle in front of the scene (erase). A rotation doesn't bring back
    what the crop has removed; those pixels stay black. With the same parameters each operation
    gives the same result as torchvision's v2 on float images, and the parameters have the same
    distributions. The one difference is that torchvision shuffles its colour operations, while the
    order here is fixed. Nothing is normalised. Operations that change the values of pixels
    (brightness, contrast, saturation, hue, noise) need them in [0, 1]; the others take any values.

    Args:
        flip: probability of mirroring left and right.
        vflip: probability of mirroring top and bottom.
        rotate: largest angle in degrees.
        translate: largest shift, as a fraction of the side; rounded to whole pixels.
        scale: smallest and largest factor.
        shear: largest shear along x in degrees.
        crop_pad: pad the image with this many black pixels and crop it at a random position.
        resized_crop: smallest and largest fraction of the area; a random crop with sides in a ratio
            of 3 : 4 to 4 : 3 is resized to the image's size. Not together with `crop_pad`.
        brightness: b draws a factor from 1 - b to 1 + b.
        contrast: likewise.
        saturation: likewise.
        hue: largest rotation of the hue, at most 0.5, as a fraction of the colour circle.
        blur: largest standard deviation in pixels.
        noise: largest standard deviation, for pixels in [0, 1].
        erase: probability of a black rectangle over 2 to 33 % of the area (Zhong et al. 2017,
            https://arxiv.org/abs/1708.04896).
        strength: 0 to 1, multiplies every size and probability; or a function of the step that
            returns such a number, see `ramp`.
        interpolation: "nearest" or "bilinear" (smoother, slower).

    Raises:
        ValueError: a value is out of range, or both `crop_pad` and `resized_crop` are given.

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
    step: int = field(default=0, init=False)  # finished optimizer steps, set by the Trainer

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not holds(lambda v=value, limit=limit: 0 <= v <= limit and v < math.inf):  # type: ignore[misc]
                allowed = (
                    "at least 0 and finite" if limit == math.inf else f"between 0 and {limit:g}"
                )
                raise ValueError(f"{name} must be {allowed}, got {value!r}")
        _check_range("scale", self.scale, math.inf)
        _check_range("resized_crop", self.resized_crop, 1)
        if self.resized_crop and self.crop_pad:
            raise ValueError(
                f"got both crop_pad={self.crop_pad} and resized_crop={self.resized_crop}; "
                "use only one of them"
            )
        if self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(
                f'interpolation must be "nearest" or "bilinear", got {self.interpolation!r}'
            )

    def __call__(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return augmented images (N, C, H, W); the input is not changed.

        Args:
            x: float (N, C, H, W) in [0, 1], with 1 or 3 channels, on any device.
            generator: a CPU generator; by default torch's global one.

        Raises:
            DataError: the images have another shape, type or range.
        """
        if not isinstance(x, Tensor):
            raise DataError(
                f"Augment needs a tensor (N, C, H, W) in [0, 1], got {type(x).__name__}. Convert "
                "an array with torch.from_numpy(x), or a PIL image with "
                "torchvision.transforms.functional.to_tensor(image)[None]"
            )
        if generator is not None and not isinstance(generator, Generator):
            raise TypeError(
                f"generator must be a torch.Generator, got {generator!r}: use "
                "cnnlab.rng.generator(0)"
            )
        if x.ndim != 4 or not x.is_floating_point() or x.shape[1] not in (1, 3):
            raise DataError(
                f"Augment needs float images (N, C, H, W) in [0, 1] with 1 or 3 channels, got "
                f"{x.dtype} of shape {tuple(x.shape)}; convert uint8 pixels with x.float() / 255"
            )
        n, _, height, width = x.shape
        return self.apply(x, self.sample(n, height, width, generator))

    def now(self) -> "Augment":
        """Return the augmentation at this step, with every size and probability times the strength.

        Raises:
            ValueError: the strength is not between 0 and 1.

        >>> Augment(rotate=30, scale=(0.5, 1.5), strength=0.5).now().scale
        (0.75, 1.25)
        """
        strength = self.strength(self.step) if callable(self.strength) else self.strength
        if not holds(lambda: 0 <= strength <= 1):
            raise ValueError(
                f"strength must be between 0 and 1, got {strength!r} at step {self.step}"
            )
        strength = float(strength)
        if strength == 1 and isinstance(self.crop_pad, int):
            return self
        scaled: dict[str, Any] = {name: getattr(self, name) * strength for name in _LIMITS}
        scaled["crop_pad"] = round(scaled["crop_pad"])
        for name in ("scale", "resized_crop"):
            if (pair := getattr(self, name)) is not None:
                # Strength moves both ends from 1, which changes nothing, to their full values.
                ends = tuple(1 + strength * (value - 1) for value in pair)
                scaled[name] = ends if strength else None
        return replace(self, strength=1.0, **scaled)

    def sample(self, n: int, height: int, width: int, generator: Generator | None = None) -> Params:
        """Draw the parameters for n images of height x width pixels, at this step's strength.

        Raises:
            ValueError: the strength is not between 0 and 1.

        >>> Augment(flip=1.0).sample(2, 8, 8).flip
        tensor([True, True])
        """
        now, draw = self.now(), ParamSampler(n, generator)
        affine = (now.rotate, now.shear, now.scale or (1.0, 1.0), now.translate)
        colours = draw.named(now._colour_ranges())
        return Params(
            brightness=colours.get("brightness"),
            contrast=colours.get("contrast"),
            saturation=colours.get("saturation"),
            hue=colours.get("hue"),
            window=now._sample_window(draw, height, width),
            flip=draw.bernoulli(now.flip) if now.flip else None,
            vflip=draw.bernoulli(now.vflip) if now.vflip else None,
            affine=draw.affine(*affine, height, width) if affine != (0, 0, (1, 1), 0) else None,
            blur=draw.uniform(0, now.blur) if now.blur else None,
            noise=draw.uniform(0, now.noise) if now.noise else None,
            noise_seed=draw.seed() if now.noise else 0,
            erase=draw.erase_boxes(now.erase, height, width) if now.erase else None,
        )

    def _colour_ranges(self) -> dict[str, tuple[float, float]]:
        """Return the smallest and largest parameter of each colour operation that is on."""
        factors = ("brightness", "contrast", "saturation")
        sizes = {name: size for name in factors if (size := getattr(self, name))}
        ranges = {name: (max(0.0, 1 - size), 1 + size) for name, size in sizes.items()}
        return ranges | ({"hue": (-self.hue, self.hue)} if self.hue else {})

    def _sample_window(self, draw: ParamSampler, height: int, width: int) -> Window | None:
        if self.crop_pad:
            return draw.padded_crop(self.crop_pad, height, width)
        if self.resized_crop:
            return draw.resized_crop(self.resized_crop, height, width)
        return None

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Return the images (N, C, H, W), augmented with the given parameters.

        Raises:
            DataError: pixels are outside [0, 1], and an operation needs them to be inside.

        >>> import torch
        >>> images = torch.rand(2, 3, 8, 8)
        >>> half = Params(brightness=torch.tensor([0.5, 0.5]))
        >>> torch.equal(Augment().apply(images, half), images / 2)
        True
        """
        self._check_range_of_pixels(x, params)
        if x.device.type != "cpu":
            return self._apply(x, params.to(x.device), params)
        n = max(1, CHUNK // max(1, x[:1].numel()))
        if n >= len(x):
            return self._apply(x, params, params)
        out = torch.empty_like(x)
        for start in range(0, len(x), n):
            rows = slice(start, start + n)
            part = params.part(rows)
            out[rows] = self._apply(x[rows], part, part)
        return out

    def _check_range_of_pixels(self, x: Tensor, params: Params) -> None:
        """Refuse pixels outside [0, 1] if an operation would cut them off there."""
        used = [name for name in _NEED_UNIT_RANGE if getattr(params, name) is not None]
        # Reading a value from a GPU waits for it, so in a fit every hundredth step has to do.
        if not used or not x.numel() or (x.device.type != "cpu" and self.step % 100):
            return
        low, high = x.amin().item(), x.amax().item()  # a third faster than one aminmax
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise DataError(
                f"{used[0]} needs pixels in [0, 1], got {low:.4g} to {high:.4g}: divide pixels in "
                "0..255 by 255; normalise after the augmentation, best in the first layer of the "
                "model (cnnlab.models.Normalize)"
            )

    def _apply(self, x: Tensor, params: Params, on_host: Params) -> Tensor:
        """Augment all images at once, in the order that the class describes.

        Args:
            x: the images.
            params: on the device of the images.
            on_host: the same on the CPU, for what depends on a value: a GPU isn't asked for it.
        """
        original = x
        light = (params.brightness, params.contrast, params.saturation, params.hue)
        if any(values is not None for values in light):
            x = x.clone()
        for change_, values in zip(_COLOURS, light, strict=True):
            if values is not None:
                change_(x, values)
        framing = (params.window, params.flip, params.vflip, params.affine)
        if any(values is not None for values in framing):
            window = on_host.window
            resized = window is not None and window.differs_in_size(*x.shape[2:])
            x = self._move_pixels(x, *framing, resized)
        if params.blur is not None and on_host.blur is not None:
            x = colour.blur(x, params.blur, colour.blur_radius(on_host.blur))
        if params.noise is not None:
            x = colour.noise(x, params.noise, params.noise_seed)
        if params.erase is not None:
            x = geometry.erase_(x.clone() if x is original else x, params.erase)
        return x

    def _move_pixels(
        self,
        x: Tensor,
        window: Window | None,
        flip: Tensor | None,
        vflip: Tensor | None,
        affine: Affine | None,
        resized: bool,
    ) -> Tensor:
        """Crop, mirror and apply the affine maps; a crop of another size is resized first."""
        if window is not None and resized:
            bilinear = self.interpolation == "bilinear"
            resize = geometry.resize_bilinear if bilinear else geometry.resize_nearest
            x, window = resize(x, window), None
        return geometry.crop_flip_affine(x, affine, window, flip, vflip, self.interpolation)


def ramp(start: float, end: float, steps: int) -> Callable[[int], float]:
    """Return a function of the step that rises or falls linearly from `start` to `end`.

    Args:
        start: strength at step 0, from 0 to 1.
        end: strength from step `steps` on, from 0 to 1.
        steps: number of optimizer steps.

    Raises:
        ValueError: a strength is outside [0, 1], or steps is not positive.

    >>> [ramp(0.0, 1.0, steps=10)(step) for step in (0, 5, 10, 99)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if not holds(lambda: 0 <= start <= 1 and 0 <= end <= 1 and 0 < steps < math.inf):
        raise ValueError(
            f"ramp needs strengths between 0 and 1 and a positive number of steps, got "
            f"start={start!r}, end={end!r}, steps={steps!r}"
        )
    return lambda step: start + (end - start) * min(step / steps, 1.0)


def _columns(value: Any) -> list[Tensor]:
    """Return the tensors of a parameter."""
    return [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Tensor)]


def _filled(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a parameter with the next ones of other tensors in place of its own."""
    if isinstance(value, Window | Affine):
        return type(value)(*(next(tensors) for _ in value))
    return next(tensors) if isinstance(value, Tensor) else value


def _slice(value: Any, rows: slice) -> Any:
    if isinstance(value, Window | Affine):
        return type(value)(*(column[rows] for column in value))
    return value[rows] if isinstance(value, Tensor) else value


def _check_range(name: str, pair: tuple[float, float] | None, limit: float) -> None:
    if pair is not None and not holds(
        lambda: len(pair) == 2 and 0 < pair[0] <= pair[1] <= limit and pair[1] < math.inf
    ):
        upper = "" if limit == math.inf else f" <= {limit:g}"
        raise ValueError(
            f"{name} must be (smallest, largest) with 0 < smallest <= largest{upper}, got {pair!r}"
        )


# Operations that clamp the pixels to [0, 1], or whose formula assumes colours in this range.
_NEED_UNIT_RANGE = ("brightness", "contrast", "saturation", "hue", "noise")
_COLOURS = (colour.brightness_, colour.contrast_, colour.saturation_, colour.hue_)
# The options that the strength multiplies, and the largest value of each.
_LIMITS = {
    "flip": 1, "vflip": 1, "rotate": 360, "translate": 1, "shear": 89, "crop_pad": math.inf,
    "brightness": math.inf, "contrast": math.inf, "saturation": math.inf, "hue": 0.5,
    "blur": math.inf, "noise": math.inf, "erase": 1,
}  # fmt: skip
