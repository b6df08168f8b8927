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
# **Questions.** How does what you learnt look in Keras? What has another name there, what another default, and what
# the same name and another meaning? Which of these differences raise no error?
#
# **Afterwards you can** carry a network and its weights from PyTorch to Keras and back, freeze, weigh, stop and
# schedule in either, and name the defaults to set when two frameworks are to give the same numbers.
#
# | | |
# |---|---|
# | to read | 25 minutes |
# | to run | 55 seconds on one core of a laptop; no internet, no GPU |
# | you need | chapters 1, 2, 5 and 6; for A.4 and A.5 chapters 9 to 11; Keras: `pip install "cnnlab[keras]"` |
#
# Keras 3 builds networks for several backends. Here it uses PyTorch, so the same library does the sums on both sides,
# and what differs is Keras' doing. The backend is chosen once, by a variable that Keras reads when it is imported.
# Without Keras this page still runs: the cells that need it do nothing.

# %% tags=["setup"]
import os
import tempfile

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

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
# Here is `small_resnet` in Keras' functional style: layers are called on what stands for a tensor, and a `Model` is
# what lies between an input and an output. Read it beside `SmallResNet` in the library. Four things in it are there
# only because Keras would do otherwise:
#
# - **The order of axes.** Keras expects (N, H, W, C), PyTorch (N, C, H, W).
# - **Padding.** With stride 2, `padding="same"` adds a row and a column at the bottom right alone; PyTorch's
#   `padding=1` adds one at each side. So the padding is a layer of its own here.
# - **Batch norm's $\varepsilon$** is 0.001 in Keras and 0.00001 in PyTorch.
# - **Batch norm's `momentum`** is the share of the *old* statistics in Keras, 0.99, and the share of the *new* ones
#   in PyTorch, 0.1. Chapter 2 writes $r \leftarrow 0.9\,r + 0.1\,\mu$; in Keras that is `momentum=0.9`.
#
# Keras also fills fresh weights by another rule, Xavier's with uniform numbers. With weights that are copied it plays
# no part.

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


def keras_arrays(part):
    """The images (N, H, W, C) and the labels of a part, for Keras."""
    images, labels = next(iter(cnnlab.loader(part, len(part))))
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
# The same weights must give the same logits. A few steps first, so that the running statistics are no longer 0 and 1.
# Then the network is copied four times: once as it should be, and three times with a Keras default left in place.

# %%
if keras:
    trainer = trainer_for(torch_resnet())
    trainer.fit(train, epochs=1)
    logits = trainer.predict(valid).numpy()
    images, labels = keras_arrays(data.valid)

    def off_by(twin, images=images):
        """The largest difference of a logit."""
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
# None of the three raises an error. The last one is the worst: `reshape` gives the axes the sizes that are asked for
# and mixes pixels with colours. Axes are moved by `permute` or `transpose`.
#
# **Pooling.** `GlobalAveragePooling2D` is the mean over the picture, PyTorch's `AdaptiveAvgPool2d(1)`. Behind it
# stand as many numbers as there are channels, whatever the size of the picture, so both networks take larger ones.
# With `Flatten` in its place the head would fit one size alone.

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
    print("the same logits for pictures of 32, 48 and 80 pixels")

# %% [markdown]
# ## A.2 The same training
#
# `compile` says what `Trainer(...)` says, `fit` is `fit`. Two things to write out: the loss must be told that it gets
# logits (`from_logits=True`; by default it takes them for probabilities, and no error is raised), and `shuffle=False`
# here, so that both sides see the same batches.


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
# The same curve. From step to step rounding errors grow, so do not expect the last digits of a long run to agree. And
# one thing here is not quite equal: PyTorch divides the running variance by $N - 1$, Keras by $N$.
#
# ### Predict
#
# Leave batch norm's `momentum` at Keras' default of 0.99, that is, let each batch move the running statistics by a
# hundredth. Train four epochs of fifteen steps. By how much does the validation accuracy fall behind that with 0.9?
# (A number such as 0.05; negative if it is ahead.)

# %% tags=["predict"]
my_loss_by_momentum = ...

# %% tags=["experiment"]
if keras:
    keras_runs = {}

    def keras_accuracy(seed, momentum):
        """Four epochs with Keras' own fresh weights and its own order."""
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
# After sixty steps $0.99^{60}$ of the statistics, more than a half, are still the 0 and 1 they began with. The
# *weights* of the two runs of a seed do not differ at all, since training mode never uses the running statistics:
# nothing was learnt worse, it is only measured with the wrong numbers.

# %%
if keras:
    two = [keras_runs[0, momentum] for momentum in (0.9, 0.99)]
    trained = [[v.numpy() for v in m.trainable_weights] for m in two]
    assert all(np.array_equal(a, b) for a, b in zip(*trained, strict=True))
    print(f"{len(trained[0])} trained tensors, equal to the last bit")

# %% [markdown]
# **What would change it.** Time: after five hundred steps $0.99^{500}$ is less than a hundredth, and in runs of that
# length 0.99 averages over more batches and is the calmer choice. Short runs, small data sets and fresh heads on
# unfrozen bodies are where it bites.
#
# ## A.3 Rates and schedules
#
# A Keras schedule is an object that turns the step into *the rate*, not into a multiplier, and is given to the
# optimizer as its rate. The numbers are the same:

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
# Look at the milestones: Keras' 59 and 79 are our 60 and 80. A boundary of Keras is the *last* step of the old rate,
# one of ours the first step of the new.
#
# One-cycle is not among Keras' schedules. A class of five lines makes one of any function of the step:

# %%
if keras:

    class FromFunction(keras.optimizers.schedules.LearningRateSchedule):
        """The rate times one of `cnnlab.schedules`."""

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
# The callback `LearningRateScheduler`, which many examples use, acts once an *epoch*: a staircase (section 5.3). And
# **`ReduceLROnPlateau` cannot change a rate that a schedule decides**. Keras says so with an error; `Trainer` refuses
# the pair as well.

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
# A last difference is hidden in SGD's momentum. With the gradient $g$, momentum $m$ and rate $\eta$,
#
# $$ \text{PyTorch:} \quad v \leftarrow m v + g, \;\; w \leftarrow w - \eta v; \qquad
# \text{Keras:} \quad v \leftarrow m v - \eta g, \;\; w \leftarrow w + v. $$
#
# With a constant rate both walk the same way. When the rate falls, PyTorch scales the whole memory down at once,
# while in Keras the old steps coast on at the old rate. By hand, with the gradient 1, $m = 0.9$, and a rate that
# falls from 1 to 0.1: PyTorch moves by $1$ and then by $0.1 \cdot 1.9$, Keras by $1$ and then by $0.9 + 0.1$.

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
# ## A.4 A new head on a frozen body
#
# Chapter 9 replaces the head and freezes the rest. In Keras you cut the model at the features, set `trainable` to
# `False`, and put new layers behind it. Do it *before* `compile`: only then does Keras promise an effect.
#
# In both, **a frozen batch norm works in evaluation mode while the rest trains**: it uses its running statistics and
# leaves them alone. In Keras `trainable = False` means just that, for batch norm only; cnnlab's `Trainer` goes by the
# same rule. A bare PyTorch loop does not. There `requires_grad` stops the weights, and `model.train()` sets the
# statistics moving. Train all three for an epoch on ten digits, and see what of the body changed.

# %%
digits = cnnlab.load("digits").subset(per_class=10)
digit_batches = cnnlab.loader(digits.train, 20)


def moved(before, after):
    """The names of the tensors that are not what they were."""
    return [k for k, v in before.items() if not np.array_equal(v, after[k])]


def torch_body(model):
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
before = torch_body(model)
trainer_for(model).fit(digit_batches, epochs=1)
report = {"cnnlab": moved(before, torch_body(model))}

model = frozen_torch()
optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
model.train()
for images, labels in digit_batches:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
report["PyTorch, model.train()"] = moved(before, torch_body(model))

if keras:
    twin = keras_resnet(12)
    copy_weights(torch_resnet(), twin)
    body = keras.Model(twin.input, twin.get_layer("features").output)
    body.trainable = False
    pieces = [body, keras.layers.Dropout(0.5), keras.layers.Dense(10)]
    transferred = keras_compiled(keras.Sequential(pieces))

    def keras_body():
        return {v.path: v.numpy().copy() for v in body.weights}

    before = keras_body()
    transferred.fit(
        *keras_arrays(digits.train), batch_size=20, shuffle=False, verbose=0
    )
    report["Keras"] = moved(before, keras_body())
    assert len(transferred.trainable_weights) == 2  # of the head

for name, changed in report.items():
    print(f"{name:<24}{len(changed):2} tensors of the body moved")
assert not report["cnnlab"]
assert not report.get("Keras")
assert {name.split(".")[-1] for name in report["PyTorch, model.train()"]} == {
    "running_mean",
    "running_var",
}

# %% [markdown]
# And the other way round: when you unfreeze, Keras must be told by a second `compile`. Its optimizer has been built
# for the weights that were trainable then, and it refuses others. The new one begins without momenta; cnnlab's
# optimizer holds all parameters from the start, so that unfreezing is no break (chapter 10).

# %%
if keras:
    body.trainable = False
    keras_compiled(transferred)
    transferred.optimizer.build(transferred.trainable_variables)
    digits_for_keras = keras_arrays(digits.train)

    body.trainable = True
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
# Rates that differ from layer to layer (chapter 10): an optimizer of Keras has one rate for all weights. Recent
# versions can hold several optimizers, each for the weights whose names match a pattern (`MultiOptimizer`). What
# always works are phases: the head, then the top block, then everything, each with its own `compile` and a smaller
# rate.
#
# ## A.5 Weight decay and class weights
#
# **Weight decay.** A regulariser $c \lVert w \rVert^2$ in Keras adds $2 c w$ to the gradient. Chapter 2's
# $\tfrac{\lambda}{2} \lVert w \rVert^2$ adds $\lambda w$. So **`L2(c)` is `weight_decay=2 * c`** of
# `torch.optim.SGD`, and it is given layer by layer: here to convolutions and the linear layer, not to norms and
# biases.

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
    print("after an epoch the weights agree, and the losses that are told:")
    print(f"cnnlab {loss:.3f}, Keras {history.history['loss'][0]:.3f}")
    assert history.history["loss"][0] > loss + 0.1

# %% [markdown]
# The weights are the same; the *reported* losses are not. Keras adds the penalty to `loss` and to `val_loss`, so a
# falling `val_loss` may be nothing but shrinking weights. To judge a fit, add a metric without it, such as
# `SparseCategoricalCrossentropy`. The other way in Keras, `SGD(weight_decay=...)`, is the decay of AdamW, apart from
# the gradient, and it takes biases and norms along unless you call `exclude_from_weight_decay`.
#
# **Class weights.** `fit(class_weight={0: w_0, ...})` multiplies the loss of each image by the weight of its class
# and divides by the *number* of images; chapters 4 and 11 divide by the *sum of the weights*,
#
# $$ \text{Keras:} \quad \frac{1}{N} \sum_i w_{y_i} \ell_i, \qquad
# \text{cnnlab, } \texttt{F.cross\_entropy}: \quad \frac{\sum_i w_{y_i} \ell_i}{\sum_i w_{y_i}} . $$
#
# Six images of three classes. The network is the identity and its rate 0, so that the loss is that of the logits
# below.

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
# With weights whose mean over the *images* is 1, as `cnnlab.data.class_weights` makes them, the two agree over the
# whole training part. With others Keras changes the size of the gradient, and so the rate. Within a batch they differ
# even then: a batch with a rare image counts for more in Keras. And **`val_loss` knows nothing of class weights** in
# Keras, while `Trainer` validates with the loss it trains with. Accuracies are unweighted in both.
#
# The loss of an epoch is a mean over images in both, right also when the last batch is shorter. (In the cell above it
# was.)
#
# ## A.6 Callbacks
#
# **Early stopping.** Feed both with the same numbers by hand and compare where they stop and which weights they
# leave, as indices counted from 0. To Keras the epochs are told by a single weight.


# %%
def keras_replay(values, **options):
    """What `replay` says, for Keras: (where it stops, what is left)."""
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
# The *counting* is the same: `patience` epochs in a row without improvement. The differences:
#
# - **Restoring is off by default.** `restore_best_weights=False` leaves you the last weights. Switch it on.
# - **`min_delta` also decides which weights are best.** The epoch with 0.62 was not better by 0.05, so Keras does not
#   keep it.
# - **NaN in the first epoch becomes the best value**, nothing ever beats it, and the weights of that epoch are
#   restored. Add `keras.callbacks.TerminateOnNaN`.
# - **`mode="auto"`**, the default, asks the metric for its direction. For a metric of your own it cannot know it and
#   raises an error; older versions took such a metric for something to be minimised. Always say it.
#
# **Plateau.** Keras, like `schedules.Plateau`, acts *at* the `patience`-th epoch without improvement; torch's own
# scheduler waits for one more. Keras' `min_delta` is 0.0001 unless you say 0.

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
# **Checkpoints.** `ModelCheckpoint` writes the model with its optimizer. By default it overwrites one file after
# every epoch, best or not; `save_best_only=True` keeps the best. What it does not write is the rest of the run: the
# number of the epoch, what callbacks remember, the state of random generators. A `fit` that goes on begins to count
# at `initial_epoch`, which you give, and early stopping begins anew. So a resumed Keras run is not the run that was
# never stopped (section 6.3).

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
    print(f"the optimizer was loaded at step {steps}, the epoch is not known")

# %% [markdown]
# ## A.7 Where the validation images come from
#
# ### Predict
#
# `fit(..., validation_split=0.25)` keeps a quarter of the images for validation. The 480 images lie sorted by class,
# and `shuffle=True` is the default. How many of the twelve classes will training never see?

# %% tags=["predict"]
my_unseen_classes = ...

# %% tags=["experiment"]
if keras:

    class Seen(keras.layers.Layer):
        """Hands on what it gets, and notes it in training."""

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
# **The last quarter is cut off first, and only the rest is shuffled.** Three classes are in the validation part
# alone, and the network has no chance to learn them. Shuffle the arrays yourself, or better, split each class in
# proportion and pass `validation_data`, as `cnnlab.load` and `from_folder` do for you.

# %% [markdown]
# ## A.8 A dictionary
#
# | what | cnnlab and PyTorch | Keras | chapter |
# |---|---|---|---|
# | centre the pixels in the model | `models.Normalize` | `keras.layers.Rescaling`, `keras.layers.Normalization` | 1, 9 |
# | mean over the picture | `AdaptiveAvgPool2d(1)` | `keras.layers.GlobalAveragePooling2D` | 9 |
# | train, measure, ask | `Trainer.fit`, `.evaluate`, `.predict` | `keras.Model.fit`, `.evaluate`, `.predict` | 1 |
# | what was measured | `History.frame` | `keras.callbacks.History` | 1 |
# | fix the seeds | `Trainer(seed=)`, `setup` | `keras.utils.set_random_seed` | 1 |
# | fresh weights | `initialise` | `keras.initializers.HeNormal`, a layer's `kernel_initializer=` | 2 |
# | dropout with the share $p$ dropped | `torch.nn.Dropout` | `keras.layers.Dropout` | 2 |
# | weight decay | `transfer.param_groups` | `keras.regularizers.L2`, half the number | 2 |
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
# | freeze | `transfer.freeze` | `keras.layers.Layer.trainable` before `compile` | 9 |
# | unfreeze step by step | `callbacks.GradualUnfreeze` | another `compile` for each phase | 10 |
# | rates layer by layer | `transfer.param_groups` | `MultiOptimizer`, in recent versions | 10 |
# | class weights | `data.class_weights` | `class_weight=` of `fit` | 11 |
# | draw classes equally often | `data.balanced_sampler` | a data set of your own: `keras.utils.PyDataset` | 11 |
# | large batch in parts | `Trainer(microbatch=)` | an optimizer's `gradient_accumulation_steps=` | 12 |
# | sixteen bits | `Trainer(precision=)` | `keras.mixed_precision.set_global_policy` | 12 |
#
# ## A.9 The differences that bite
#
# None of them raises an error.
#
# | what | Keras does | PyTorch or cnnlab does | so |
# |---|---|---|---|
# | axes | (N, H, W, C) | (N, C, H, W) | move them with `transpose`, never `reshape` |
# | padding with a stride | at the bottom right alone | on both sides | `ZeroPadding2D`, if weights are to be exchanged |
# | batch norm's `momentum` | share of the old, 0.99 | share of the new, 0.1 | 0.9 in short runs |
# | batch norm's $\varepsilon$ | 0.001 | 0.00001 | set it |
# | fresh weights | Xavier, uniform | its own uniform rule; `small_resnet`: He | `kernel_initializer="he_normal"` |
# | the loss takes | probabilities | logits | `from_logits=True`, and no softmax in the model (section 7.5) |
# | momentum when the rate changes | old steps coast on | all scaled at once | expect differences under schedules |
# | Adam's $\varepsilon$ | 1e-7 | 1e-8 | set it |
# | `clipnorm=` | each weight tensor by itself | the gradient as a whole | `global_clipnorm=` |
# | milestones | the last step of the old rate | the first step of the new one | one less |
# | reported loss | with the weight penalty | without | add a metric |
# | class weights | divided by $N$; not in validation | divided by $\sum w$; in validation too | weights with mean 1 |
# | `validation_split` | the last part, before shuffling | `load` and `from_folder` split each class | shuffle first, or `validation_data=` |
# | last short batch of an epoch | is trained on | `loader` leaves it out when it shuffles | count steps with care |
# | frozen batch norm | evaluation mode | a bare PyTorch loop: statistics move | `transfer.train_mode` in your own loop |
# | early stopping | last weights, unless told | best weights | `restore_best_weights=True` |
# | `min_delta` | also for the best weights | for the patience alone | leave it at 0, or know it |
# | NaN in the first epoch | is the best ever | never improves | `TerminateOnNaN` |
# | plateau's patience | at the N-th | torch: after one more; cnnlab: at the N-th | - |
# | a second `fit` | counts from epoch 0, callbacks forget | goes on; `epochs` is the total | `initial_epoch=` |
# | `keras.json` in `~/.keras` | is read, and written, at import | - | `KERAS_HOME`, `KERAS_BACKEND` |
#
# ## Key points
#
# - With the same weights, batches and settings the two give the same curve. Where they do not, a default is at work.
# - Three defaults to change at once: `from_logits=True`, `restore_best_weights=True`, a validation part of your own.
# - Freeze first, compile after, and compile again after every unfreezing.
# - Before you compare two frameworks, compare their logits on one batch.
#
# ## References
#
# - The Keras team, *Transfer learning and fine-tuning*,
#   [keras.io/guides/transfer_learning](https://keras.io/guides/transfer_learning/)
# - The Keras team, *Keras 3 API documentation*, [keras.io/api](https://keras.io/api/)
