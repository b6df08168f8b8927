"""Compare 32-bit and 16-bit training, with and without loss scaling.

What varies is the precision (float32, bfloat16 by autocast, or gradients
rounded to float16) and the scale of the loss. Everything else is fixed: 960
signs per seed, the architecture, SGD, batches of 64 and six epochs. The
result is the validation accuracy.

Real float16 training needs a GPU. This study imitates on a CPU the part that
loss scaling is about: after each layer, the gradient that flows back is
rounded to float16, and everything else is float32. "loss / 4096" stands for a
loss that is a mean over a map of 64 x 64 positions. Its learning rate is 4096
times as high, so in exact arithmetic it would be the same run. Learning rate,
length and factors were chosen with the seeds 100 and 101. The accuracy is
that on 5,000 validation signs. The claims were written after a first study,
with six other seeds and 480 validation signs, and before this one ran.
"""

from functools import partial

from common import correct_predictions, run_study, train_in_precision

import cnnlab
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 6
FIRST = 1000  # added to every seed: the first study used 0 to 5
METRIC = "valid_acc"
N_TRAIN, EPOCHS, BATCH_SIZE = 960, 6, 64
HALF, SMALL = "float16 gradients", "float16 gradients, loss / 4096"
SCALED = f"{SMALL}, scaled by 65536"
DECLARATION = Declaration(
    "Does training in 16 bits lose accuracy, and does loss scaling repair it?",
    claims=[
        Claim("bfloat16", "~", "float32", by=0.02),
        Claim(HALF, "~", "float32", by=0.02),
        Claim(SMALL, "<", "float32", by=0.1),
        Claim(SCALED, "~", "float32", by=0.02),
    ],
    unit=fresh_data(),
    fixed="960 signs per seed, the network, SGD with momentum 0.9, batches "
    "of 64, 6 epochs",
)


def run(seed: int, **settings) -> dict[str, float]:
    """Train with some settings; return the validation accuracy."""
    seed += FIRST
    data = cnnlab.load(
        "pocket", seed=seed, n_train=N_TRAIN, n_valid=5000, n_test=96
    )
    trainer = train_in_precision(
        data, seed, batch_size=BATCH_SIZE, epochs=EPOCHS, **settings
    )
    accuracy = correct_predictions(trainer, data.valid).double().mean().item()
    used = budget(labels=N_TRAIN, steps=trainer.step)
    return {"valid_acc": accuracy} | used


VARIANTS = {
    "float32": run,
    "bfloat16": partial(run, precision="bf16"),
    HALF: partial(run, half_gradients=True),
    SMALL: partial(run, half_gradients=True, factor=2**-12),
    # The scale undoes the division, and adds another four bits.
    SCALED: partial(run, half_gradients=True, factor=2**4),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
