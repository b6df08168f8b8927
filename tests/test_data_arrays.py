"""What people have at hand is converted where nothing is lost, and refused in a sentence else."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import (
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from cnnlab import Trainer, data
from cnnlab.data import DataBundle, FileSet, ImageSet
from cnnlab.errors import DataError


LABELS = [0, 2, 1, 1, 0, 2, 2, 2]
CLASSES = ["ant", "bee", "cat"]


def images(n=8, size=6):
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, 3, size, size + 1), generator=generator, dtype=torch.uint8)


def image_set():
    return ImageSet(images(), LABELS, CLASSES)


FORMS = {
    "list": list,
    "tuple": tuple,
    "uint8": lambda x: np.array(x, np.uint8),
    "uint16": lambda x: np.array(x, np.uint16),
    "big-endian": lambda x: np.array(x, ">i4"),
    "read-only": lambda x: np.frombuffer(np.array(x, np.int32).tobytes(), np.int32),
    "backwards": lambda x: np.array(x[::-1])[::-1],
    "int32 tensor": lambda x: torch.tensor(x, dtype=torch.int32),
    "column": lambda x: np.array(x)[:, None],
    "tensors": lambda x: [torch.tensor(v) for v in x],
    "series": lambda x: pd.Series(x, index=[5, 3, 7, 1, 0, 2, 6, 4]),
    "nullable": lambda x: pd.Series(x, dtype="Int64"),
    "categorical": lambda x: pd.Series(x, dtype="category"),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_every_form_mean_the_same(form):
    labels = FORMS[form](LABELS)
    assert torch.equal(data.class_weights(labels), data.class_weights(LABELS))
    assert torch.equal(data.logit_adjustment(labels), data.logit_adjustment(LABELS))
    ours, theirs = data.balanced_sampler(labels), data.balanced_sampler(LABELS)
    assert torch.equal(ours.weights, theirs.weights)
    assert torch.equal(ours.order(3), theirs.order(3))
    ds = ImageSet(images(), labels, CLASSES)
    assert (ds.labels.tolist(), ds.labels.dtype) == (LABELS, torch.int64)


BAD_LABELS = {
    "one-hot": (np.eye(3)[LABELS], r"shape \(8, 3\); if they are one-hot, use labels\.argmax\(1\)"),
    "one-hot integers": (torch.eye(3).long()[LABELS], "one-hot"),
    "floats": (torch.tensor(LABELS) + 0.7, r"integers, got 0\.7 in torch\.float32"),
    "nan": (np.array([0, 1, np.nan]), "integers, got nan"),
    "text": (["ant", "cat"], r"'ant', which is not a number\. To number the classes"),
    "series of text": (pd.Series(["ant", "cat"]), "'ant', which is not a number"),
    "a number": (3, "one class index per sample"),
    "none": (None, "NoneType"),
    "ragged": ([[0], [1, 2]], "different lengths"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_what_is_no_class_number_is_refused_in_a_sentence(kind):
    labels, message = BAD_LABELS[kind]
    for use in (
        data.class_weights,
        data.balanced_sampler,
        data.logit_adjustment,
        lambda x: ImageSet(images(), x, CLASSES),
        lambda x: FileSet(["a.png"], x, CLASSES),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            use(labels)


def test_whole_floats_are_labels_of_a_set_but_not_of_weights():
    ds = ImageSet(images(), [float(k) for k in LABELS], CLASSES)
    assert ds.labels.tolist() == LABELS
    with pytest.raises(ValueError, match="class indices must be integers, got 0 in"):
        data.class_weights(torch.tensor(LABELS, dtype=torch.float32))


@pytest.mark.parametrize("use", [data.class_weights, data.balanced_sampler, data.logit_adjustment])
def test_a_data_set_in_place_of_its_labels_is_refused(use):
    bundle = DataBundle("x", image_set(), image_set())
    for wrong, hint in (
        (image_set(), r"got ImageSet: pass its labels, such as x\.labels"),
        (bundle, r"got DataBundle: .*x\.train\.labels"),
        (data.loader(image_set(), 4), r"got Loader: .*x\.dataset\.labels"),
        (Subset(image_set(), [0]), r"got Subset"),
        (TensorDataset(torch.tensor(LABELS)), "TensorDataset"),
    ):
        with pytest.raises((TypeError, ValueError), match=hint):
            use(wrong)


def test_labels_that_skip_or_precede_the_classes_are_named():
    with pytest.raises(ValueError, match="integers from 0 on, got -100"):
        data.class_weights([0, 1, -100])
    with pytest.raises(ValueError, match="no sample of class 1"):
        data.class_weights([0, 10**12])  # and no memory is filled


# --- counts, noise --------------------------------------------------------------------------------


def test_counts_may_be_a_series_in_any_order():
    by_number = pd.Series(LABELS).value_counts() - 1  # the most frequent class comes first
    assert data.imbalance(image_set(), by_number).labels.bincount().tolist() == [1, 1, 3]
    by_name = pd.Series({"cat": 3, "ant": 1, "bee": 2})
    assert data.imbalance(image_set(), by_name).labels.bincount().tolist() == [1, 2, 3]
    numbers = np.array([1, 2, 0], np.uint8)
    assert data.imbalance(image_set(), numbers).labels.bincount().tolist() == [1, 2]


def test_fractions_and_other_objects_are_refused():
    with pytest.raises(ValueError, match="counts must be whole numbers"):
        data.imbalance(image_set(), [0.5, 1, 1])
    bundle = DataBundle("x", image_set(), image_set())
    for function in (lambda x: data.imbalance(x, [1, 1, 1]), lambda x: data.label_noise(x, 0.5)):
        with pytest.raises(TypeError, match=r"takes an ImageSet, got DataBundle: .*data\.train"):
            function(bundle)
        with pytest.raises(TypeError, match="takes an ImageSet, got Tensor"):
            function(torch.tensor(LABELS))


# --- ImageSet -------------------------------------------------------------------------------------


IMAGE_FORMS = {
    "tensor": lambda x: x,
    "numpy": lambda x: x.numpy(),
    "channels last": lambda x: x.permute(0, 2, 3, 1).numpy(),
    "channels last tensor": lambda x: x.permute(0, 2, 3, 1),
    "int64": lambda x: x.long(),
    "int32 numpy": lambda x: x.numpy().astype(np.int32),
    "list of arrays": lambda x: list(x.permute(0, 2, 3, 1).numpy()),
    "list of tensors": list,
}


@pytest.mark.parametrize("form", IMAGE_FORMS)
def test_images_of_every_form_are_the_same_set(form):
    ds = ImageSet(IMAGE_FORMS[form](images()), LABELS, CLASSES)
    assert torch.equal(ds.images, images())
    assert ds.images.dtype == torch.uint8


def test_grey_images_get_a_channel():
    grey = images()[:, 0]
    for form in (grey, grey.numpy()):
        assert torch.equal(ImageSet(form, LABELS, CLASSES).images, grey[:, None])


@pytest.mark.parametrize("shape", [(8, 3, 6, 3), (8, 1, 2, 2), (8, 3, 8, 8), (8, 64, 4, 4)])
def test_the_second_axis_stays_the_channels_where_it_can_be(shape):
    assert ImageSet(torch.zeros(shape, dtype=torch.uint8), LABELS, CLASSES).images.shape == shape


@pytest.mark.parametrize(
    "wrong",
    [
        images().float(), images().numpy() / 255, images() > 3, images().long() + 200,
        np.array(["a"] * 8), [images()[0].numpy(), images(1, 5)[0].numpy()], images()[0, 0], None,
    ],
)  # fmt: skip
def test_other_images_are_refused_with_what_is_allowed(wrong):
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \(N, C, H, W\)"):
        ImageSet(wrong, LABELS, CLASSES)


def test_a_class_listed_twice_is_refused():
    with pytest.raises(ValueError, match="the class 'cat' is listed twice"):
        ImageSet(images(), LABELS, ["cat", "dog", "cat"])


@pytest.mark.parametrize("kind", ["images", "resized", "files"])
def test_a_mask_selects_and_other_indices_are_refused(kind):
    ds = image_set() if kind == "images" else image_set().resized(4)
    if kind == "files":
        ds = FileSet([f"{i}.png" for i in range(8)], LABELS, CLASSES)
    for mask in (ds.labels == 2, (ds.labels == 2).numpy(), [k == 2 for k in LABELS]):
        assert ds.select(mask).labels.tolist() == [2, 2, 2, 2]
    assert ds.select(np.array([7, 0], np.uint8)).labels.tolist() == [2, 0]
    assert (
        ds.select(range(2, 4)).labels.tolist() == ds.select(slice(2, 4)).labels.tolist() == [1, 1]
    )
    assert len(ds.select([])) == 0
    with pytest.raises(ValueError, match=r"one boolean per sample, shape \(8,\)"):
        ds.select([True, False])
    with pytest.raises(TypeError, match="indices must be integers"):
        ds.select([0.5, 1.5])


# --- bundles --------------------------------------------------------------------------------------


def test_splits_whose_classes_are_numbered_apart_are_refused():
    other = ImageSet(images(), LABELS, ["bee", "ant", "cat"])
    with pytest.raises(ValueError, match="classes of the valid set are"):
        DataBundle("x", image_set(), other)
    with pytest.raises(ValueError, match="classes of the test set are"):
        DataBundle("x", image_set(), image_set(), other)


def test_the_mean_belongs_to_the_present_training_set():
    bundle = DataBundle("x", image_set(), image_set())
    before = bundle.mean
    bundle.train = ImageSet(255 - images(), LABELS, CLASSES)
    torch.testing.assert_close(bundle.mean, 1 - before)


@pytest.mark.parametrize("per_class", [0, -1, 1.5, None, "2"])
def test_a_count_of_images_must_be_a_positive_whole_number(per_class):
    bundle = DataBundle("x", image_set(), image_set())
    for use in (bundle.show, lambda n: bundle.subset(per_class=n)):
        with pytest.raises((TypeError, ValueError), match="per_class must be"):
            use(per_class)
    assert len(bundle.subset(per_class=np.int64(1)).train) == 3


def test_a_figure_with_thousands_of_images_is_refused():
    ds = ImageSet(torch.zeros(2001, 1, 2, 2, dtype=torch.uint8), [0, 1, 2] * 667, CLASSES)
    with pytest.raises(ValueError, match=r"would draw 1,500 images.*per_class=166 or less"):
        DataBundle("x", ds, ds).show(per_class=500)


def test_the_size_of_a_wrapped_model_is_found_and_no_model_is_refused():
    bundle = DataBundle("x", image_set(), image_set())
    model = nn.Sequential(nn.Flatten())
    model.size = 9
    assert bundle.transform(nn.DataParallel(model)).train.shape == (3, 9, 9)
    assert bundle.transform(nn.Flatten()) is bundle
    for wrong in ("resnet18", images(), None):
        with pytest.raises(TypeError, match="transform takes a model, got"):
            bundle.transform(wrong)


# --- loaders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["list", "uint8", "series", "int32 tensor"])
@pytest.mark.parametrize("form", ["tensor", "numpy", "channels last"])
def test_a_loader_takes_a_pair_of_arrays(form, labels):
    pair = (IMAGE_FORMS[form](images()), FORMS[labels](LABELS))
    for source in (pair, list(pair)):
        batches = data.loader(source, 3, shuffle=True, seed=4)
        ours = data.loader(image_set(), 3, shuffle=True, seed=4)
        for (x, y), (expected, targets) in zip(batches, ours, strict=True):
            assert torch.equal(x, expected)
            assert torch.equal(y, targets)
            assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        image, label = batches.dataset[1]
        assert torch.equal(image, image_set()[1][0])
        assert label == 2


def test_float_arrays_regression_and_masks_keep_their_meaning():
    pixels = images().permute(0, 2, 3, 1).numpy() / 255
    targets = np.linspace(0, 1, 8)
    ((x, y),) = data.loader((pixels, targets), 8)
    torch.testing.assert_close(x, images().float() / 255)
    assert (x.dtype, y.dtype, y.shape) == (torch.float32, torch.float32, (8,))
    ((x, y),) = data.loader((torch.rand(8, 5).double(), np.zeros((8, 4, 4), np.int64)), 8)
    assert (x.dtype, y.shape) == (torch.float64, (8, 4, 4))
    ((x,),) = data.loader((images(),), 8)
    assert x.max() <= 1
    ((_, _, z),) = data.loader((images(), torch.tensor(LABELS), np.arange(8.0)), 8)
    assert z.dtype == torch.float32
    ((x, _),) = data.loader((images()[:, 0].numpy(), LABELS), 8)
    assert x.shape == (8, 1, 6, 7)


def test_a_model_trains_on_a_pair_of_numpy_arrays():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    trainer = Trainer(
        model, torch.optim.SGD(model.parameters(), lr=0.1), device="cpu", progress=False
    )
    arrays = images().permute(0, 2, 3, 1).numpy(), np.array(LABELS, np.uint8)
    trainer.fit(data.loader(arrays, 4, shuffle=True), epochs=1)
    assert trainer.step == 2


def test_lists_of_samples_and_of_images_are_read_item_by_item():
    samples = [image_set()[i] for i in range(8)]
    for source in (samples, tuple(samples), samples[:2]):
        (x, y), *_ = data.loader(source, 8)
        assert torch.equal(x, torch.stack([image for image, _ in source]))
        assert y.tolist() == LABELS[: len(source)]
    (x,) = data.loader([image for image, _ in samples], 8)
    assert x.shape == (8, 3, 6, 7)
    (x,) = data.loader([samples[0][0], samples[1][0]], 2)
    assert x.shape == (2, 3, 6, 7)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((images(), LABELS[:5]), r"different lengths, \[8, 5\]"),
        ((images()[0], 3), r"different lengths.*\[\(image, label\)\]"),
        ((images(), ["ant"] * 8), "'ant', which is not a number"),
        (None, "no test set: cnnlab.from_folder"),
        (DataBundle("x", image_set(), image_set()), r"use data\.train"),
        ({"images": images()}, "got a dict"),
        (data.loader(image_set(), 4), "Loader has no length or no index"),
        ("images/", "got a str"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_batches_can_be_made_of_is_named(source, message):
    with pytest.raises((TypeError, ValueError), match=message):
        data.loader(source, 4)


@pytest.mark.parametrize("batch_size", [None, 2.5, "4", 4.0])
def test_a_batch_size_must_be_a_whole_number(batch_size):
    with pytest.raises(TypeError, match="batch_size must be a whole number"):
        data.loader(image_set(), batch_size)
    assert len(data.loader(image_set(), np.int64(4))) == 2


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (data.balanced_sampler(LABELS[:5]), "5 weights, but the data set has 8 samples"),
        (data.balanced_sampler([*LABELS, 0]), "9 weights, but the data set has 8 samples"),
        (WeightedRandomSampler([1.0] * 5, 8), "5 weights, but"),
        (WeightedRandomSampler(torch.ones(9), 8), "9 weights, but"),
        (SubsetRandomSampler([0, 8]), "draws index 8"),
        (SubsetRandomSampler(np.array([0, 9])), "draws index 9"),
        (RandomSampler(range(5)), "made for 5 samples, but the data set has 8"),
        (SequentialSampler(range(9)), "made for 9 samples"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_sampler_of_another_data_set_is_refused_at_once(sampler, message):
    with pytest.raises(DataError, match=message):
        data.loader(image_set(), 4, sampler=sampler)
    with pytest.raises(DataError, match=message):
        data.loader(Subset(image_set(), range(8)), 4, sampler=sampler)


def test_samplers_of_the_data_set_are_accepted():
    for sampler in (
        data.balanced_sampler(LABELS),
        WeightedRandomSampler([1.0] * 8, 20),
        SubsetRandomSampler([0, 7]),
        RandomSampler(range(8), replacement=True, num_samples=30),
        [1, 2],
    ):
        assert len(list(data.loader(image_set(), 2, sampler=sampler))) > 0


def test_a_mask_in_a_subset_means_what_torch_would_not():
    mask = torch.tensor(LABELS) == 2
    ((_, labels),) = data.loader(Subset(TensorDataset(images(), torch.tensor(LABELS)), [1, 5]), 4)
    assert labels.tolist() == [2, 2]
    with pytest.raises(DataError, match=r"Subset.*booleans of a mask.*mask\.nonzero"):
        data.loader(Subset(TensorDataset(images(), torch.tensor(LABELS)), mask), 4)
