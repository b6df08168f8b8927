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


def shares(page):
    """The two shares in the label of the first image."""
    found = re.search(r"labels: ([\d.]+) (\w+)(?: \+ ([\d.]+) (\w+))?", page)
    return {found[2]: float(found[1])} | ({found[4]: float(found[3])} if found[4] else {})


def test_every_corner_of_the_settings_can_be_drawn():
    every = explorer()
    ends = {name: (values[0], values[-1]) for name, values in every.controls.items()}
    for corner in itertools.product(*ends.values()):
        assert "<img" in every.picture(**dict(zip(ends, corner, strict=True)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("n", [2, 3, 9])
def test_it_takes_any_number_of_images_from_two_on_and_bytes_too(n, dtype):
    page = explorer(n, dtype).grid()
    assert page.count("<img") == page.count("alt=") == 4


def test_the_label_of_a_mixup_is_lambda():
    page = explorer(3).picture(method="mixup", lam=0.7)
    assert shares(page) == {"stop": 0.7, "warning": 0.3}


def test_a_partner_of_the_same_class_leaves_the_label_whole():
    images, labels = torch.rand(2, 3, 16, 16), torch.tensor([1, 1])
    page = widgets.mixing(images, labels, CLASSES).picture(method="mixup", lam=0.7)
    assert shares(page) == {"yield": 1.0}


def test_the_label_of_a_box_over_the_corner_is_that_of_the_clipped_box():
    every = explorer(3)
    row, column = (every.controls[f"centre_{name}"] for name in ("row", "column"))
    middle = every.picture(method="CutMix", lam=0.0, centre_row=row[2], centre_column=column[2])
    assert shares(middle) == {"warning": 1.0}
    corner = every.picture(method="CutMix", lam=0.0, centre_row=row[0], centre_column=column[0])
    assert shares(corner) == {"stop": 0.75, "warning": 0.25}
    assert "λ asked for 0.00, λ of the clipped box 0.75" in corner


def test_where_nothing_is_kept_or_taken_mixing_is_no_mixing():
    every = explorer(3)
    assert shares(every.picture(method="mixup", lam=1.0)) == {"stop": 1.0}
    assert shares(every.picture(method="CutMix", lam=1.0)) == {"stop": 1.0}
    assert shares(every.picture(method="mixup", lam=0.0)) == {"warning": 1.0}


def test_a_single_image_has_no_partner():
    with pytest.raises(ValueError, match="two images or more, got 1"):
        explorer(1)
