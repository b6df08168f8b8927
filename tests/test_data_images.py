"""Image sets, bundles, and `load`."""

import subprocess
import sys

import pytest
import torch

from cnnlab import plots
from cnnlab.data import DataBundle, ImageSet, load, loader, pocket


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("CNNLAB_PROFILE", raising=False)
        yield load("pocket", n_train=125, n_valid=24, n_test=24)


def test_mean_and_standard_deviation_are_those_of_the_training_pixels(bundle):
    pixels = bundle.train.images.double() / 255
    torch.testing.assert_close(bundle.mean.double(), pixels.mean(dim=(0, 2, 3)), rtol=1e-6, atol=0)
    std = pixels.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(bundle.std.double(), std, rtol=1e-6, atol=0)


def test_a_subset_has_its_own_mean(bundle):
    assert bundle.mean is bundle.mean
    small = bundle.subset(per_class=2)
    pixels = small.train.images.double() / 255
    torch.testing.assert_close(small.mean.double(), pixels.mean(dim=(0, 2, 3)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("per_class", [1, 5, 10])
def test_a_subset_has_equally_many_images_of_each_class_and_all_evaluation_images(
    bundle, per_class
):
    small = bundle.subset(per_class=per_class, seed=3)
    assert set(small.counts().values()) == {per_class}
    assert small.valid is bundle.valid
    assert small.test is bundle.test
    assert len(bundle.train) == 125


def test_a_larger_subset_contains_a_smaller_one_of_the_same_seed(bundle):
    def images(n, seed):
        return {
            image.numpy().tobytes() for image in bundle.subset(per_class=n, seed=seed).train.images
        }

    assert images(3, 0) < images(7, 0)
    assert images(3, 0) != images(3, 1)


@pytest.mark.parametrize("per_class", [0, 11])
def test_a_subset_larger_than_a_class_is_refused(bundle, per_class):
    with pytest.raises(ValueError, match="per_class must be between 1 and 10 for pocket"):
        bundle.subset(per_class=per_class)


def test_counts_work_for_every_split(bundle):
    assert sum(bundle.counts().values()) == 125
    assert bundle.counts("valid") == dict.fromkeys(pocket.CLASSES, 2)
    with pytest.raises(
        ValueError, match="pocket has no split 'val'; use one of 'train', 'valid', 'test'"
    ):
        bundle.counts("val")


def test_show_draws_the_requested_number_of_images_per_class(bundle):
    plot = bundle.show(per_class=2)
    (axis,) = plot.figure.axes
    assert len(axis.get_images()) == 24
    titles = [text.get_text() for text in axis.texts]
    assert titles == [name for name in bundle.classes for _ in range(2)]
    assert "24 training images of pocket" in plot.alt


def test_a_row_is_never_longer_than_a_class_and_never_too_long_to_recognise_anything(bundle):
    width = bundle.show(per_class=1000).figure.get_size_inches()[0]
    assert width <= plots.core.WIDTH
    (axis,) = bundle.show(per_class=1000).figure.axes
    assert len(axis.get_images()) == len(bundle.train)
    left, right, _, _ = axis.get_images()[0].get_extent()
    assert right - left > 0.3  # inches


def test_descriptions_are_one_line(bundle):
    assert repr(bundle) == "pocket: 12 classes, 3 x 32 x 32; train 125, valid 24, test 24"
    assert repr(bundle.train) == "ImageSet(125 images of 3 x 32 x 32, 12 classes)"
    assert "test" not in repr(DataBundle("mine", bundle.train, bundle.valid, None))
    one = bundle.train.select([0])
    assert repr(one) == "ImageSet(1 image of 3 x 32 x 32, 12 classes)"
    assert repr(loader(one, 8)) == "Loader(1 batch of 8, seed 0, epoch 0)"


def test_an_item_is_an_image_in_the_unit_interval_and_a_plain_label(bundle):
    image, label = bundle.train[3]
    assert torch.equal(image, bundle.train.images[3].float() / 255)
    assert type(label) is int
    assert label == bundle.train.labels[3]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), [0, 1], r"must be uint8.*\(x \* 255\)"),
        (torch.zeros(2, 4, dtype=torch.uint8), [0, 1], "must be uint8 of shape"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0], "got 2 images, 1 labels"),
        (
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
            [0, 2],
            "labels range from 0 to 2, but with 2 classes they must be 0 to 1",
        ),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [-1, 1], "labels range from -1 to 1"),
    ],
)
def test_images_and_labels_that_do_not_fit_together_are_an_error(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels, ["a", "b"])


def test_changing_a_selection_does_not_change_the_original(bundle):
    chosen = bundle.train.select([5, 5, 0])
    chosen.images.zero_()
    assert chosen.labels.tolist() == bundle.train.labels[[5, 5, 0]].tolist()
    assert bundle.train.images[5].any()


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("poket", {}, "no data set 'poket'. Did you mean 'pocket'. Use one of: pocket, glyphs"),
        (
            "pocket",
            {"rotatoin": 3},
            "pocket has no option 'rotatoin'. Did you mean 'rotation'. Use one of: n_train",
        ),
        ("digits", {"n_train": 3}, "digits has no option 'n_train'. Use one of: half, plain"),
        ("cifar10", {"size": 3}, "cifar10 has no option 'size'. It has no options"),
    ],
)
def test_an_unknown_name_or_option_gets_the_most_similar_one_as_a_suggestion(name, knobs, message):
    with pytest.raises(ValueError, match=message):
        load(name, **knobs)


def test_importing_the_data_package_imports_nothing_heavy():
    heavy = {"torchvision", "pandas", "sklearn", "matplotlib", "PIL", "scipy"}
    code = f"import cnnlab.data, sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
