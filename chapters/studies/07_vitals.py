"""Find out which checks notice which fault, and whether they alarm a healthy run.

What varies is the fault that `cnnlab.clinic` plants in a run. Everything else
is drawn anew for each seed: six classes of signs, their images, the learning
rate and the strength of the fault. Each run is examined in the order of
chapter 7, and the table holds its vital signs and whether anything was found
in its data, in the fresh network, with ten images, in the first steps, in the
curves, and in the evaluation. A network fails with ten images if the loss is
still above 0.1 after 60 steps of Adam with a learning rate of 0.01.

The thresholds are those of `cnnlab.diagnose`. They were chosen long before
this study, on runs with seeds below 100, and this study uses seeds from 1000
on. The claims were written before it ran.
"""

import warnings
from functools import partial
from math import inf

from common import run_study

import cnnlab
from cnnlab import clinic, diagnose
from cnnlab.diagnose.symptoms import judge
from cnnlab.errors import NonFiniteError
from cnnlab.experiment import Claim, Declaration, fresh_data


SEEDS = 30
METRIC = "noticed"
FIRST_SEED = 1000
HEALTHY = "healthy"
FRESH = ("first_loss", "log_classes", "silent_share", "sums_to_one")
STEPS = ("log10_update_ratio", "grad_norm_peak")
EVALUATION = (
    "valid_acc",
    "valid_acc_again",
    "worst_recall",
    "shared_share",
    "moved_statistics",
)
DECLARATION = Declaration(
    "Do the vital signs tell broken runs from healthy ones?",
    claims=[
        Claim("rate too high", ">", HEALTHY, 0.5, "log10_update_ratio"),
        Claim(HEALTHY, ">", "rate too low", 1.0, "log10_update_ratio"),
        Claim("dead ReLUs", ">", HEALTHY, 0.5, "silent_share"),
        Claim(HEALTHY, ">", "labels shuffled", 0.2, "label_signal"),
        Claim("not normalised", ">", HEALTHY, 1.0, "first_loss"),
        Claim("labels shuffled", "~", HEALTHY, 0.05, "ten_images_loss"),
    ],
    unit=fresh_data(),
    fixed="six easy classes of 960 signs, a small ResNet, ten epochs",
)


def loss_on_ten_images(case: clinic.Case) -> float:
    """Return the loss of the fresh network after 60 steps on ten images."""
    ten = tuple(tensor[:10] for tensor in case.batch)
    try:
        losses = diagnose.overfit_one_batch(
            case.fresh, ten, case.loss_fn, steps=60
        )
    except NonFiniteError:
        return inf
    return losses[-1]


def run(seed: int, *, fault: str) -> dict[str, float]:
    """Plant a fault; return the vital signs and what was found in them."""
    clinic_seed = FIRST_SEED + seed
    healthy = fault == HEALTHY
    case = (
        clinic.healthy(clinic_seed)
        if healthy
        else clinic.example(fault, clinic_seed)
    )
    vitals = case.vitals()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a loss that isn't finite
        ten_images_loss = loss_on_ten_images(case)

    def found(names: tuple[str, ...]) -> bool:
        return bool(judge({name: vitals[name] for name in names}))

    shuffled = cnnlab.loader(case.train, 32, shuffle=True)
    stages = {
        "data": bool(diagnose.check_data(shuffled))
        or found(("label_signal", "chance")),
        "fresh_network": found(FRESH),
        "ten_images": not ten_images_loss < 0.1,
        "first_steps": found(STEPS),
        "curves": bool(diagnose.diagnose(case.history)),
        "evaluation": found(EVALUATION),
    }
    stages["noticed"] = any(stages.values())
    numbers = {name: float(value) for name, value in stages.items()}
    return numbers | vitals | {"ten_images_loss": ten_images_loss}


VARIANTS = {
    name: partial(run, fault=name) for name in (HEALTHY, *clinic.NAMES)
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
