# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A. The same in Keras
#
# **Questions.** How do you do in Keras what you've learnt in PyTorch? Which things have another name, which have
# another default, and which have the same name and another meaning? Which of these differences raise no error?
#
# **You will be able to** carry a network and its weights from PyTorch to Keras and back; freeze, weight, stop and
# schedule in either; fine-tune a network from `keras.applications`; and name the defaults to set when two frameworks
# should give the same numbers.
#
# | | |
# |---|---|
# | to read | 35 minutes |
# | to run | 35 seconds on one core of a laptop; no internet, no GPU |
# | you need | chapters 1, 2, 5 and 6; chapters 9 to 11 for A.4, A.5 and A.8; Keras: `pip install "cnnlab[keras]"` |
#
# Keras 3 runs on several backends. Here it runs on PyTorch, so both sides use the same arithmetic, and whatever
# differs is Keras' doing. It reads the backend from a variable when it's imported, so you choose once per process. If
# you come from TensorFlow, everything on this page holds there, too; only `tf.data`, TensorFlow's own way of loading
# data, is missing. Without Keras this page still runs: the cells that need it do nothing.

# %% tags=["setup"]
import os
import tempfile

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50

import cnnlab
from cnnlab import check, mixing, schedules
from cnnlab.data import cache
from cnnlab.callbacks import replay
from cnnlab.experiment import (
    Claim,
    Declaration,
    compare_declared,
    fresh_data,
)

os.environ["KERAS_BACKEND"] = "torch"  # before the import
os.environ["KERAS_TORCH_DEVICE"] = "cpu"
os.environ["KERAS_HOME"] = str(cache.folder() / "keras")  # your own stays
try:
    import keras
except ImportError:
    keras = None

lab = cnnlab.setup(seed=0)
if keras:
    print(f"keras {keras.__version__} on {keras.backend.backend()}")
else:
    print(
        "Keras is not installed, so the cells that use it are left out. "
        'To have them, call `pip install "cnnlab[keras]"` and start anew.'
    )

# %% [markdown]
# ## A.1 The same network
#
# Below is `small_resnet` in Keras' functional style: you call layers on a placeholder tensor, and a `Model` is
# everything between an input and an output. Read it beside `SmallResNet` in the library. Four things in it are there
# only because Keras' defaults differ:
#
# - **The order of axes.** Keras expects (N, H, W, C), PyTorch (N, C, H, W).
# - **Padding.** With stride 2, `padding="same"` pads only at the bottom and on the right. PyTorch's `padding=1` pads all
#   four sides. So the padding is a layer of its own here.
# - **Batch norm's $\varepsilon$** is 0.001 in Keras and 0.00001 in PyTorch.
# - **Batch norm's `momentum`** means opposite things. In Keras it's the fraction of the *old* statistics that stays, 0.99.
#   In PyTorch it's the weight of the *new* ones, 0.1. Chapter 2's $r \leftarrow 0.9\,r + 0.1\,\mu$ is `momentum=0.9` in
#   Keras.
#
# Keras also initialises weights differently, with Xavier's uniform distribution. That doesn't matter here, because we
# copy the weights.

# %%
WIDTH = 8


def keras_resnet(num_classes, *, padding=None, l2=0.0, **norm):
    """`small_resnet(num_classes, width=WIDTH)`; the rest deviates from it."""
    norm = {"momentum": 0.9, "epsilon": 1e-5} | norm
    decay = keras.regularizers.L2(l2)

    def conv(x, name, norm_name, width, size=3, stride=1):
        if size == 3 and padding is None:
            x = keras.layers.ZeroPadding2D(1)(x)
        x = keras.layers.Conv2D(
            width,
            size,
            strides=stride,
            padding=padding or "valid",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=decay,
            name=name,
        )(x)
        return keras.layers.BatchNormalization(name=norm_name, **norm)(x)

    images = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 0.25, -0.45 / 0.25)(images)
    x = keras.layers.ReLU()(conv(x, "stem_0", "stem_1", WIDTH, stride=2))
    for i in range(2):
        block, width = f"blocks_{i}_", WIDTH * 2 ** (i + 1)
        y = conv(x, block + "conv1", block + "norm1", width, stride=2)
        y = keras.layers.ReLU()(y)
        y = conv(y, block + "conv2", block + "norm2", width)
        shortcut = [block + "shortcut_0", block + "shortcut_1"]
        x = conv(x, *shortcut, width, size=1, stride=2)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    head = keras.layers.Dense(
        num_classes, kernel_regularizer=decay, name="head_linear"
    )
    return keras.Model(images, head(x))


def copy_weights(model, twin):
    """Copy a PyTorch model's weights into its Keras twin, layer by layer."""
    for name, module in model.named_modules():
        own = [*module.parameters(recurse=False)]
        statistics = [v for v in module.buffers(recurse=False) if v.ndim]
        if not own:
            continue
        values = [v.detach().numpy() for v in (*own, *statistics)]
        if values[0].ndim == 4:  # (out, in, height, width)
            values[0] = values[0].transpose(2, 3, 1, 0)
        elif values[0].ndim == 2:  # (out, in)
            values[0] = values[0].T
        twin.get_layer(name.replace(".", "_")).set_weights(values)


def keras_arrays(split):
    """Return the images (N, H, W, C) and labels of a split, for Keras."""
    images, labels = next(iter(cnnlab.loader(split, len(split))))
    return images.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy()


def torch_resnet(seed=0):
    torch.manual_seed(seed)
    return cnnlab.small_resnet(num_classes=12, width=WIDTH)


def trainer_for(model, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return cnnlab.Trainer(
        model, optimizer, device="cpu", progress=False, **options
    )


data = cnnlab.load("pocket", n_train=480, n_valid=480)
BATCH = 32
train = cnnlab.loader(data.train, BATCH)  # in the order of the data set
valid = cnnlab.loader(data.valid, 240)

# %% [markdown]
# The same weights must give the same logits. We train a few steps first, so that the running statistics are no longer
# 0 and 1. Then we copy the network four times: once correctly, and three times with one of Keras' defaults left in
# place.

# %%
if keras:
    trainer = trainer_for(torch_resnet())
    trainer.fit(train, epochs=1)
    logits = trainer.predict(valid).numpy()
    images, labels = keras_arrays(data.valid)

    def off_by(twin, images=images):
        """Return the largest difference between two logits."""
        copy_weights(trainer.model, twin)
        found = twin.predict(images, batch_size=240, verbose=0)
        return float(np.abs(found - logits).max())

    wrong_axes = images.transpose(0, 3, 1, 2).reshape(images.shape)
    differences = {
        "as above": off_by(keras_resnet(12)),
        "epsilon=0.001": off_by(keras_resnet(12, epsilon=1e-3)),
        'padding="same"': off_by(keras_resnet(12, padding="same")),
        "axes renamed, not moved": off_by(keras_resnet(12), wrong_axes),
    }
    print(f"the largest logit is {np.abs(logits).max():.1f}; off by")
    for name, difference in differences.items():
        print(f"{name:<25}{difference:9.5f}")
    assert differences.pop("as above") < 1e-4
    assert min(differences.values()) > 1e-3

# %% [markdown]
# None of the three raises an error. The last one is the worst: `reshape` gives the axes the right sizes but mixes
# pixels with colours. To move axes, use `permute` or `transpose`.
#
# **Pooling.** `GlobalAveragePooling2D` is the mean over the image, PyTorch's `AdaptiveAvgPool2d(1)`. It returns one
# value per channel whatever the size of the image, so both networks accept larger images. With `Flatten` in its place,
# the head would fit only one size.

# %%
if keras:
    model = torch_resnet().eval()
    twin = keras_resnet(12)
    copy_weights(model, twin)
    for side in (32, 48, 80):
        torch.manual_seed(0)
        pixels = torch.rand(4, 3, side, side)
        with torch.no_grad():
            ours = model(pixels).numpy()
        theirs = twin.predict(pixels.permute(0, 2, 3, 1).numpy(), verbose=0)
        assert np.allclose(ours, theirs, atol=1e-4)
    print("the same logits for images of 32, 48 and 80 pixels")

# %% [markdown]
# ## A.2 The same training
#
# `compile` does what `Trainer(...)` does, and `fit` is `fit`. You have to write out two things. Tell the loss that it
# gets logits (`from_logits=True`), because by default it takes them for probabilities and raises no error. And set
# `shuffle=False` here, so that both sides see the same batches.


# %%
def keras_compiled(model, rate=0.1):
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


if keras:
    ours = trainer_for(torch_resnet())
    twin = keras_resnet(12)
    copy_weights(ours.model, twin)

    frame = ours.fit(train, valid, epochs=3).frame()
    history = keras_compiled(twin).fit(
        *keras_arrays(data.train),
        validation_data=keras_arrays(data.valid),
        batch_size=BATCH,
        epochs=3,
        shuffle=False,
        verbose=0,
    )
    curves = pd.DataFrame(
        {
            "loss, cnnlab": frame["train_loss"],
            "loss, Keras": history.history["loss"],
            "valid. accuracy, cnnlab": frame["valid_acc"],
            "valid. accuracy, Keras": history.history["val_accuracy"],
        }
    )
    assert np.allclose(
        curves["loss, cnnlab"], curves["loss, Keras"], atol=0.01
    )
    print(curves.round(3).to_string(index=False))

# %% [markdown]
# The curves agree. Rounding errors grow from step to step, so don't expect the last digits of a long run to match. One
# thing isn't quite equal here: PyTorch divides the running variance by $N - 1$, and Keras by $N$.
#
# ### Predict
#
# Leave batch norm's `momentum` at Keras' default of 0.99, so that each batch moves the running statistics by only a
# hundredth. Train four epochs of fifteen steps. How far does its validation accuracy fall below the
# accuracy with 0.9?
# (0.05 is five points; a negative number means that it's ahead.)

# %% tags=["predict"]
my_loss_by_momentum = ...

# %% tags=["experiment"]
if keras:
    keras_runs = {}

    def keras_accuracy(seed, momentum):
        """Train four epochs with Keras' own initialisation and order."""
        signs = cnnlab.load("pocket", seed=seed, n_train=480, n_valid=1200)
        keras.utils.set_random_seed(seed)
        model = keras_compiled(keras_resnet(12, momentum=momentum))
        model.fit(
            *keras_arrays(signs.train), batch_size=BATCH, epochs=4, verbose=0
        )
        keras_runs[seed, momentum] = model
        valid = keras_arrays(signs.valid)
        return model.evaluate(*valid, batch_size=240, verbose=0)[1]

    lagging = compare_declared(
        Declaration(
            "Does momentum 0.99 lag behind in a short run?",
            [Claim("momentum 0.9", ">", "momentum 0.99", by=0.05)],
            fresh_data(),
        ),
        {
            "momentum 0.9": lambda seed: keras_accuracy(seed, 0.9),
            "momentum 0.99": lambda seed: keras_accuracy(seed, 0.99),
        },
        seeds=5,
        metric="valid_acc",
    )

lagged = "With a momentum of 0.99, Keras' running statistics lag behind."
lagging.plot(message=lagged) if keras else None

# %% tags=["claim"]
if keras:
    verdict = lagging.claim("momentum 0.9", ">", "momentum 0.99", by=0.05)
verdict if keras else None

# %% tags=["check"]
if keras:
    check.prediction(
        "How far behind is a run with momentum 0.99?",
        my_loss_by_momentum,
        lagging.difference("momentum 0.9", "momentum 0.99")[0],
        within=0.05,
    )

# %% [markdown]
# After sixty steps, $0.99^{60}$ of the statistics, more than half, are still the 0 and 1 they started with. The
# *weights* of the two runs of a seed don't differ at all, because training mode never uses the running statistics. The
# network has learnt the same; it's only evaluated with the wrong statistics.

# %%
if keras:
    two = [keras_runs[0, momentum] for momentum in (0.9, 0.99)]
    trained = [[v.numpy() for v in m.trainable_weights] for m in two]
    assert all(np.array_equal(a, b) for a, b in zip(*trained, strict=True))
    print(f"{len(trained[0])} trained tensors, equal to the last bit")

# %% [markdown]
# **What would change it.** Time would: after five hundred steps, $0.99^{500}$ is less than a hundredth, and in runs of
# that length 0.99 averages over more batches, so its statistics are less noisy. The default hurts in short runs, on
# small data sets, and with a new head on an unfrozen backbone.
#
# ## A.3 Learning rates and schedules
#
# A schedule in Keras is an object that turns the step into *the learning rate*, not into a multiplier, and you pass it
# to the optimizer as its learning rate. The values are the same:

# %%
if keras:
    decays = keras.optimizers.schedules
    rate = 0.3
    pairs = {
        "cosine, floor 0.1": (
            decays.CosineDecay(rate, 100, alpha=0.1),
            schedules.cosine(100, final=0.1),
        ),
        "warm-up, then cosine": (
            decays.CosineDecay(0.0, 90, warmup_target=rate, warmup_steps=10),
            schedules.warmup(10, schedules.cosine(90)),
        ),
        "milestones": (
            decays.PiecewiseConstantDecay([59, 79], [rate, 0.03, 0.003]),
            schedules.multistep([60, 80]),
        ),
    }
    for name, (theirs, ours) in pairs.items():
        numbers = [(float(theirs(t)), rate * ours(t)) for t in range(130)]
        assert np.allclose(*zip(*numbers, strict=True), atol=1e-6), name
        print(f"{name:<22}the same rate at each of {len(numbers)} steps")

# %% [markdown]
# Look at the milestones: Keras' 59 and 79 are our 60 and 80. A boundary in Keras is the *last* step at the old
# learning rate, and ours is the first step at the new one.
#
# Keras has no one-cycle schedule. A class of five lines turns any function of the step into a schedule:

# %%
if keras:

    class FromFunction(keras.optimizers.schedules.LearningRateSchedule):
        """The learning rate times one of `cnnlab.schedules`."""

        def __init__(self, rate, schedule):
            self.rate, self.schedule = rate, schedule

        def __call__(self, step):
            return self.rate * self.schedule(int(step))

    cycle = schedules.one_cycle(2 * len(train))
    model = torch_resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, cycle),
        device="cpu",
        progress=False,
    )
    ours = trainer.fit(train, epochs=2).steps["lr"]

    theirs = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: theirs.append(
            float(twin.optimizer.learning_rate)
        )
    )
    twin = keras_compiled(keras_resnet(12), FromFunction(0.3, cycle))
    twin.fit(
        *keras_arrays(data.train),
        batch_size=BATCH,
        epochs=2,
        verbose=0,
        callbacks=[note],
    )
    assert np.allclose(ours, theirs, rtol=1e-5)
    print(
        f"{len(theirs)} steps with the same rate, {max(theirs):.3f} at the peak"
    )

# %% [markdown]
# The callback `LearningRateScheduler`, which many examples use, changes the learning rate once per *epoch*, so the
# curve is a staircase (section 5.5). And **`ReduceLROnPlateau` can't change a learning rate that a schedule
# controls**. Keras raises an error, and `Trainer` refuses the pair as well.

# %%
if keras:
    scheduled = keras.optimizers.SGD(decays.CosineDecay(0.3, 100))
    try:
        scheduled.learning_rate = 0.1
    except TypeError as error:
        print(str(error).partition(",")[0])
    else:
        raise AssertionError("the rate was changed")

# %% [markdown]
# One more difference is hidden in SGD's momentum. With the gradient $g$, the momentum $m$ and the learning rate
# $\eta$,
#
# $$ \text{PyTorch:} \quad v \leftarrow m v + g, \;\; w \leftarrow w - \eta v; \qquad
# \text{Keras:} \quad v \leftarrow m v - \eta g, \;\; w \leftarrow w + v. $$
#
# With a constant learning rate the two agree. When it falls, PyTorch scales all of the velocity down at once, while in
# Keras the old steps go on at the old learning rate. Work it out by hand for the gradient 1, $m = 0.9$, and a learning
# rate that falls from 1 to 0.1: PyTorch moves by $1$ and then by $0.1 \cdot 1.9$, Keras by $1$ and then by $0.9 +
# 0.1$.

# %%
weight = torch.zeros(1, requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
for rate in (1.0, 0.1):
    optimizer.param_groups[0]["lr"] = rate
    weight.grad = torch.ones(1)
    optimizer.step()
print(f"PyTorch: {weight.item():.2f}")
assert abs(weight.item() + 1.19) < 1e-6

if keras:
    weight = keras.Variable(np.zeros(1, dtype="float32"))
    optimizer = keras.optimizers.SGD(1.0, momentum=0.9)
    for rate in (1.0, 0.1):
        optimizer.learning_rate = rate
        optimizer.apply([torch.ones(1)], [weight])
    print(f"Keras:   {weight.numpy().item():.2f}")
    assert abs(weight.numpy().item() + 2) < 1e-6

# %% [markdown]
# ## A.4 A new head on a frozen backbone
#
# Chapter 9 replaces the head and freezes the rest. In Keras you cut the model at the features, set `trainable` to
# `False`, and put new layers behind it. Do it *before* `compile`, because Keras
# only guarantees that `trainable` has an effect if you set it before.
#
# In both, **a frozen batch norm works in evaluation mode while the rest trains**: it uses its running statistics and
# doesn't update them. In Keras, `trainable = False` means exactly that for batch norm, and cnnlab's `Trainer` follows
# the same rule. A bare PyTorch loop doesn't: `requires_grad` freezes the weights, but `model.train()` lets the
# statistics move. Train all three for an epoch on ten digits per class, and see what has changed in the backbone.

# %%
digits = cnnlab.load("digits").subset(per_class=10)
digit_batches = cnnlab.loader(digits.train, 20)


def moved(before, after):
    """Return the names of the tensors that have changed."""
    return [k for k, v in before.items() if not np.array_equal(v, after[k])]


def torch_backbone(model):
    return {
        name: value.numpy().copy()
        for name, value in model.state_dict().items()
        if not name.startswith("head") and value.ndim
    }


def frozen_torch():
    """A network with a new head and everything below it frozen."""
    model = cnnlab.replace_head(torch_resnet(), 10, dropout=0.5)
    for stage in cnnlab.stages(model)[:-1]:
        cnnlab.transfer.freeze(stage)
    return model


model = frozen_torch()
before = torch_backbone(model)
trainer_for(model).fit(digit_batches, epochs=1)
report = {"cnnlab": moved(before, torch_backbone(model))}

model = frozen_torch()
optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
model.train()
for images, labels in digit_batches:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
report["PyTorch, model.train()"] = moved(before, torch_backbone(model))

if keras:
    twin = keras_resnet(12)
    copy_weights(torch_resnet(), twin)
    backbone = keras.Model(twin.input, twin.get_layer("features").output)
    backbone.trainable = False
    pieces = [backbone, keras.layers.Dropout(0.5), keras.layers.Dense(10)]
    transferred = keras_compiled(keras.Sequential(pieces))

    def keras_backbone():
        return {v.path: v.numpy().copy() for v in backbone.weights}

    before = keras_backbone()
    transferred.fit(
        *keras_arrays(digits.train), batch_size=20, shuffle=False, verbose=0
    )
    report["Keras"] = moved(before, keras_backbone())
    assert len(transferred.trainable_weights) == 2  # of the head

for name, changed in report.items():
    print(f"{name:<24}{len(changed):2} tensors of the backbone have changed")
assert not report["cnnlab"]
assert not report.get("Keras")
assert {name.split(".")[-1] for name in report["PyTorch, model.train()"]} == {
    "running_mean",
    "running_var",
}

# %% [markdown]
# When you unfreeze, Keras needs a second `compile`. Its optimizer was built for the weights that were trainable then,
# and it refuses others. The new optimizer starts without momentum. cnnlab's optimizer holds all parameters from the
# start, so unfreezing doesn't interrupt it (chapter 10).

# %%
if keras:
    backbone.trainable = False
    keras_compiled(transferred)
    transferred.optimizer.build(transferred.trainable_variables)
    digits_for_keras = keras_arrays(digits.train)

    backbone.trainable = True
    refused = ""
    try:
        transferred.fit(*digits_for_keras, batch_size=20, verbose=0)
    except (ValueError, KeyError) as error:
        refused = str(error)
    assert "nknown variable" in refused

    keras_compiled(transferred, rate=0.001)
    transferred.fit(*digits_for_keras, batch_size=20, verbose=0)
    print("refused before a second compile, trained after it")

# %% [markdown]
# A Keras optimizer has one learning rate for all weights, so layer-wise learning rates (chapter 10) need more. Recent
# versions can hold several optimizers, each for the weights whose names match a pattern (`MultiOptimizer`). What
# always works is phases: first the head, then the top block, then everything, each with its own `compile` and a
# smaller learning rate.
#
# ## A.5 Weight decay and class weights
#
# **Weight decay.** A regulariser $c \lVert w \rVert^2$ in Keras adds $2 c w$ to the gradient. Chapter 2's
# $\tfrac{\lambda}{2} \lVert w \rVert^2$ adds $\lambda w$. So **`L2(c)` is `weight_decay=2 * c`** of `torch.optim.SGD`.
# You pass it layer by layer, here to the convolutions and the linear layer, and not to batch norms and biases.

# %%
decay = 0.02
if keras:
    model = torch_resnet()
    twin = keras_resnet(12, l2=decay / 2)
    copy_weights(model, twin)

    groups = cnnlab.transfer.param_groups(model, 0.1, weight_decay=decay)
    trainer = cnnlab.Trainer(
        model,
        torch.optim.SGD(groups, momentum=0.9),
        device="cpu",
        progress=False,
    )
    loss = trainer.fit(train, epochs=1).frame()["train_loss"].item()
    history = keras_compiled(twin).fit(
        *keras_arrays(data.train),
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
    )
    same = model.head.linear.weight.detach().numpy().T
    theirs = twin.get_layer("head_linear").get_weights()[0]
    assert np.allclose(same, theirs, atol=1e-3)
    print("after an epoch, the weights agree, but not the reported losses:")
    print(f"cnnlab {loss:.3f}, Keras {history.history['loss'][0]:.3f}")
    assert history.history["loss"][0] > loss + 0.1

# %% [markdown]
# The weights are the same, but the *reported* losses aren't. Keras adds the penalty to `loss` and to `val_loss`, so a
# falling `val_loss` may show only that the weights shrink. To judge a fit, add a metric without the penalty, such as
# `SparseCategoricalCrossentropy`. Keras' other way, `SGD(weight_decay=...)`, is AdamW's decay, which is separate from
# the gradient. It includes biases and batch norms unless you call `exclude_from_weight_decay`.
#
# **Class weights.** `fit(class_weight={0: w_0, ...})` multiplies the loss of each image by the weight of its class and
# divides by the *number* of images. Chapters 4 and 11 divide by the *sum of the weights*:
#
# $$ \text{Keras:} \quad \frac{1}{N} \sum_i w_{y_i} \ell_i, \qquad
# \text{cnnlab, } \texttt{F.cross\_entropy}: \quad \frac{\sum_i w_{y_i} \ell_i}{\sum_i w_{y_i}} . $$
#
# The cell below has six images of three classes. The network is the identity and its learning rate is 0, so the loss
# is that of the logits below.

# %%
torch.manual_seed(1)
logits, labels = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 2])
for weights in ([1.0, 2.0, 6.0], cnnlab.data.class_weights(labels).tolist()):
    weight = torch.tensor(weights)
    ours = mixing.soft_cross_entropy(logits, labels, weight=weight).item()
    plain = F.cross_entropy(logits, labels).item()
    print(f"weights {[round(w, 2) for w in weights]}")
    print(f"  cnnlab {ours:.4f}, without weights {plain:.4f}")
    if keras:
        identity = keras.layers.Dense(
            3, use_bias=False, kernel_initializer="identity"
        )
        model = keras.Sequential([keras.Input((3,)), identity])
        told = (
            keras_compiled(model, rate=0.0)
            .fit(
                logits.numpy(),
                labels.numpy(),
                validation_data=(logits.numpy(), labels.numpy()),
                class_weight=dict(enumerate(weights)),
                batch_size=4,  # the second batch is shorter
                verbose=0,
            )
            .history
        )
        loss, val_loss = told["loss"][0], told["val_loss"][0]
        print(f"  Keras  {loss:.4f}, in validation {val_loss:.4f}")
        assert np.isclose(loss, ours * weight[labels].mean(), rtol=1e-5)
        assert np.isclose(val_loss, plain, rtol=1e-5)

# %% [markdown]
# If the weights have a mean of 1 over the *images*, as those of `cnnlab.data.class_weights` do, the two agree over the
# whole training set. With other weights, Keras changes the size of the gradient, and so, in effect, the learning rate;
# in PyTorch, a constant factor cancels. Within a batch they differ even then: a batch with a rare image counts for
# more in Keras. And **`val_loss` ignores class weights** in Keras, while `Trainer` validates with the loss it trains
# with. Accuracies are unweighted in both.
#
# The loss of an epoch is a mean over images in both, and it stays correct when the last batch is smaller, as it was in
# the cell above.
#
# ## A.6 Callbacks
#
# **Early stopping.** We feed both with the same values by hand, and compare where they stop and which weights they
# leave, as indices from 0. Keras' model has a single weight, which is the number of the epoch.


# %%
def keras_replay(values, **options):
    """Return where Keras stops and which weights it leaves."""
    weight = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((1,)), weight])
    model.stop_training = False
    callback = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", **options
    )
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        model.set_weights([np.full((1, 1), epoch)])
        callback.on_epoch_end(epoch, {"val_accuracy": value})
        if model.stop_training:
            break
    callback.on_train_end()
    return epoch, int(model.get_weights()[0].item())


nan = float("nan")
restore = {"restore_best_weights": True}
cases = {
    "as in chapter 6": ([0.5, 0.7, 0.6, 0.6, 0.9], 2, 0.0, restore),
    "without restoring": ([0.5, 0.7, 0.6, 0.6, 0.9], 2, 0.0, {}),
    "a small gain": ([0.5, 0.6, 0.62, 0.6, 0.6], 2, 0.05, restore),
    "patience 0": ([0.5, 0.4, 0.6], 0, 0.0, restore),
    "NaN first": ([nan, 0.5, 0.7, 0.9], 2, 0.0, restore),
}
rows = {}
for name, (values, patience, min_delta, options) in cases.items():
    rows[name] = {"cnnlab": replay(values, "max", patience, min_delta)}
    if keras:
        rows[name]["Keras"] = keras_replay(
            values, patience=patience, min_delta=min_delta, **options
        )
pd.DataFrame(rows).T

# %%
if keras:
    same = [name for name, row in rows.items() if len({*row.values()}) == 1]
    assert same == ["as in chapter 6", "patience 0"]
    assert rows["NaN first"] == {"cnnlab": (3, 3), "Keras": (2, 0)}

# %% [markdown]
# The *counting* is the same: `patience` epochs in a row without improvement. The differences are:
#
# - **Restoring is off by default.** `restore_best_weights=False` leaves you the last weights. Switch it on.
# - **`min_delta` also decides which weights are best.** The epoch with 0.62 wasn't better by 0.05, so Keras doesn't keep it.
# - **NaN in the first epoch becomes the best value.** Nothing ever beats it, and Keras restores the weights of that epoch.
#   Add `keras.callbacks.TerminateOnNaN`.
# - **`mode="auto"`**, the default, asks the metric for its direction. For a metric of your own Keras can't know it and raises
#   an error; older versions minimised it. Always set the mode.
#
# **Plateau.** Keras and `schedules.Plateau` act *at* the `patience`-th epoch without improvement, and torch's own
# scheduler waits for one more. Keras' `min_delta` is 0.0001 unless you set it to 0.

# %%
losses = [1.0, 0.8, 0.70, 0.71, 0.70, 0.72, 0.72, 0.73]


def rates_under(scheduler, optimizer):
    rates = []
    for loss in losses:
        scheduler.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def fresh_optimizer():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


first, second = fresh_optimizer(), fresh_optimizer()
plateau = schedules.Plateau(first, patience=3)
torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(second, patience=3)
rates = {
    "loss": losses,
    "cnnlab": rates_under(plateau, first),
    "PyTorch": rates_under(torchs, second),
}
if keras:
    one = keras.layers.Dense(1)
    model = keras_compiled(keras.Sequential([keras.Input((1,)), one]), 1.0)
    callback = keras.callbacks.ReduceLROnPlateau(patience=3, min_delta=0)
    callback.set_model(model)
    callback.on_train_begin()
    rates["Keras"] = []
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        rates["Keras"].append(float(model.optimizer.learning_rate))
    assert np.allclose(rates["Keras"], rates["cnnlab"])
assert rates["cnnlab"] != rates["PyTorch"]
pd.DataFrame(rates, index=range(1, len(losses) + 1)).T.round(3)

# %% [markdown]
# **Checkpoints.** `ModelCheckpoint` writes the model with its optimizer. By default it overwrites one file after every
# epoch, and `save_best_only=True` keeps the best instead. It doesn't write the rest of the run: the number of the
# epoch, the state of the callbacks, the state of the random generators. A `fit` that continues starts to count at
# `initial_epoch`, which you have to pass, and early stopping starts anew. So a resumed Keras run isn't the run that
# was never interrupted (section 6.4).

# %%
if keras:
    keras.utils.set_random_seed(0)
    model = keras_compiled(keras_resnet(12))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/best.keras"
        best = {"monitor": "val_accuracy", "mode": "max"}
        history = model.fit(
            *keras_arrays(data.train),
            validation_data=keras_arrays(data.valid),
            batch_size=BATCH,
            epochs=3,
            verbose=0,
            callbacks=[
                keras.callbacks.ModelCheckpoint(
                    path, save_best_only=True, **best
                ),
                keras.callbacks.EarlyStopping(
                    patience=2, restore_best_weights=True, **best
                ),
            ],
        ).history
        loaded = keras.models.load_model(path)
    now, then = (
        m.evaluate(*keras_arrays(data.valid), batch_size=240, verbose=0)[1]
        for m in (model, loaded)
    )
    assert abs(now - max(history["val_accuracy"])) < 0.005
    assert abs(now - then) < 0.005
    steps = int(loaded.optimizer.iterations)
    print(f"restored and loaded: both have {now:.3f}, the best of 3 epochs;")
    print(f"the optimizer was loaded at step {steps}, without the epoch")

# %% [markdown]
# ## A.7 Where the validation images come from
#
# ### Predict
#
# `fit(..., validation_split=0.25)` keeps a quarter of the images for validation. The 480 images are sorted by class,
# and `shuffle=True` is the default. How many of the twelve classes will training never see?

# %% tags=["predict"]
my_unseen_classes = ...

# %% tags=["experiment"]
if keras:

    class Seen(keras.layers.Layer):
        """Return the input unchanged, and record it in training."""

        def __init__(self):
            super().__init__()
            self.values = []

        def call(self, x, training=False):
            if training:
                self.values.extend(x.flatten().tolist())
            return x

    sorted_labels = np.repeat(np.arange(12.0), 40)[:, None]
    model = keras.Sequential(
        [keras.Input((1,)), seen := Seen(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    model.fit(
        sorted_labels / 12, sorted_labels, validation_split=0.25, verbose=0
    )
    classes_seen = {round(12 * value) for value in seen.values}
    unseen = 12 - len(classes_seen)
    print(f"seen in training: {sorted(classes_seen)}")
    assert classes_seen == set(range(9))

# %% tags=["check"]
if keras:
    check.prediction(
        "How many classes does training never see?",
        my_unseen_classes,
        unseen,
    )

# %% [markdown]
# **Keras cuts off the last quarter first, and shuffles only the rest.** Three classes are only in the validation set,
# so the network has no chance to learn them. Shuffle the arrays yourself. Or better, split each class in proportion
# and pass `validation_data`, as `cnnlab.load` and `from_folder` do for you.

# %% [markdown]
# ## A.8 A ready-made network: ResNet-50 for three classes
#
# In practice you rarely build the network. `keras.applications` has a few dozen, and the usual exercise goes like
# this: take ResNet-50 without its head, train a new head for three classes, then unfreeze the last block and keep
# training with dropout, weight decay, a plateau schedule and early stopping. Here it is in both frameworks. To run offline and
# in seconds, it uses signs of 32 pixels and random weights. For real work, write `weights="imagenet"` (Keras) or
# `ResNet50_Weights.DEFAULT` (torchvision), which download 100 MB, and use images of 224 pixels.
#
# ### What Keras' networks expect
#
# `include_top=False` leaves out the pooling and the head, so the base returns a feature map. Pixels go in from 0 to
# 255, through the `preprocess_input` of that network. What does it do? Ask it about a single red pixel:

# %%
if keras:
    red = np.array([[[[255.0, 0.0, 0.0]]]])
    families = ("resnet", "vgg16", "resnet_v2", "efficientnet", "densenet")
    for family in families:
        prepared = getattr(keras.applications, family).preprocess_input(
            red.copy()
        )
        print(f"{family:<14}{prepared.ravel().round(2)}")
    assert np.allclose(
        keras.applications.resnet.preprocess_input(red.copy()).ravel(),
        [-103.939, -116.779, 255 - 123.68],
    )

# %% [markdown]
# ResNet and VGG subtract a mean from each channel, divide by nothing, and **turn RGB into BGR**: the red value comes
# out last. This "caffe mode" is how their weights were trained, and it's the one place where a famous network really
# wants BGR (chapter 9 shows what happens to a network that gets the wrong order). ResNetV2 wants -1 to 1. EfficientNet
# does nothing here, because its first layer rescales; DenseNet has the mean and standard deviation that you know from
# torchvision. torchvision's own ResNet-50 wants those, too. So **the same architecture needs other pixels in the other
# framework**, and nothing complains.
#
# ### Predict
#
# Tutorials freeze the base with `base.trainable = False` and then unfreeze the last layers with `for layer in
# base.layers[-20:]: layer.trainable = True`. ResNet-50 without its head has 318 weight tensors. How many of them are
# trained after these two lines?

# %% tags=["predict"]
my_trained_tensors = ...

# %% tags=["experiment"]
SIDE = 32


def keras_base():
    return keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(SIDE, SIDE, 3)
    )


if keras:
    keras.utils.set_random_seed(0)
    base = keras_base()
    base.trainable = False
    for layer in base.layers[-20:]:
        layer.trainable = True
    trained_tensors = len(base.trainable_weights)

    base.trainable = True
    for layer in base.layers[:-20]:
        layer.trainable = False
    print("frozen as a whole, then the last 20 unfrozen:", trained_tensors)
    print("unfrozen, then all but 20 frozen:", len(base.trainable_weights))
    assert (trained_tensors, len(base.trainable_weights)) == (0, 24)

# %% tags=["check"]
if keras:
    check.prediction(
        "How many tensors are trained?", my_trained_tensors, trained_tensors
    )

# %% [markdown]
# None. A model whose own `trainable` is `False` reports no trainable weights, whatever its layers say, so the two
# lines train the head alone, and the curve looks healthy. Do it the other way round: unfreeze the base as a whole,
# then freeze all layers but the last ones.
#
# Even then, `layers[-20:]` counts *layers*, and activations and additions are among them. In ResNet-50 they happen to
# be the last two blocks, with their batch norms, which now learn scale and shift. Say what you mean by name instead.
#
# ### The base as a layer
#
# The heart of the recipe is `base(x, training=False)`. It fixes the mode of the base for good, dropout and batch norm
# included: its running statistics don't move, not even when you unfreeze its weights later. Section A.4 could rely on
# `trainable = False` for that, but unfreezing undoes it.

# %%
if keras:

    def keras_three_classes(base):
        """ResNet-50's exercise: the base, then pooling, dropout, a head."""
        images = keras.Input((SIDE, SIDE, 3))
        x = keras.applications.resnet.preprocess_input(images)
        x = base(x, training=False)
        x = keras.layers.GlobalAveragePooling2D()(x)
        x = keras.layers.Dropout(0.3)(x)
        head = keras.layers.Dense(
            3, kernel_regularizer=keras.regularizers.L2(1e-4)
        )
        return keras.Model(images, head(x))

    def last_block(base):
        """Unfreeze the convolutions of the last block, and no others."""
        base.trainable = True
        for layer in base.layers:
            layer.trainable = layer.name.startswith(
                "conv5_block3"
            ) and not isinstance(layer, keras.layers.BatchNormalization)


def three_signs(split):
    """Return forty signs of three classes, (N, 3, H, W), and labels."""
    images, labels = next(iter(cnnlab.loader(split, len(split))))
    return images[labels < 3][::3], labels[labels < 3][::3]


x_train, y_train = three_signs(data.train)
x_valid, y_valid = three_signs(data.valid)
EPOCHS = (1, 1) if lab.profile == "smoke" else (3, 3)  # head, last block

if keras:
    keras.utils.set_random_seed(0)
    model = keras_three_classes(base := keras_base())
    base.trainable = False
    curves_in_keras = {"loss": [], "val_loss": []}
    for epochs, rate in zip(EPOCHS, (1e-3, 1e-4), strict=True):
        model.compile(
            keras.optimizers.Adam(rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        history = model.fit(
            255 * x_train.permute(0, 2, 3, 1).numpy(),
            y_train.numpy(),
            validation_data=(
                255 * x_valid.permute(0, 2, 3, 1).numpy(),
                y_valid.numpy(),
            ),
            epochs=epochs,
            verbose=0,
            callbacks=[
                keras.callbacks.ReduceLROnPlateau(patience=2),
                keras.callbacks.EarlyStopping(
                    patience=3, restore_best_weights=True
                ),
            ],
        ).history
        for name, values in curves_in_keras.items():
            values += history[name]
        print(sum(v.numpy().size for v in model.trainable_weights), "weights")
        last_block(base)

# %% [markdown]
# ### The same in PyTorch
#
# torchvision's network has the pooling built in and its head is `fc`, so a new `fc` does both. What `training=False`
# does in Keras is `model.eval()` here, and only the dropout goes back to training mode. Plateau and early stopping
# come from chapters 5 and 6.

# %%
torch.manual_seed(0)
model = resnet50(weights=None)
for parameter in model.parameters():
    parameter.requires_grad_(False)
model.fc = nn.Sequential(nn.Dropout(0.3), nn.Linear(2048, 3))
mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
curves_in_torch = {"loss": [], "val_loss": []}


def last_block_of_torch(model):
    """Unfreeze the convolutions of the last block, and no others."""
    for module in model.layer4[-1].modules():
        if isinstance(module, nn.Conv2d):
            module.requires_grad_(True)


for epochs, rate in zip(EPOCHS, (1e-3, 1e-4), strict=True):
    weights = [v for v in model.parameters() if v.requires_grad]
    print(sum(v.numel() for v in weights), "weights")
    optimizer = torch.optim.Adam(weights, rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=1
    )
    best, bad = float("inf"), 0
    for _ in range(epochs):
        model.eval()
        model.fc.train()
        total = 0.0
        for batch in torch.randperm(len(x_train)).split(32):
            logits = model((x_train[batch] - mean) / std)
            loss = F.cross_entropy(logits, y_train[batch])
            penalty = 1e-4 * model.fc[1].weight.square().sum()
            optimizer.zero_grad()
            (loss + penalty).backward()
            optimizer.step()
            total += loss.item() * len(batch)
        model.eval()
        with torch.inference_mode():
            logits = model((x_valid - mean) / std)
            valid_loss = F.cross_entropy(logits, y_valid).item()
        curves_in_torch["loss"].append(total / len(x_train))
        curves_in_torch["val_loss"].append(valid_loss)
        plateau.step(valid_loss)
        bad = 0 if valid_loss < best else bad + 1
        if valid_loss < best:
            best, kept = (
                valid_loss,
                {
                    name: value.clone()
                    for name, value in model.state_dict().items()
                },
            )
        if bad == 3:
            break
    model.load_state_dict(kept)
    last_block_of_torch(model)

# %% [markdown]
# The counts of weights don't agree, because **Keras' ResNet-50 isn't torchvision's**. Its convolutions have biases,
# though a batch norm follows. And where a block halves the image, Keras does it in the first 1 × 1 convolution, as the
# paper did ([He et al. 2016](https://arxiv.org/abs/1512.03385)), and torchvision in the 3 × 3 convolution ("version
# 1.5"). So weights can't be exchanged between the two, and their accuracies on ImageNet differ: 74.9 % for Keras'
# weights and 76.1 % for torchvision's first ones.
#
# Plot the curves, and say whether these networks overfit or underfit.

# %%
lines = {
    f"{name}, PyTorch": curves_in_torch[key]
    for key, name in (("loss", "training"), ("val_loss", "validation"))
}
if keras:
    lines |= {
        "training, Keras": curves_in_keras["loss"],
        "validation, Keras": curves_in_keras["val_loss"],
    }
cnnlab.plots.lines(
    list(range(1, sum(EPOCHS) + 1)),
    lines,
    xlabel="epoch",
    ylabel="cross-entropy",
    message="Training and validation loss stay above 1.1, the loss of guessing: on "
    "random frozen features, both networks underfit.",
)

# %% [markdown]
# ## A.9 A dictionary
#
# | what | cnnlab and PyTorch | Keras | chapter |
# |---|---|---|---|
# | centre the pixels in the model | `models.Normalize` | `keras.layers.Rescaling`, `keras.layers.Normalization` | 1, 9 |
# | mean over the image | `AdaptiveAvgPool2d(1)` | `keras.layers.GlobalAveragePooling2D` | 9 |
# | train, evaluate, predict | `Trainer.fit`, `.evaluate`, `.predict` | `keras.Model.fit`, `.evaluate`, `.predict` | 1 |
# | losses and metrics of the run | `History.frame` | `keras.callbacks.History` | 1 |
# | fix the seeds | `Trainer(seed=)`, `setup` | `keras.utils.set_random_seed` | 1 |
# | initialisation | `initialise` | `keras.initializers.HeNormal`, a layer's `kernel_initializer=` | 2 |
# | dropout with probability $p$ | `torch.nn.Dropout` | `keras.layers.Dropout` | 2 |
# | weight decay | `transfer.param_groups` | `keras.regularizers.L2`, half the value | 2 |
# | augment | `augment.Augment`, in the `Trainer` | `keras.layers.RandomFlip` and others, in the model or the data | 3 |
# | a policy | torchvision's `TrivialAugmentWide` | `keras.layers.RandAugment` | 3 |
# | mix | `mixing.MixUp`, `mixing.CutMix` | `keras.layers.MixUp`, `keras.layers.CutMix` | 4 |
# | label smoothing | `mixing.soft_cross_entropy` | `keras.losses.CategoricalCrossentropy`, one-hot labels | 4 |
# | a schedule | `schedules.cosine`, `schedules.attach` | `keras.optimizers.schedules.CosineDecay` | 5 |
# | one-cycle | `schedules.one_cycle` | none; section A.3 | 5 |
# | plateau | `schedules.Plateau` | `keras.callbacks.ReduceLROnPlateau` | 5 |
# | range test | `tune.lr_find` | none | 5 |
# | early stopping | `callbacks.EarlyStopping` | `keras.callbacks.EarlyStopping` | 6 |
# | checkpoints | `callbacks.Checkpoint` | `keras.callbacks.ModelCheckpoint`, `keras.callbacks.BackupAndRestore` | 6 |
# | moving average of weights | `averaging.EMA` | an optimizer's `use_ema=`, `keras.callbacks.SwapEMAWeights` | 6 |
# | clip by the norm of the whole gradient | `Trainer(clip_norm=)` | an optimizer's `global_clipnorm=` | 7 |
# | stop at NaN | `errors.NonFiniteError` | `keras.callbacks.TerminateOnNaN` | 7 |
# | search | `tune.random_search` | the package KerasTuner | 8 |
# | logs | `callbacks.CSVLog`, `callbacks.TensorBoardLog` | `keras.callbacks.CSVLogger`, `keras.callbacks.TensorBoard` | 8 |
# | a new head | `replace_head` | `keras.Model` up to the features, `keras.layers.Dense` behind it | 9 |
# | a pretrained network | `pretrained` | `keras.applications`, `include_top=False` | 9 |
# | prepare its pixels | `models.Normalize`, the transforms of torchvision's weights | the network's `preprocess_input` | 9 |
# | freeze | `transfer.freeze` | `keras.layers.Layer.trainable` before `compile` | 9 |
# | gradual unfreezing | `callbacks.GradualUnfreeze` | another `compile` for each phase | 10 |
# | layer-wise learning rates | `transfer.param_groups` | `MultiOptimizer`, in recent versions | 10 |
# | class weights | `data.class_weights` | `class_weight=` of `fit` | 11 |
# | draw classes equally often | `data.balanced_sampler` | a data set of your own: `keras.utils.PyDataset` | 11 |
# | gradient accumulation | `Trainer(microbatch=)` | an optimizer's `gradient_accumulation_steps=` | 12 |
# | mixed precision | `Trainer(precision=)` | `keras.mixed_precision.set_global_policy` | 12 |
#
# ## A.10 The differences that bite
#
# None of them raises an error.
#
# | what | Keras does | PyTorch or cnnlab does | so |
# |---|---|---|---|
# | axes | (N, H, W, C) | (N, C, H, W) | move them with `transpose`, never `reshape` |
# | padding with a stride | only at the bottom and on the right | on all sides | `ZeroPadding2D`, if weights are to be exchanged |
# | batch norm's `momentum` | fraction of the old kept, 0.99 | fraction of the new added, 0.1 | 0.9 in short runs |
# | batch norm's $\varepsilon$ | 0.001 | 0.00001 | set it |
# | initialisation | Xavier, uniform | its own uniform rule; `small_resnet`: He | `kernel_initializer="he_normal"` |
# | the loss takes | probabilities | logits | `from_logits=True`, and no softmax in the model (section 7.9) |
# | momentum when the learning rate changes | old steps go on at the old one | all scaled at once | expect differences under schedules |
# | Adam's $\varepsilon$ | 1e-7 | 1e-8 | set it |
# | `clipnorm=` | each weight tensor by itself | the gradient as a whole | `global_clipnorm=` |
# | milestones | the last step at the old learning rate | the first step at the new one | one less |
# | reported loss | with the penalty of L2 | without | add a metric |
# | class weights | divided by $N$; not in validation | divided by $\sum w$; in validation too | weights with mean 1 |
# | `validation_split` | the last images, before shuffling | `load` and `from_folder` split each class | shuffle first, or `validation_data=` |
# | a smaller last batch | is trained on | `loader` leaves it out when it shuffles | count steps with care |
# | frozen batch norm | evaluation mode | a bare PyTorch loop: statistics move | `transfer.train_mode` in your own loop |
# | early stopping | last weights by default | best weights | `restore_best_weights=True` |
# | `min_delta` | also for the best weights | only for the patience | leave it at 0 |
# | unfreezing layers of a frozen model | no effect | each parameter has its own flag | unfreeze the model, then freeze layers |
# | pixels of ResNet-50 | BGR minus a mean, from 0 to 255 | RGB, normalised | `preprocess_input` |
# | NaN in the first epoch | becomes the best | never improves | `TerminateOnNaN` |
# | plateau's patience | at the N-th | torch: after one more; cnnlab: at the N-th | - |
# | a second `fit` | counts from epoch 0, callbacks start anew | continues; `epochs` is the total | `initial_epoch=` |
# | `keras.json` in `~/.keras` | is read, and written, at import | - | `KERAS_HOME`, `KERAS_BACKEND` |
#
# ## Key points
#
# - With the same weights, batches and settings, the two give the same curve. Where they don't, a default differs.
# - Set three things in every Keras run: `from_logits=True`, `restore_best_weights=True`, and a validation set of your
#   own.
# - Freeze before you compile, and compile again after every unfreezing. To unfreeze some layers, unfreeze the whole
#   backbone and freeze the others.
# - A ready-made network brings its own preprocessing, and in Keras that of ResNet-50 is BGR.
# - Before you compare two frameworks, compare their logits on one batch.
#
# ## References
#
# - K. He, X. Zhang, S. Ren and J. Sun, *Deep residual learning for image recognition*, 2016,
#   [arXiv:1512.03385](https://arxiv.org/abs/1512.03385)
# - The Keras team, *Transfer learning and fine-tuning*,
#   [keras.io/guides/transfer_learning](https://keras.io/guides/transfer_learning/)
# - The Keras team, *Keras 3 API documentation*, [keras.io/api](https://keras.io/api/)
