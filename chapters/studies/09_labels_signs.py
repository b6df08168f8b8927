"""Find out how many labels a pretrained network saves on another task.

Everything is as in 09_labels.py, except for the target: signs, whose shapes
glyphnet doesn't know, with ten and fifty labels per class. Each seed draws its
own signs, 5,000 of them for the test.

Nothing was chosen anew. The claims were written after a first study, with
five other seeds and 600 test signs, and before this one ran.
"""

from importlib import import_module

from common import run_study

from cnnlab.experiment import Claim, Declaration, fresh_data


labels = import_module("09_labels")

SEEDS = 5
METRIC = "test_acc"
DECLARATION = Declaration(
    "How many labels do frozen features save on signs?",
    claims=[
        Claim("signs, 10: logistic regression", ">", "signs, 10: scratch"),
        Claim("signs, 50: scratch", ">", "signs, 50: logistic regression"),
        Claim(
            "signs, 10: logistic regression",
            ">",
            "signs, 10: random features",
            by=0.05,
        ),
    ],
    unit=fresh_data(),
    fixed=labels.DECLARATION.fixed,
    unequal={
        f"signs, {n}: logistic regression": labels.LINEAR for n in (10, 50)
    },
)
VARIANTS = labels.variants("signs")


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
