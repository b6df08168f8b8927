import itertools
import re

import pytest
import torch

from cnnlab import widgets


CLASSES = ["stop", "yield", "warning"]


def explorer(n=4, dtype=torch.float32):
    pixels = torch.arange(n * 3 * 16 * 16).remainder(256).view(n, 3, 16, 16)
    images = pixels.byte() if dtype == torch.uint8 else pixels / 255
    return widgets.mixing(images, torch.arange(n) % 3, CLASSES)


def label_fractions(page):
    """The fraction of each class in the soft label of the first image."""
    match = re.search(r"labels: ([\d.]+) (\w+)(?: \+ ([\d.]+) (\w+))?", page)
    return {match[2]: float(match[1])} | ({match[4]: float(match[3])} if match[4] else {})


def test_every_corner_of_the_settings_can_be_drawn():
    every = explorer()
    ends = {name: (values[0], values[-1]) for name, values in every.controls.items()}
    for corner in itertools.product(*ends.values()):
        assert "<img" in every.picture(**dict(zip(ends, corner, strict=True)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("n", [2, 3, 9])
def test_it_accepts_two_or_more_images_float_or_uint8(n, dtype):
    page = explorer(n, dtype).grid()
    assert page.count("<img") == page.count("alt=") == 4


def test_the_label_of_a_mixup_has_lambda_for_the_image_itself():
    page = explorer(3).picture(method="mixup", lam=0.7)
    assert label_fractions(page) == {"stop": 0.7, "warning": 0.3}


def test_a_partner_of_the_same_class_keeps_the_label_hard():
    images, labels = torch.rand(2, 3, 16, 16), torch.tensor([1, 1])
    page = widgets.mixing(images, labels, CLASSES).picture(method="mixup", lam=0.7)
    assert label_fractions(page) == {"yield": 1.0}


def test_a_box_in_the_corner_is_clipped_and_the_label_follows_the_clipped_box():
    every = explorer(3)
    row, column = (every.controls[f"centre_{name}"] for name in ("row", "column"))
    middle = every.picture(method="CutMix", lam=0.0, centre_row=row[2], centre_column=column[2])
    assert label_fractions(middle) == {"warning": 1.0}
    corner = every.picture(method="CutMix", lam=0.0, centre_row=row[0], centre_column=column[0])
    assert label_fractions(corner) == {"stop": 0.75, "warning": 0.25}
    assert "λ = 0.00, after clipping the box λ = 0.75" in corner


def test_it_starts_where_moving_the_box_changes_the_label():
    every = explorer(3)
    method, lam, row, column, image = every.live().children
    assert (method.value, lam.value) == ("CutMix", 0.5)
    assert (row.value, column.value) == (every.controls["centre_row"][2],) * 2
    assert label_fractions(image.value) == {"stop": 0.61, "warning": 0.39}  # 10 x 10 of 16 x 16
    row.value, column.value = row.options[0][1], column.options[0][1]
    assert label_fractions(image.value) == {"stop": 0.9, "warning": 0.1}  # 5 x 5 of 16 x 16


def test_lambda_of_one_keeps_the_image_and_lambda_of_zero_gives_its_partner():
    every = explorer(3)
    assert label_fractions(every.picture(method="mixup", lam=1.0)) == {"stop": 1.0}
    assert label_fractions(every.picture(method="CutMix", lam=1.0)) == {"stop": 1.0}
    assert label_fractions(every.picture(method="mixup", lam=0.0)) == {"warning": 1.0}


def test_a_single_image_has_no_partner():
    with pytest.raises(ValueError, match="at least two images, got 1"):
        explorer(1)
