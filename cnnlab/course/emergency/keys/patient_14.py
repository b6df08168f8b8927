"""Patient 14: OpenCV's images are BGR, and PIL's, which the model gets later, are RGB."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.rng import fold_in


@contextmanager
def _app(admitted: ModuleType, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield photographs as PIL opens them."""
    images, labels = admitted.load_dashcam(fold_in(seed, 72) % 2**31)
    yield torch.tensor(images[..., ::-1].copy()), torch.tensor(labels)


TO_TENSOR = "torch.from_numpy(np.float32(image) / 255).permute(2, 0, 1)"

RECORD = Record(
    complaint="It's fine on the dashcam's validation set, but in our app it confuses the signs.",
    cause="colour channels swapped",
    repairs={TO_TENSOR: f"{TO_TENSOR}.flip(0)"},
    wrong={
        "normalised images": {
            "    model = nn.Sequential(\n": (
                "    model = nn.Sequential(\n        nn.InstanceNorm2d(3),\n"
            )
        },
        "more epochs": {"range(10)": "range(20)"},
        "without colour": {
            "    model = nn.Sequential(\n": ("    model = nn.Sequential(\n        Grey(),\n"),
            "@torch.no_grad()\ndef predict(": (
                "class Grey(nn.Module):\n"
                "    def forward(self, x):\n"
                "        return x.mean(1, keepdim=True).expand(-1, 3, -1, -1)\n\n\n"
                "@torch.no_grad()\ndef predict("
            ),
        },
        "the wrong axis": {TO_TENSOR: f"{TO_TENSOR}.flip(2)"},
    },
    right={
        "swapped in predict": {
            "permute(0, 3, 1, 2)": "permute(0, 3, 1, 2).flip(1)",
        },
        "swapped as an array": {"np.float32(image)": "np.float32(image)[..., ::-1]"},
    },
    world=_app,
    rules=(honest(0.08), accurate(), within_budget()),
    observe=classification,
    seeds=3,
    contract=(
        "train(seed) returns the model and the accuracy it reports. predict(model, images) returns "
        "the classes of images that PIL opened. Keep both, and the number of training steps."
    ),
)
