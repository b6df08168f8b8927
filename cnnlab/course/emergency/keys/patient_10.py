"""Patient 10: pixels are normalised for VGG's Caffe weights, but this network takes 0 to 1."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import drawn


COMPOSE = "transforms.Compose([transforms.Resize(32), transforms.Normalize(MEAN, STD)])"

CONSTANTS = "[0.482, 0.459, 0.408], [1 / 255, 1 / 255, 1 / 255]"

RECORD = Record(
    complaint="I copied the preprocessing from a famous network, and mine is worse than promised.",
    cause="wrong normalisation",
    repairs={COMPOSE: "transforms.Resize(32)"},
    wrong={
        "more photographs": {"flatten()[:10]": "flatten()[:20]"},
        "constants of another network": {CONSTANTS: "[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]"},
        "no unit length": {
            "nn.functional.normalize(self.backbone(transform(images)))": (
                "self.backbone(transform(images))"
            )
        },
    },
    right={
        "neutral constants": {CONSTANTS: "[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]"},
        # The scale is what hurts; a shift by MEAN alone makes no measurable difference here.
        "no scaling": {"[1 / 255, 1 / 255, 1 / 255]": "[1.0, 1.0, 1.0]"},
        "the network's own, outside of it": {
            CONSTANTS: "[0.45] * 3, [0.25] * 3",
            "        self.backbone.head": (
                "        self.backbone.normalize = nn.Identity()\n        self.backbone.head"
            ),
        },
    },
    world=drawn("load_signs", 720),
    rules=(accurate(0.015), honest(0.06), within_budget()),
    observe=classification,
    seeds=6,
    contract=(
        "train(seed) returns the model and the accuracy it reports. predict(model, images) returns "
        "the classes of new images. Keep both, and the ten photographs per class."
    ),
)
