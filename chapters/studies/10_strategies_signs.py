"""Compare transfer strategies for signs, with few and with many labels.

Everything is as in 10_strategies.py, except for the target: traffic signs,
which are unlike the printed letters that glyphnet was trained on. Each seed
draws its own signs, 5,000 of them for the test.

Nothing was chosen anew. The claims were written after a first study, with
five other seeds and 600 test signs, and before this one ran. The table was
computed a second time, with the same seeds, when the variants were renamed.
"""

from importlib import import_module

from common import run_study

from cnnlab.experiment import Claim, Declaration, fresh_data


strategies = import_module("10_strategies")

SEEDS = 6
METRIC = "test_acc"
DECLARATION = Declaration(
    "Which part of a pretrained network should learn if the task is different?",
    claims=[
        Claim(
            "full training, 10 signs per class",
            ">",
            "top layers, 10 signs per class",
            by=0.02,
        ),
        Claim(
            "feature extraction, 10 signs per class",
            "~",
            "from scratch, 10 signs per class",
            by=0.02,
        ),
        Claim(
            "full training, 10 signs per class",
            ">",
            "from scratch, 10 signs per class",
            by=0.02,
        ),
        Claim(
            "full training, 100 signs per class",
            ">",
            "fine-tuning, 100 signs per class",
            by=0.02,
        ),
        Claim(
            "full training, 100 signs per class",
            ">",
            "from scratch, 100 signs per class",
            by=0.02,
        ),
    ],
    unit=fresh_data(),
    fixed=strategies.DECLARATION.fixed,
    unequal={
        f"feature extraction, {n} signs per class": strategies.FEATURES_ONLY
        for n in (10, 100)
    },
)
VARIANTS = strategies.variants("signs")


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
