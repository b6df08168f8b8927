"""Labelled images: one split of a data set, and the bundle of its three splits."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import index as as_index
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cnnlab import rng
from cnnlab.data.arrays import as_indices, as_labels, as_pixels
from cnnlab.data.image_files import UnusableFile


if TYPE_CHECKING:
    from cnnlab.plots import Plot

MAX_COLUMNS = 20  # of `DataBundle.show`; in more of them, images would be too small to recognise


class Split(Protocol):
    """The interface of `ImageSet`, `FileSet` and `ResizedSet`, which a `DataBundle` works with."""

    labels: Tensor
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    def pixels(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` as uint8 (n, C, H, W)."""

    def select(self, indices: Any) -> "Split":
        """Return the images at `indices`, in that order, as a set of their own."""

    def resized(self, size: int) -> "Split":
        """Return the same images as squares of `size` pixels."""


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images and labels in memory; `ds[i]` is a float image in [0, 1] and its label.

    Args:
        images: uint8, (N, C, H, W), as a tensor or a numpy array. Grey images may be (N, H, W), and
            the channels may be last, (N, H, W, C), where there is no doubt about it.
        labels: integers in 0 .. K-1, (N,).
        classes: the K names.
        clean_labels: the labels before noise was added, (N,); by default the labels themselves.

    Raises:
        ValueError: the images, labels and classes have the wrong type or don't fit together.
        TypeError: the labels are None, or the data set that has the labels.

    >>> ds = ImageSet(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [0, 1, 0, 1], ["cat", "dog"])
    >>> len(ds), ds[1][0].shape, ds[1][1]
    (4, torch.Size([3, 8, 8]), 1)
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        classes: Sequence[str],
        *,
        clean_labels: Any = None,
    ) -> None:
        self.images, self.classes = as_pixels(images), tuple(classes)
        self.labels = as_labels(labels, whole_floats=True)
        self.clean_labels = self.labels if clean_labels is None else as_labels(clean_labels)
        self._check()

    def _check(self) -> None:
        if not len(self.images) == len(self.labels) == len(self.clean_labels):
            raise ValueError(
                f"got {len(self.images)} images, {len(self.labels)} labels and "
                f"{len(self.clean_labels)} clean labels; give one label per image"
            )
        check_labels(self.labels, self.classes)

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
        """Return the images at `indices` as uint8 (n, C, H, W)."""
        return self.images.index_select(0, indices)  # 20 times as fast as images[indices]

    def select(self, indices: Tensor | Sequence[int]) -> "ImageSet":
        """Return the images at `indices`, in that order, or of a mask, as a set of their own.

        >>> ds = ImageSet(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), [0, 1, 1], ["cat", "dog"])
        >>> len(ds.select([2, 0])), len(ds.select(ds.labels == 1))
        (2, 2)
        """
        chosen = as_indices(indices, len(self))
        return ImageSet(
            self.images[chosen],
            self.labels[chosen],
            self.classes,
            clean_labels=self.clean_labels[chosen],
        )

    def resized(self, size: int) -> "Split":
        """Return the same images as squares of `size` pixels, resized when they're needed."""
        return self if self.shape[1:] == (size, size) else ResizedSet(self, size)


class ResizedSet(Dataset[tuple[Tensor, int]]):
    """Another set, whose images are resized when they're needed.

    A few thousand images of 224 pixels would fill the memory of a laptop.

    Args:
        source: the images in their own size.
        size: resize the shorter side to this many pixels, and crop the centre to a square.
    """

    def __init__(self, source: Split, size: int) -> None:
        self.source, self.size = source, size
        self.labels, self.classes = source.labels, source.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.source.shape[0], self.size, self.size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return unit(self.pixels(torch.tensor([index]))[0]), int(self.labels[index])

    def __repr__(self) -> str:
        return f"ResizedSet({_describe(self)})"

    def pixels(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` as uint8 (n, C, H, W)."""
        from torchvision.transforms.v2 import functional

        resized = functional.resize(self.source.pixels(indices), [self.size], antialias=True)
        return functional.center_crop(resized, [self.size, self.size])

    def select(self, indices: Tensor | Sequence[int]) -> "ResizedSet":
        """Return the images at `indices`, in that order, or of a mask, as a set of their own."""
        return ResizedSet(self.source.select(indices), self.size)

    def resized(self, size: int) -> Split:
        """Return the original images as squares of another size."""
        return self.source.resized(size)


@dataclass(repr=False)
class DataBundle:
    """A data set: its training, validation and test set, with class names and statistics.

    `test` is None if an image folder has no test set. `mean` and `std` are computed on the training
    set alone, because the other two stand for images that nobody has seen yet. `left_out` lists the
    files and folders that `from_folder` couldn't use or passed over, each with the reason.

    >>> tiny = ImageSet(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [0, 1, 0, 1], ["cat", "dog"])
    >>> bundle = DataBundle("pets", tiny, tiny, None)
    >>> bundle
    pets: 2 classes, 3 x 8 x 8; train 4, valid 4
    >>> bundle.counts()
    {'cat': 2, 'dog': 2}
    """

    name: str
    train: Split
    valid: Split
    test: Split | None = None
    left_out: tuple[UnusableFile, ...] = ()
    _moments: tuple[Split, Tensor, Tensor] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name, split in self._splits().items():
            if tuple(split.classes) != tuple(self.train.classes):
                raise ValueError(
                    f"the classes of the {name} set are {split.classes}, but those of the training "
                    f"set are {self.train.classes}, so the same label would mean different things. "
                    "Give every split the same list of classes"
                )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes; label k stands for `classes[k]`."""
        return self.train.classes

    @property
    def mean(self) -> Tensor:
        """Mean of each channel over the training set, (C,), for pixels in [0, 1]."""
        return self._mean_and_std()[0]

    @property
    def std(self) -> Tensor:
        """Standard deviation of each channel over the training set, (C,), for pixels in [0, 1]."""
        return self._mean_and_std()[1]

    def _mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation from the histogram of the 256 levels, exact at low memory."""
        if self._moments is not None and self._moments[0] is self.train:
            return self._moments[1:]
        chunks = torch.arange(len(self.train)).split(512)
        counts = sum(_histogram(self.train, indices) for indices in chunks)
        assert isinstance(counts, Tensor)
        fractions = counts / counts.sum(dim=1, keepdim=True)  # (C, 256)
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean = fractions @ levels
        variance = (fractions * (levels - mean[:, None]) ** 2).sum(dim=1)
        self._moments = self.train, mean.float(), variance.sqrt().float()
        return self._moments[1:]

    def counts(self, part: str = "train") -> dict[str, int]:
        """Return the number of images per class in one split.

        Args:
            part: "train", "valid" or "test".

        Raises:
            ValueError: there is no such split.
        """
        split = self._splits().get(part)
        if split is None:
            names = ", ".join(map(repr, self._splits()))
            raise ValueError(f"{self.name} has no split {part!r}; use one of {names}")
        counts = torch.bincount(split.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    def show(self, per_class: int = 4) -> "Plot":
        """Draw the first `per_class` training images of each class, with its name as the title.

        Raises:
            ValueError: that would be no image, or more than a figure can hold.
            TypeError: `per_class` isn't a whole number.
        """
        from cnnlab import plots

        if _whole("per_class", per_class) < 1:
            raise ValueError(f"per_class must be 1 or more, got {per_class}")
        chosen = torch.cat([_indices(self.train, k)[:per_class] for k in range(len(self.classes))])
        limit = plots.pictures.MAX_IMAGES
        if len(chosen) > limit:
            raise ValueError(
                f"per_class={per_class} would draw {len(chosen):,} images, and a figure holds "
                f"{limit}. Use per_class={max(1, limit // len(self.classes))} or less"
            )
        titles = [self.classes[k] for k in self.train.labels[chosen].tolist()]
        per_row = min(per_class, int(torch.bincount(self.train.labels).max()))
        columns = min(per_row * max(1, 8 // per_row), MAX_COLUMNS)
        n = f"{len(chosen)} training image{'s' * (len(chosen) != 1)}"
        alt = f"{n} of {self.name}, up to {per_class} of each class"
        message = f"The first training images of each class ({self.name})."
        return plots.image_grid(
            self.train.pixels(chosen), titles, columns=columns, alt=alt, message=message
        )

    def subset(self, *, per_class: int, seed: int = 0) -> "DataBundle":
        """Return the bundle with only `per_class` training images of each class.

        The validation and test sets stay complete. With the same seed, a larger subset contains all
        images of a smaller one.

        Args:
            per_class: images of each class to keep.
            seed: determines which images are kept.

        Raises:
            ValueError: a class has fewer images, or `per_class` is less than 1.
            TypeError: `per_class` isn't a whole number.
        """
        per_class = _whole("per_class", per_class)
        too_small = {name: n for name, n in self.counts().items() if n < per_class}
        if too_small or per_class < 1:
            largest = min(self.counts().values())
            hint = f"; these classes have fewer images: {too_small}" if too_small else ""
            raise ValueError(
                f"per_class must be between 1 and {largest} for {self.name}, got {per_class}{hint}"
            )
        chosen = [
            _draw(_indices(self.train, k), per_class, seed, k) for k in range(len(self.classes))
        ]
        return replace(self, train=self.train.select(torch.cat(chosen).sort().values))

    def transform(self, model: Any) -> "DataBundle":
        """Return the bundle with images of the size that a pretrained model was trained on.

        The normalisation that such a model needs is its first layer. If the images have the right
        size already, or `model.size` is None, as in a new `small_resnet`, which accepts images of
        any size, the bundle is returned as it is.

        Args:
            model: from `pretrained`; its `size` is the side of the square, in pixels.

        Raises:
            TypeError: this is no model.

        >>> tiny = ImageSet(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [0], ["cat"])
        >>> from cnnlab.models import pretrained
        >>> DataBundle("one", tiny, tiny).transform(pretrained("glyphnet", 3)).train.shape
        (3, 32, 32)
        """
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"transform takes a model, got {type(model).__name__}; use "
                "cnnlab.models.pretrained(name, num_classes) to make one"
            )
        for wrapper in ("module", "_orig_mod"):  # of several devices, of torch.compile
            model = getattr(model, wrapper, model)
        size = getattr(model, "size", None)
        if not isinstance(size, int):
            return self
        splits = self._splits()
        resized: dict[str, Any] = {name: split.resized(size) for name, split in splits.items()}
        return self if resized == splits else replace(self, **resized)

    def _splits(self) -> dict[str, Split]:
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(split):,}" for name, split in self._splits().items())
        shape = " x ".join(map(str, self.train.shape))
        n = len(self.left_out)
        left_out = f"; {n} file{'s' * (n != 1)} left out" if n else ""
        return f"{self.name}: {len(self.classes)} classes, {shape}; {sizes}{left_out}"


def unit(pixels: Tensor) -> Tensor:
    """Convert uint8 pixels to float32 in the unit interval; for one image or a batch."""
    return pixels.to(torch.float32).div_(255)


def check_labels(labels: Tensor, classes: Sequence[str]) -> None:
    """Raise ValueError unless the classes differ, and every label is in 0 .. n_classes - 1."""
    n_classes = len(classes)
    if len(set(classes)) < n_classes:
        twice = next(name for i, name in enumerate(classes) if name in classes[:i])
        raise ValueError(f"the class {twice!r} is listed twice; give every class a name of its own")
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < n_classes):
        raise ValueError(
            f"labels range from {int(labels.min())} to {int(labels.max())}, but with {n_classes} "
            f"classes they must be 0 to {n_classes - 1}"
        )


def _whole(name: str, value: Any) -> int:
    """Return a count as an int; raise TypeError if it isn't a whole number."""
    try:
        return as_index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None


def _describe(split: Split) -> str:
    shape = " x ".join(map(str, split.shape))
    images = f"{len(split):,} image{'s' * (len(split) != 1)}"
    return f"{images} of {shape}, {len(split.classes)} classes"


def _histogram(split: Split, indices: Tensor) -> Tensor:
    """Count how often each level occurs in each channel, float64 (C, 256)."""
    channels = split.pixels(indices).transpose(0, 1).flatten(1)  # (n, C, H, W) -> (C, n*H*W)
    return torch.stack([torch.bincount(c, minlength=256) for c in channels]).double()


def _indices(split: Split, label: int) -> Tensor:
    """Return the indices of the images of one class."""
    return (split.labels == label).nonzero().flatten()


def _draw(indices: Tensor, n: int, seed: int, label: int) -> Tensor:
    """Draw n of the indices at random, without replacement."""
    order = torch.randperm(len(indices), generator=rng.generator(seed, label))
    return indices[order[:n]]
