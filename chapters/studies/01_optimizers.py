"""Compare seven optimizers, each with a learning rate chosen for it.

What varies is the optimizer. Everything else is fixed: 1,500 signs, the
network, batches of 64, six epochs at a constant learning rate, momentum 0.9
where there is one, and PyTorch's defaults for everything else. Each seed
draws its own signs. The results are accuracy and loss at the end, on 5,000
validation signs.

Every optimizer had the same tuning: `choose_learning_rates` trained it with
each of five learning rates, with the seeds 100 and 101, and took the one with
the best mean accuracy. The claims were written after that search, and before
this study ran.
"""

import sys
from functools import partial
from statistics import fmean

import torch
from common import run_study, seeded_resnet, train
from torch import nn
from torch.optim import Optimizer

import cnnlab
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 8
METRIC = "valid_acc"
N_TRAIN, N_VALID, EPOCHS = 1500, 5000, 6
DECLARATION = Declaration(
    "Does the optimizer matter, once each has a good learning rate?",
    claims=[
        Claim("Adam", ">", "SGD"),
        Claim("Nesterov", ">", "momentum"),
        Claim("momentum", "~", "SGD", by=0.02),
        Claim("AdamW", "~", "Adam", by=0.02),
    ],
    unit=fresh_data(),
    fixed="1,500 signs per seed, the network, batches of 64, six epochs, a "
    "constant learning rate, the same search for each optimizer",
)


def make_optimizer(name: str, model: nn.Module, lr: float) -> Optimizer:
    """Return one of the seven optimizers, over all parameters of a model."""
    weights = model.parameters()
    match name:
        case "SGD":
            return torch.optim.SGD(weights, lr)
        case "momentum":
            return torch.optim.SGD(weights, lr, momentum=0.9)
        case "Nesterov":
            return torch.optim.SGD(weights, lr, momentum=0.9, nesterov=True)
        case "AdaGrad":
            return torch.optim.Adagrad(weights, lr)
        case "RMSProp":
            return torch.optim.RMSprop(weights, lr)
        case "Adam":
            return torch.optim.Adam(weights, lr)
        case "AdamW":
            return torch.optim.AdamW(weights, lr)
    raise ValueError(f"there is no optimizer {name!r}")


def run(seed: int, *, name: str, lr: float) -> dict[str, float]:
    """Train with one seed; return validation accuracy and loss."""
    data = cnnlab.load("pocket", seed=seed, n_train=N_TRAIN, n_valid=N_VALID)
    model = seeded_resnet(seed)
    trainer = train(
        model,
        make_optimizer(name, model, lr),
        data.train,
        batch_size=64,
        epochs=EPOCHS,
        seed=seed,
    )
    metrics = trainer.evaluate(cnnlab.loader(data.valid, 256))
    results = {"valid_acc": metrics["acc"], "valid_loss": metrics["loss"]}
    return results | budget(
        labels=N_TRAIN, steps=trainer.step, tuning_runs=TUNING_RUNS
    )


# --- the search -----------------------------------------------------------

CANDIDATES = {
    "SGD": [0.03, 0.1, 0.3, 1.0, 3.0],
    "momentum": [0.01, 0.03, 0.1, 0.3, 1.0],
    "Nesterov": [0.01, 0.03, 0.1, 0.3, 1.0],
    "AdaGrad": [0.003, 0.01, 0.03, 0.1, 0.3],
    "RMSProp": [0.0003, 0.001, 0.003, 0.01, 0.03],
    "Adam": [0.0003, 0.001, 0.003, 0.01, 0.03],
    "AdamW": [0.0003, 0.001, 0.003, 0.01, 0.03],
}
SEARCH_SEEDS = [100, 101]
TUNING_RUNS = 5 * len(SEARCH_SEEDS)


def choose_learning_rates() -> None:
    """Print the mean accuracy of every candidate over the search seeds."""
    torch.set_num_threads(1)
    for name, rates in CANDIDATES.items():
        for lr in rates:
            runs = [run(seed, name=name, lr=lr) for seed in SEARCH_SEEDS]
            accuracy = fmean(r["valid_acc"] for r in runs)
            print(f"{name:9} {lr:<7} {accuracy:.3f}", flush=True)


# What the search chose: the smallest of the best, to three digits.
LEARNING_RATES = {
    "SGD": 1.0,
    "momentum": 0.1,
    "Nesterov": 0.3,
    "AdaGrad": 0.03,
    "RMSProp": 0.003,
    "Adam": 0.01,
    "AdamW": 0.01,
}
VARIANTS = {
    name: partial(run, name=name, lr=lr)
    for name, lr in LEARNING_RATES.items()
}


if __name__ == "__main__":
    if sys.argv[1:] == ["search"]:
        choose_learning_rates()
    else:
        run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
