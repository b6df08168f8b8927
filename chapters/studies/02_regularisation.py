"""Compare dropout and weight decay on a small training set.

What varies is the regularisation: none, two dropout probabilities, two
strengths of weight decay, and weight decay on all parameters instead of the
weights alone. Everything else is fixed: 300 signs, the architecture, SGD with
momentum at a learning rate of 0.1, batches of 64 and thirty epochs. Each seed
draws its own signs. The results are accuracy and loss at the end, on 5,000
validation signs.

The strengths were chosen with other seeds (100 and above). The claims were
written after a first study, with six seeds on one fixed set of signs, and
before this one ran.
"""

from functools import partial

import torch
from common import run_study, seeded_resnet, train

import cnnlab
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.transfer import param_groups


SEEDS = 8
METRIC = "valid_acc"
N_TRAIN, N_VALID, EPOCHS = 300, 5000, 30
DECLARATION = Declaration(
    "Do dropout and weight decay help a small network on few images?",
    claims=[
        Claim("dropout 0.3", "~", "plain", by=0.01),
        Claim("decay 5e-3", ">", "plain"),
        Claim("decay 5e-3", "<", "plain", by=0.05, metric="valid_loss"),
        Claim("decay 5e-3", ">", "decay 5e-3 everywhere"),
    ],
    unit=fresh_data(),
    fixed="300 signs per seed, the network, SGD with momentum 0.9 and a "
    "learning rate of 0.1, batches of 64, 30 epochs",
)


def run(
    seed: int,
    *,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    decay_everywhere: bool = False,
) -> dict[str, float]:
    """Train with one seed; return validation accuracy and loss."""
    data = cnnlab.load("pocket", seed=seed, n_train=N_TRAIN, n_valid=N_VALID)
    model = seeded_resnet(seed, dropout=dropout)
    groups = param_groups(model, lr=0.1, weight_decay=weight_decay)
    optimizer = torch.optim.SGD(
        model.parameters() if decay_everywhere else groups,
        lr=0.1,
        momentum=0.9,
        weight_decay=weight_decay,
    )
    trainer = train(
        model, optimizer, data.train, batch_size=64, epochs=EPOCHS, seed=seed
    )
    metrics = trainer.evaluate(cnnlab.loader(data.valid, 256))
    results = {"valid_acc": metrics["acc"], "valid_loss": metrics["loss"]}
    return results | budget(labels=N_TRAIN, steps=trainer.step)


VARIANTS = {
    "plain": run,
    "dropout 0.3": partial(run, dropout=0.3),
    "dropout 0.5": partial(run, dropout=0.5),
    "decay 5e-4": partial(run, weight_decay=5e-4),
    "decay 5e-3": partial(run, weight_decay=5e-3),
    "decay 5e-3 everywhere": partial(
        run, weight_decay=5e-3, decay_everywhere=True
    ),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
