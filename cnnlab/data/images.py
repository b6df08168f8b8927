"""Images with labels: one part of a data set, and the bundle of its three parts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cnnlab import rng
from cnnlab.data.image_files import Fault


if TYPE_CHECKING:
    from cnnlab.plots import Plot


class Part(Protocol):
    """What `ImageSet` and `FileSet` share, and all that a `DataBundle` asks of its parts."""

    labels: Tensor
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    def pixels(self, indices: Tensor) -> Tensor:
        """Return those images as uint8 (n, C, H, W)."""

    def select(self, indices: Any) -> "Part":
        """Return the part made of those images, in that order."""

    def resized(self, size: int) -> "Part":
        """Return the part with its images as squares of `size` pixels."""


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images and labels held in memory; `ds[i]` is a float image in [0, 1] and its label.

    Args:
        images: uint8, (N, C, H, W).
        labels: integers in 0 .. K-1, (N,).
        classes: the K names.
        clean_labels: the labels before noise was added, (N,); the labels themselves when left out.

    Raises:
        ValueError: the shapes, the types or the labels do not go together.

    >>> ds = ImageSet(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [0, 1, 0, 1], ["cat", "dog"])
    >>> len(ds), ds[1][0].shape, ds[1][1]
    (4, torch.Size([3, 8, 8]), 1)
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | Sequence[int],
        classes: Sequence[str],
        *,
        clean_labels: Tensor | None = None,
    ) -> None:
        self.images, self.classes = images, tuple(classes)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.clean_labels = self.labels if clean_labels is None else clean_labels
        self._check()

    def _check(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images must be uint8 of shape (N, C, H, W), got {self.images.dtype} of shape "
                f"{tuple(self.images.shape)}; from floats in [0, 1]: (x * 255).round().byte()"
            )
        if not len(self.images) == len(self.labels) == len(self.clean_labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")
        check_labels(self.labels, len(self.classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return unit(self.images[index]), int(self.labels[index])

    def __repr__(self) -> str:
        return f"ImageSet({_describe(self)})"

    def pixels(self, indices: Tensor) -> Tensor:
        """Return those images as uint8 (n, C, H, W)."""
        return self.images.index_select(0, indices)  # images[indices] takes twenty times as long

    def select(self, indices: Tensor | Sequence[int]) -> "ImageSet":
        """Return the set made of the images at `indices`, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return ImageSet(
            self.images[chosen],
            self.labels[chosen],
            self.classes,
            clean_labels=self.clean_labels[chosen],
        )

    def resized(self, size: int) -> "Part":
        """Return the part with its images as squares of `size` pixels, resized when they are asked for."""
        return self if self.shape[1:] == (size, size) else ResizedSet(self, size)


class ResizedSet(Dataset[tuple[Tensor, int]]):
    """Images of another part, resized when they are asked for: a few thousand at 224 pixels would fill a laptop.

    Args:
        part: the images as they are.
        size: the short side is resized to it, and the middle cut out, in pixels.
    """

    def __init__(self, part: Part, size: int) -> None:
        self.part, self.size = part, size
        self.labels, self.classes = part.labels, part.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.part.shape[0], self.size, self.size

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return unit(self.pixels(torch.tensor([index]))[0]), int(self.labels[index])

    def __repr__(self) -> str:
        return f"ResizedSet({_describe(self)})"

    def pixels(self, indices: Tensor) -> Tensor:
        """Return those images as uint8 (n, C, H, W)."""
        from torchvision.transforms.v2 import functional

        larger = functional.resize(self.part.pixels(indices), [self.size], antialias=True)
        return functional.center_crop(larger, [self.size, self.size])

    def select(self, indices: Tensor | Sequence[int]) -> "ResizedSet":
        """Return the set made of the images at `indices`, in that order."""
        return ResizedSet(self.part.select(indices), self.size)

    def resized(self, size: int) -> Part:
        """Return the same images as squares of another size."""
        return self.part.resized(size)


@dataclass(repr=False)
class DataBundle:
    """A data set: its training, validation and test part, and what is known about them.

    `test` is None where an image folder has no test part. `mean` and `std` come from the training
    part alone: the other two stand for images nobody has seen. `left_out` names the files that
    `from_folder` could not use, each with its reason.

    >>> tiny = ImageSet(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [0, 1, 0, 1], ["cat", "dog"])
    >>> bundle = DataBundle("pets", tiny, tiny, None)
    >>> bundle
    pets: 2 classes, 3 x 8 x 8; train 4, valid 4
    >>> bundle.counts()
    {'cat': 2, 'dog': 2}
    """

    name: str
    train: Part
    valid: Part
    test: Part | None = None
    left_out: tuple[Fault, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes; label k stands for `classes[k]`."""
        return self.train.classes

    @property
    def mean(self) -> Tensor:
        """Mean of each channel over the training part, (C,), pixels in [0, 1]."""
        return self._moments[0]

    @property
    def std(self) -> Tensor:
        """Standard deviation of each channel over the training part, (C,), pixels in [0, 1]."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation from the histogram of the 256 levels: exact, in little memory."""
        share = sum(
            _histogram(self.train, part) for part in torch.arange(len(self.train)).split(512)
        )
        assert isinstance(share, Tensor)
        share = share / share.sum(dim=1, keepdim=True)  # (C, 256)
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean = share @ levels
        variance = (share * (levels - mean[:, None]) ** 2).sum(dim=1)
        return mean.float(), variance.sqrt().float()

    def counts(self, part: str = "train") -> dict[str, int]:
        """Return the number of images of each class in one part.

        Args:
            part: "train", "valid" or "test".

        Raises:
            ValueError: there is no such part.
        """
        chosen = self._parts().get(part)
        if chosen is None:
            raise ValueError(
                f"no part {part!r} in {self.name}; there is {', '.join(self._parts())}"
            )
        found = torch.bincount(chosen.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    def show(self, per_class: int = 4) -> "Plot":
        """Draw the first `per_class` training images of each class, with their class names."""
        from cnnlab import plots

        chosen = torch.cat([_where(self.train, k)[:per_class] for k in range(len(self.classes))])
        titles = [self.classes[k] for k in self.train.labels[chosen].tolist()]
        columns = per_class * max(1, 8 // per_class)
        alt = f"{len(chosen)} training images of {self.name}, up to {per_class} of each class"
        return plots.image_grid(self.train.pixels(chosen), titles, columns=columns, alt=alt)

    def subset(self, *, per_class: int, seed: int = 0) -> "DataBundle":
        """Return the bundle with only `per_class` training images of each class.

        Validation and test stay whole. With one seed, the smaller subset lies inside the larger.

        Args:
            per_class: images of each class to keep.
            seed: chooses which.

        Raises:
            ValueError: a class has fewer.
        """
        short = {name: n for name, n in self.counts().items() if n < per_class}
        if short or per_class < 1:
            least = min(self.counts().values())
            raise ValueError(
                f"per_class={per_class} does not fit {self.name}: use 1 to {least}. "
                f"Too few images in {short}"
            )
        chosen = [
            _draw(_where(self.train, k), per_class, seed, k) for k in range(len(self.classes))
        ]
        return replace(self, train=self.train.select(torch.cat(chosen).sort().values))

    def transform(self, model: Any) -> "DataBundle":
        """Return the bundle with images of the size that a pretrained model has learnt on.

        The other half of what a pretrained network wants, its normalisation, is the first layer of the model.
        A model of the course, which takes any size, gets the images as they are.

        Args:
            model: from `pretrained`; its `size` is the side of the square, in pixels.

        >>> data = DataBundle("one", *[ImageSet(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [0], ["cat"])] * 2)
        >>> from cnnlab.models import pretrained
        >>> data.transform(pretrained("resnet18", 3, weights=None)).train.shape
        (3, 224, 224)
        """
        size = getattr(model, "size", None)
        if size is None:
            return self
        resized: dict[str, Any] = {n: part.resized(size) for n, part in self._parts().items()}
        return replace(self, **resized)

    def _parts(self) -> dict[str, Part]:
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(part):,}" for name, part in self._parts().items())
        shape = " x ".join(map(str, self.train.shape))
        less = f"; {len(self.left_out)} files left out" if self.left_out else ""
        return f"{self.name}: {len(self.classes)} classes, {shape}; {sizes}{less}"


def unit(pixels: Tensor) -> Tensor:
    """Turn uint8 levels 0 .. 255 into float32 in [0, 1]; the same for one image and for a batch."""
    return pixels.to(torch.float32).div_(255)


def check_labels(labels: Tensor, n_classes: int) -> None:
    """Raise ValueError unless every label lies in 0 .. n_classes - 1."""
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < n_classes):
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but {n_classes} classes "
            f"are numbered 0 to {n_classes - 1}"
        )


def _describe(part: Part) -> str:
    shape = " x ".join(map(str, part.shape))
    return f"{len(part):,} images of {shape}, {len(part.classes)} classes"


def _histogram(part: Part, indices: Tensor) -> Tensor:
    """How often each level occurs in each channel, float64 (C, 256)."""
    channels = part.pixels(indices).transpose(0, 1).flatten(1)  # (n, C, H, W) -> (C, n*H*W)
    return torch.stack([torch.bincount(c, minlength=256) for c in channels]).double()


def _where(part: Part, label: int) -> Tensor:
    return (part.labels == label).nonzero().flatten()


def _draw(indices: Tensor, n: int, seed: int, label: int) -> Tensor:
    order = torch.randperm(len(indices), generator=rng.generator(seed, label))
    return indices[order[:n]]
