"""Patient 24: the head sees activations that were detached for the plots, so only it learns."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import withheld_digits


FEATURES = "features = self.activations[-1].amax(dim=(2, 3))"
APPEND = "            self.activations.append(x.detach())\n"

RECORD = Record(
    complaint="The loss stays near 2.3. Few channels are dead, so the layers should be fine.",
    cause="gradient cut by detach",
    repairs={FEATURES: "features = x.amax(dim=(2, 3))"},
    wrong={
        "wider layers": {"channels=(4, 8, 8)": "channels=(8, 16, 16)"},
        "larger learning rate": {"lr=0.01": "lr=0.05"},
        "more epochs": {"epochs=20": "epochs=40"},
        "a mean instead of the maximum": {FEATURES: FEATURES.replace("amax", "mean")},
        "gradients asked for": {FEATURES: FEATURES.replace(".amax", ".requires_grad_().amax")},
    },
    right={
        "detached where it's shown": {
            "append(x.detach())": "append(x)",
            "in self.activations]": "in map(torch.detach, self.activations)]",
        },
        "a copy for the plots": {
            APPEND: "            self.activations.append(x.clone())\n",
        },
    },
    world=withheld_digits,
    rules=(accurate(0.08), honest(0.06), within_budget()),
    observe=classification,
)
