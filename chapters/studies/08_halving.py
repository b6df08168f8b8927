"""Compare successive halving with training every trial to the end.

What varies is how a search spends its epochs on nine Sobol points over the
learning rate and the weight decay: it trains all nine for nine epochs (81 in
all); or it halves them (nine trials for one epoch, the best three up to three
epochs, the best one up to nine: 21 epochs in all); or it spends about as many
epochs, 18, on training only the first two to the end. Everything else is
fixed: 600 signs, the architecture, SGD at a constant learning rate, batches
of 32. Each seed draws its own signs. A search chooses by the accuracy on 240
validation images, and the result is the accuracy of the chosen network on
1,200 other images of the same kind.

The space, the number of trials and the number of epochs were fixed before any
run of this script. The claims were written before this study ran.
"""

from functools import lru_cache, partial

from common import correct_predictions, run_study, seeded_resnet, sgd, train
from common import sobol_settings

import cnnlab
from cnnlab import tune
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 8
METRIC = "accuracy"
N_TRAIN, N_VALID, N_OTHERS = 600, 240, 1200
N_TRIALS, EPOCHS, ETA, BATCH_SIZE = 9, 9, 3, 32
SPACE = {
    "lr": tune.LogUniform(1e-4, 0.5),
    "weight_decay": tune.LogUniform(1e-5, 1e-3),
}
ALL, HALVED, TWO = "all nine to the end", "successive halving", "only two"
DECLARATION = Declaration(
    "What is lost if bad trials stop early?",
    claims=[
        Claim(HALVED, "~", ALL, by=0.02),
        Claim(HALVED, ">", TWO, by=0.03),
    ],
    unit=fresh_data(),
    fixed="600 signs per seed, the network, SGD, nine Sobol points",
    unequal={
        ALL: "four times the epochs, which halving is meant to save",
        TWO: "two trials, because that is what about as many epochs buy",
    },
)


@lru_cache(maxsize=1)
def curves(seed):
    """Train all trials; return their curves, and accuracies on others."""
    data = cnnlab.load(
        "pocket",
        seed=seed,
        n_train=N_TRAIN,
        n_valid=N_VALID + N_OTHERS,
        n_test=96,
    )
    parts = [
        data.valid.select(range(N_VALID)),
        data.valid.select(range(N_VALID, N_VALID + N_OTHERS)),
    ]
    curves, others = [], []
    for setting in sobol_settings(SPACE, N_TRIALS, seed):
        model = seeded_resnet(seed, len(data.classes))
        trainer = train(
            model,
            sgd(model, setting["lr"], setting["weight_decay"]),
            data.train,
            batch_size=BATCH_SIZE,
            epochs=EPOCHS,
            seed=seed,
            valid=cnnlab.loader(parts[0], 256),
        )
        curves.append(trainer.history.frame()["valid_acc"].tolist())
        correct = correct_predictions(trainer, parts[1])
        others.append(correct.double().mean().item())
    return curves, others


def run(seed, *, strategy):
    """Search; return the accuracy of the chosen network on other images."""
    valid_accs, others = curves(seed)
    left, epoch, epochs = list(range(N_TRIALS)), EPOCHS, EPOCHS * N_TRIALS
    if strategy == TWO:
        left, epochs = left[:2], 2 * EPOCHS
    if strategy == HALVED:
        epoch, epochs = 1, N_TRIALS
        while epoch < EPOCHS:
            left.sort(key=lambda i: -valid_accs[i][epoch - 1])
            left = left[: len(left) // ETA]
            epochs += len(left) * (ETA * epoch - epoch)
            epoch *= ETA
    best = max(left, key=lambda i: valid_accs[i][-1])
    steps = epochs * (N_TRAIN // BATCH_SIZE)
    return {"accuracy": others[best], "epochs": epochs} | budget(
        labels=N_TRAIN + N_VALID, steps=steps, tuning_runs=N_TRIALS
    )


VARIANTS = {name: partial(run, strategy=name) for name in (ALL, HALVED, TWO)}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
