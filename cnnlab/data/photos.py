"""Photographs that come with scikit-learn and scikit-image, one of each thing."""

from importlib.util import find_spec
from pathlib import Path

import torch

from cnnlab.data.decoding import check_size, decode
from cnnlab.data.images import DataBundle, ImageSet
from cnnlab.data.scenes import package_folder


SKLEARN = ("china.jpg", "flower.jpg")
SKIMAGE = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
    "coffee.png", "coins.png", "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg",
    "ihc.png", "microaneurysms.png", "moon.png", "motorcycle_left.png", "motorcycle_right.png",
    "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip


def load(*, size: int = 224, seed: int = 0) -> DataBundle:
    """Load 23 photographs, each a class of its own: real images that need no download.

    They are meant for looking: galleries of augmentations, the predictions of a network with
    ImageNet's weights, what wrong preprocessing does to them, saliency maps. There is nothing to
    learn from one image per class, so all of them are in the training set, in alphabetical order.
    The validation set is empty, and there is no test set. `data.classes` has the names, so
    `data.train.images[data.classes.index("chelsea")]` is the cat.

    The first two are scikit-learn's, the others scikit-image's. Neither package is imported. Their
    documentation states these sources and licences:

    | name | what it shows | source and licence |
    |---|---|---|
    | `china` | a Chinese palace | danielbuechele on Flickr, CC BY 2.0 |
    | `flower` | an orange dahlia | vultilion on Flickr, CC BY 2.0 |
    | `astronaut` | Eileen Collins | NASA, public domain |
    | `brick` | a brick wall, grey | CC0Textures, CC0 |
    | `camera` | a man with a camera on a tripod, grey | Lav Varshney, CC0 |
    | `cell` | a cell in a hologram, grey | Müller et al. 2018, CC0 |
    | `chelsea` | a cat | Stefan van der Walt, CC0 |
    | `clock_motion` | a clock, blurred by motion, grey | Stefan van der Walt, public domain |
    | `coffee` | a cup of espresso | Rachel Michetti, CC0 |
    | `coins` | Greek coins from Pompeii, grey | Brooklyn Museum, no known restrictions |
    | `grass` | grass, grey | linolafett on DeviantArt, CC0 |
    | `gravel` | gravel, grey | CC0Textures, CC0 |
    | `horse` | a horse, a black silhouette: the only drawing | Andreas Preuss, CC0 |
    | `hubble_deep_field` | galaxies | NASA, public domain |
    | `ihc` | stained tissue of a colon | CMMI, no known restrictions |
    | `microaneurysms` | a detail of a retina, grey, 102 pixels wide | Andreas Maier, CC0 |
    | `moon` | the surface of the moon, grey | not stated |
    | `motorcycle_left` | a motorcycle, seen by a left eye | Scharstein et al. 2014, not stated |
    | `motorcycle_right` | the same, seen by the right eye | Scharstein et al. 2014, not stated |
    | `page` | a printed page, badly lit, grey | not stated |
    | `retina` | the retina of a healthy eye | Mikael Häggström, CC0 |
    | `rocket` | a Falcon 9 at its launch | SpaceX, public domain |
    | `text` | handwritten letters, grey | Wikipedia, public domain |

    Args:
        size: resize the shorter side to this many pixels, and crop the centre to a square.
        seed: has no effect, because nothing is drawn.

    Raises:
        ImportError: scikit-image isn't installed.
        ValueError: the size is less than one pixel.
        TypeError: the size isn't a whole number.

    >>> load(size=64)
    photos: 23 classes, 3 x 64 x 64; train 23, valid 0
    """
    size = check_size(size)
    paths = sorted(_find_files(), key=lambda path: path.stem)
    images = torch.stack([decode(path, size) for path in paths])
    photos = ImageSet(images, range(len(paths)), [path.stem for path in paths])
    return DataBundle("photos", photos, photos.select([]))


def _find_files() -> list[Path]:
    if find_spec("skimage") is None:
        raise ImportError(
            'load("photos") needs scikit-image, which has most of the photographs: '
            "pip install scikit-image"
        )
    sklearn, skimage = (package_folder(name) for name in ("sklearn", "skimage"))
    return [
        *(sklearn / "datasets" / "images" / name for name in SKLEARN),
        *(skimage / "data" / name for name in SKIMAGE),
    ]
