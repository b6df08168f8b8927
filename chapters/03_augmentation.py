# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Data augmentation
#
# **Questions.** How do you show a network more images than you have? Which changes may you make to an image, and
# which of them change its label? Against what does augmentation help? In which order do transforms come, how strong
# should they be, and when?
#
# **Afterwards you can** choose transforms from what you know about the task, write the same pipeline with three
# libraries, name the mistakes that leave no error message, and say what an augmentation was worth, and against what.
#
# | | |
# |---|---|
# | to read | 35 minutes |
# | to run | 65 seconds on one core of a laptop; no network, no GPU |
# | you need | chapter 1 |

# %% tags=["setup"]
import os
from importlib.util import find_spec

import torch
from torchvision.transforms import v2

import cnnlab
from cnnlab import check, widgets
from cnnlab.augment import Augment, Params, ramp
from cnnlab.augment.geometry import Affine
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    compare_declared,
    fresh_data,
)
from cnnlab.plots import heatmap, image_grid, lines

lab = cnnlab.setup(seed=0)

# %% [markdown]
# ## 3.1 What may change, and what must not
#
# A sign stays a stop sign when the light changes, when the camera is held askew, when a twig hides a corner. Whoever
# made the training images has photographed only some of these cases. **Data augmentation** makes others from them:
# each time an image is used, a random transform $t$ is drawn and applied, and the label is kept. What you minimise
# becomes
#
# $$ L(w) = \frac{1}{N} \sum_{i=1}^{N} \mathbb{E}_{t \sim T} \, \ell\big(f(t(x_i); w), \, y_i\big), $$
#
# a mean over the images *and* over the transforms ([Simard et al. 2003](https://doi.org/10.1109/ICDAR.2003.1227801);
# [Chen et al. 2020](https://arxiv.org/abs/1907.10905) work out what such an average does). One draw for each image
# and epoch is an estimate of the mean, just as a batch is an estimate of the whole set.
#
# All rests on one assumption: the label does not depend on $t$,
#
# $$ p(y \mid t(x)) = p(y \mid x) \quad \text{for all } t \in T. $$
#
# Such a $t$ is called **label-preserving**, and the set of them the **invariances of the task**. They belong to the
# task, not to the library: you write down what you know about the world. Only training images are augmented.
# Validation and test images stay as they came, because they stand for the world.

# %%
data = cnnlab.load("pocket", level="easy", n_train=480, n_valid=12, n_test=12)
pixels = data.train.pixels(torch.arange(8))  # uint8 (8, 3, 32, 32)
images = pixels / 255  # float in [0, 1]

TECHNIQUES = {
    "as it is": Augment(),
    "rotation": Augment(rotate=35),
    "translation": Augment(translate=0.25),
    "zoom": Augment(scale=(0.5, 1.3)),
    "shear": Augment(shear=25),
    "resized crop": Augment(resized_crop=(0.7, 1.0)),
    "flip": Augment(flip=1.0),
    "vertical flip": Augment(vflip=1.0),
    "brightness": Augment(brightness=0.6),
    "contrast": Augment(contrast=0.8),
    "saturation": Augment(saturation=1.0),
    "hue": Augment(hue=0.3),
    "blur": Augment(blur=2.0),
    "noise": Augment(noise=0.25),
    "erasing": Augment(erase=1.0),
}
DRAWS = 2


def gallery(image, techniques):
    """Draw each technique a few times on one image (3, H, W)."""
    torch.manual_seed(1)
    copies = image.expand(DRAWS, -1, -1, -1)
    made = [augment(copies) for augment in techniques.values()]
    titles = [name for name in techniques for _ in range(DRAWS)]
    return image_grid(
        torch.cat(made),
        titles,
        columns=5 * DRAWS,
        alt="One image under each technique",
        message="Each technique changes the sign in its own way.",
    )


gallery(images[5], TECHNIQUES)

# %% [markdown]
# There are three families.
#
# **Moving pixels.** Rotation, translation, zoom and shear together are one **affine map** about the centre of the
# image,
#
# $$ \begin{pmatrix} x' \\ y' \end{pmatrix} = s \begin{pmatrix} \cos\theta & -\sin\theta \\ \sin\theta & \cos\theta \end{pmatrix}
# \begin{pmatrix} 1 & -\tan\varphi \\ 0 & 1 \end{pmatrix} \begin{pmatrix} x \\ y \end{pmatrix} +
# \begin{pmatrix} t_x \\ t_y \end{pmatrix}, $$
#
# with $x$ to the right and $y$ down. It is applied backwards: for every pixel of the result you look where it came
# from, and what came from outside is black. A place between pixels is read from the nearest one, or by bilinear
# interpolation, which blurs a little. A **random resized crop** cuts out a window with 70 to 100 % of the area, with
# sides in a ratio of 3 : 4 to 4 : 3, and stretches it to the old size ([Szegedy et al.
# 2015](https://arxiv.org/abs/1409.4842); on ImageNet one goes down to 8 %, because there the object often fills a
# small part). A **flip** mirrors, left to right or top to bottom.
#
# **Changing values.** **Colour jitter** is scale × pixel + shift, cut off at 0 and 1: **brightness** scales with $b$
# and shifts by nothing, **contrast** scales with $c$ and shifts by $(1 - c)\,m$, where $m$ is the mean grey of the
# image, **saturation** is the same with the grey of the pixel itself. **Hue** turns the circle of colours. **Blur**
# averages over neighbours with Gaussian weights, **noise** adds a random number to every value.
#
# **Taking away.** **Random erasing** ([Zhong et al. 2017](https://arxiv.org/abs/1708.04896); [DeVries & Taylor
# 2017](https://arxiv.org/abs/1708.04552) call it cutout) blackens a rectangle, so that no single part of the sign can
# be relied on.
#
# Two of these formulas on numbers, and a quarter turn:

# %%
row = torch.tensor([0.2, 0.4, 0.6, 0.8]).view(1, 1, 1, 4)  # mean 0.5
brighter = Augment().apply(row, Params(brightness=torch.tensor([1.5])))
flatter = Augment().apply(row, Params(contrast=torch.tensor([0.5])))
torch.testing.assert_close(brighter, (1.5 * row).clamp(0, 1))
torch.testing.assert_close(flatter, 0.5 * row + (1 - 0.5) * 0.5)

quarter = Affine(*torch.tensor([[90.0], [0.0], [1.0], [0.0], [0.0]]))
turned = Augment().apply(images[:1], Params(affine=quarter))
torch.testing.assert_close(turned, images[:1].rot90(-1, (2, 3)))

print("brightness 1.5:", [round(v, 2) for v in brighter.flatten().tolist()])
print("contrast 0.5:  ", [round(v, 2) for v in flatter.flatten().tolist()])

# %% [markdown]
# The brightest pixel was cut off at 1: it cannot come back. The contrast of one half moved every pixel halfway to the
# mean.
#
# Turn the knobs yourself. Ask of each setting: would you still give these pictures the same labels?

# %% tags=["widget"]
widgets.augmentation(images)

# %% [markdown]
# ## 3.2 One pipeline, three libraries
#
# A slight turn, shift and zoom, other light, sometimes a hole. In **torchvision** (the transforms "v2") you compose a
# pipeline that takes *one* image; a data set calls it for each image it hands out, in the processes that load the
# data.

# %%
for_one_image = v2.Compose(
    [
        v2.RandomAffine(15, translate=(0.1, 0.1), scale=(0.8, 1.1)),
        v2.ColorJitter(brightness=0.4, contrast=0.3),
        v2.ToDtype(torch.float32, scale=True),  # 0 .. 255 -> 0 .. 1
        v2.RandomErasing(p=0.3),
    ]
)

torch.manual_seed(0)
by_torchvision = torch.stack([for_one_image(image) for image in pixels])

# %% [markdown]
# `cnnlab.augment.Augment` takes the whole batch, (N, C, H, W), where the network is, and draws *parameters for each
# image*. That is faster for small images, needs no worker processes, and works on a GPU. Give it to the `Trainer` as
# `batch_transform`.

# %%
for_a_batch = Augment(
    rotate=15,
    translate=0.1,
    scale=(0.8, 1.1),
    brightness=0.4,
    contrast=0.3,
    erase=0.3,
)

torch.manual_seed(0)
by_augment = for_a_batch(images)

image_grid(
    torch.cat([images, by_torchvision, by_augment]),
    ["as they are"] * 8 + ["torchvision"] * 8 + ["Augment"] * 8,
    alt="Eight signs in each row",
    message="Augment and torchvision make the same kinds of changes.",
)

# %% [markdown]
# The third library is **albumentations** ([Buslaev et al. 2020](https://doi.org/10.3390/info11020125)). It works on
# NumPy arrays of shape (H, W, C) and is much used where boxes and masks must move with the image. It is not part of
# this course's installation: the next cell uses it where it is there.

# %%
if find_spec("albumentations"):
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # asks no server
    import albumentations as A

    for_one_array = A.Compose(
        [
            A.Affine(
                rotate=(-15, 15),
                translate_percent=(-0.1, 0.1),
                scale=(0.8, 1.1),
                p=1.0,
            ),
            A.ColorJitter(
                brightness=(0.6, 1.4),
                contrast=(0.7, 1.3),
                saturation=(1, 1),
                hue=(0, 0),
                p=1.0,
            ),
        ]
    )
    arrays = [image.permute(1, 2, 0).numpy() for image in pixels]
    made = [for_one_array(image=array)["image"] for array in arrays]
    by_albumentations = torch.stack(
        [torch.from_numpy(array).permute(2, 0, 1) for array in made]
    )
    shown = image_grid(
        by_albumentations,
        ["albumentations"] * 8,
        alt="Eight signs",
        message="The library albumentations makes the same kinds of changes.",
    )
else:
    shown = None
    print("albumentations is not installed, so this section is left out.")
shown

# %% [markdown]
# ### A trap without an error message
#
# torchvision's transforms also *accept* a batch. Then they take it for one thing, say the frames of a film, and draw
# **one set of parameters for all of it**:

# %%
flip_half = v2.RandomHorizontalFlip(p=0.5)
torch.manual_seed(0)
counts = [
    int((flip_half(images) != images).flatten(1).any(dim=1).sum())
    for _ in range(10)
]
print("images mirrored, of 8, in ten calls:", counts)
assert set(counts) == {0, 8}

torch.manual_seed(0)
all_alike = v2.ColorJitter(brightness=0.8)(images)
each_its_own = Augment(brightness=0.8)(images)
image_grid(
    torch.cat([all_alike, each_its_own]),
    ["one per batch"] * 8 + ["one per image"] * 8,
    alt="Eight signs in each row",
    message="With one draw per batch, all images get the same brightness.",
)

# %% [markdown]
# Over many batches the *distribution* of the factors is the same. Does it matter then? For brightness there is a
# reason why it does. Batch norm (chapter 2) divides by the spread over the batch. A factor that all images share is
# divided out again in the very first layer; a factor of its own for each image is not:

# %%
torch.manual_seed(0)
stem = cnnlab.small_resnet(num_classes=12).stem.train()
shared = torch.full((8, 1, 1, 1), 0.5)
own = torch.linspace(0.3, 1, 8).view(8, 1, 1, 1)
with torch.no_grad():
    plain, dimmed, mixed = (
        stem(factor * images) for factor in (1, shared, own)
    )
changed_by_shared = (dimmed - plain).abs().mean().item()
changed_by_own = (mixed - plain).abs().mean().item()
print(
    f"one factor for the batch changes the output by {changed_by_shared:.4f}"
)
print(f"a factor for each image changes it by {changed_by_own:.4f}")
assert changed_by_own > 20 * changed_by_shared

# %% [markdown]
# ### Predict
#
# You train twice with colour jitter, drawing its parameters per image in one run and per batch in the other, and test
# under unusual lighting. Is one draw per batch `"as good"` or `"worse"`?

# %% tags=["predict"]
my_one_draw_per_batch = ...

# %% [markdown]
# The answer comes from the stored study of this chapter, `studies/03_shifts.py`: eight seeds, twenty epochs, and more
# variants than fit on this page. Each seed draws its own signs. The study declared six claims before it ran, and you'll
# meet them one by one.

# %%
stored = Results.load("studies/03_shifts.csv")


def under(shift, results=stored):
    """Return the same runs, judged by their accuracy under one shift."""
    return results.on(f"{shift} accuracy")


def tell(shift, a, b="none"):
    """Print the difference of two variants in the accuracy under a shift."""
    print(f"{shift} accuracy, {a} - {b}: {under(shift).difference(a, b)}")


light = under("light")
light.table().loc[["none", "light, one draw per batch", "light"]].round(3)

# %% tags=["claim"]
print(light.claim("light", ">", "light, one draw per batch", by=0.05))
tell("light", "light, one draw per batch")

# %% [markdown]
# Drawn per batch, the jitter keeps about a quarter of its benefit: 5 points instead of 19. What is left is probably the
# part that batch norm can't divide out, because contrast, saturation and hue aren't common factors.

# %% [markdown]
# ## 3.3 Each augmentation against its own shift
#
# Suppose that your training images were taken on an even day with a straight camera: PocketSigns at level `easy`. In
# use the world is otherwise. PocketSigns can show *the same* signs with a single **nuisance** changed, so the
# difference in accuracy is due to that alone; such a change between training and use is called a **shift**
# ([Hendrycks & Dietterich 2019](https://arxiv.org/abs/1903.12261) measure it on ImageNet).

# %%
SHIFTS = {
    "clean": {},
    "rotation": {"rotation": 35},
    "zoom and shift": {"scale": (0.5, 0.9), "shift": 0.35},
    "light": {"gain": (0.25, 1.6), "cast": 0.2, "gradient": 0.5},
    "blur": {"blur": (0.9, 1.6)},
    "noise": {"noise": (0.08, 0.15)},
    "occlusion": {"occlusion": 1.0},
    "all": {"level": "wild"},
}


def changed_signs(shift, seed, n=960):
    """Return test images that differ from the easy ones in one nuisance."""
    settings = {"level": "easy"} | SHIFTS[shift]
    return cnnlab.load(
        "pocket", seed=seed, n_train=12, n_valid=12, n_test=n, **settings
    ).test


seen = [changed_signs(name, seed=0, n=4) for name in SHIFTS]
image_grid(
    torch.cat([signs.images for signs in seen]),
    [name for name in SHIFTS for _ in range(4)],
    alt="Four signs under each shift",
    message="Each shift changes one property of the signs; the last one "
    "changes all.",
)

# %% [markdown]
# For each shift there is an augmentation made to match it. Its ranges are about as wide as those of the shift, because
# this is the case in which you know what awaits you. The strengths were chosen beforehand, with seeds 100 and 101 and
# shifted *validation* images. Here you train with the seeds 0 to 4, each with its own signs, and evaluate on the *test*
# set, with its other fonts and backgrounds.
#
# ### Predict
#
# Four networks: trained without augmentation, with colour jitter, with zoom and shift, with a horizontal flip. Which
# is best under strange light (`"none"`, `"light"`, `"zoom and shift"` or `"flip"`)? And by how much does the flip
# change the accuracy on *clean* signs: write a difference such as 0.05 or -0.05.

# %% tags=["predict"]
my_best_in_strange_light = ...
my_change_by_the_flip = ...


# %% tags=["experiment"]
def evaluated(seed, batch_transform=None, *, epochs=6):
    """Train on easy signs; return accuracies on three kinds of test signs."""
    signs = cnnlab.load(
        "pocket", seed=seed, level="easy", n_train=480, n_valid=12, n_test=12
    )
    train = cnnlab.loader(signs.train, 32, shuffle=True, seed=seed)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(num_classes=12)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
    )
    schedule = cnnlab.schedules.one_cycle(epochs * len(train))
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, schedule),
        batch_transform=batch_transform,
        seed=seed,
        device="cpu",
        progress=False,
    )
    trainer.fit(train, epochs=epochs)
    result = {}
    for shift in ("clean", "zoom and shift", "light"):
        test = changed_signs(shift, seed)
        predictions = trainer.predict(cnnlab.loader(test, 256)).argmax(dim=1)
        correct = (predictions == test.labels).float()
        result[shift] = correct.mean().item()
        if shift == "clean":
            for k, name in enumerate(test.classes):
                result[name] = correct[test.labels == k].mean().item()
    arrows = [v for name, v in result.items() if name.startswith("keep")]
    result["keep left or right"] = sum(arrows) / len(arrows)
    return {f"{name} accuracy": value for name, value in result.items()}


AUGMENTS = {
    "none": None,
    "zoom and shift": Augment(scale=(0.55, 1.0), translate=0.15),
    "light": Augment(brightness=0.6, contrast=0.4, saturation=0.4, hue=0.05),
    "flip": Augment(flip=0.5),
}

live = compare_declared(
    Declaration(
        "Does an augmentation help against the shift that it resembles?",
        claims=[
            Claim("light", ">", "none", metric="light accuracy"),
            Claim(
                "zoom and shift",
                ">",
                "none",
                metric="zoom and shift accuracy",
            ),
            Claim("none", ">", "flip"),
            Claim(
                "none",
                ">",
                "flip",
                by=0.2,
                metric="keep left or right accuracy",
            ),
        ],
        unit=fresh_data(),
    ),
    {
        name: lambda seed, augment=augment: evaluated(seed, augment)
        for name, augment in AUGMENTS.items()
    },
    seeds=5,
    metric="clean accuracy",
)


def matrix(results, rows, columns, message):
    """Draw mean accuracies in percent, with one row per augmentation."""
    means = results.frame().groupby("variant").mean()
    return heatmap(
        100 * means.loc[rows, [f"{name} accuracy" for name in columns]],
        rows,
        columns,
        label="test accuracy (%)",
        xlabel="test images",
        ylabel="training augmentation",
        message=message,
    )


matrix(
    live,
    list(AUGMENTS),
    ["clean", "zoom and shift", "light"],
    "An augmentation helps most against the shift of its own name.",
)

# %% [markdown]
# Read each column from top to bottom. The augmentation of the same name is the one that helps:

# %% tags=["claim"]
print(under("light", live).claim("light", ">", "none"))
print(under("zoom and shift", live).claim("zoom and shift", ">", "none"))

# %% [markdown]
# The live runs have six epochs. Beside them, in grey, the twenty of the study, which had declared the same two claims
# with a margin of five points:

# %%
under("light", live).plot(
    under("light"),
    label="accuracy in unusual light",
    message="In unusual light, training with unusual light helps most.",
)

# %% tags=["claim"]
print(light.claim("light", ">", "none", by=0.05))
print(under("zoom and shift").claim("zoom and shift", ">", "none", by=0.05))

# %% [markdown]
# ### The whole matrix
#
# The study trained one network per augmentation and seed, and evaluated it under every shift. The last column, `all`, is
# PocketSigns at level `wild`, where everything happens at once; the last row uses all augmentations but the flip.

# %%
SINGLE = [
    "none",
    "rotation",
    "zoom and shift",
    "light",
    "blur",
    "noise",
    "erasing",
    "erasing, random values",
    "flip",
    "all but flip",
]
matrix(
    stored,
    SINGLE,
    list(SHIFTS),
    "Under most shifts, the augmentation of the same name does best.",
)

# %%
print("the best single augmentation under each shift:")
for shift in SHIFTS:
    means = under(shift).table()["mean"]
    print(f"{shift:15} {means[SINGLE[:-1]].idxmax()}")

# %% [markdown]
# Only two differences in this table were declared before the runs (those above), so read the others as hints. Here are
# some of them with their intervals:

# %%
tell("rotation", "rotation")
tell("blur", "blur")
tell("all", "all but flip")

# %% [markdown]
# Two augmentations need a second look: erasing and noise. Here are their differences to training without augmentation,
# under the shift of the same name and on clean signs:

# %%
tell("occlusion", "erasing")
tell("occlusion", "erasing, random values")
tell("clean", "erasing")
tell("clean", "erasing, random values")
tell("noise", "noise")
tell("clean", "noise")

# %% [markdown]
# **Erasing gains next to nothing against occlusion**, half a point on average, and it costs about two points on clean
# signs. Is that because its holes are black, while what covers the signs is patterned and coloured? The original method
# fills them with random values ([Zhong et al. 2017](https://arxiv.org/abs/1708.04896)), and that makes no difference here.
# But there is little to gain: occlusion costs the plain network only five points to begin with. We tried one strength, no
# more.
#
# **Noise helps, but not only against noise.** It gains nearly as much on clean signs, where there is no noise to withstand.
# That is the mark of a regulariser (chapter 2): something that makes the training images harder to memorise. The noisy
# test signs were hardly a problem in the first place: compare their column with `clean` in the row `none`.
#
# ### What would change it
#
# **Time.** Zoom and shift pays for its robustness on clean signs. But augmented images are harder to fit, and twenty
# epochs are short. So the study has runs that are three times as long, with and without augmentation:

# %%
tell("clean", "zoom and shift")
tell("clean", "zoom and shift, 60 epochs", "none, 60 epochs")
tell("clean", "none, 60 epochs")
tell("zoom and shift", "zoom and shift, 60 epochs", "none, 60 epochs")

# %% [markdown]
# After twenty epochs, zoom and shift costs 17 points on clean signs. After sixty it costs 3, compared with a plain network
# that was trained just as long. So most of the price was a lack of time. The plain network gains only two points from the
# longer run. When you add augmentation, give the training more epochs before you judge it, and give them to the baseline
# too.
#
# **The world.** If the images in use look like those in training, the column `clean` is the one that counts.
# Augmentation buys robustness against what you named. Measure it against that.

# %% [markdown]
# ## 3.4 Where a flip changes the label
#
# The flip has no shift of its own to help against, and it costs accuracy on clean signs. The accuracy of each class
# shows where:

# %%
columns = [f"{name} accuracy" for name in data.classes]
by_class = live.frame().groupby("variant")[columns].mean()
heatmap(
    100 * (by_class.loc[["flip"]] - by_class.loc["none"]),
    ["flip - none"],
    data.classes,
    label="points",
    message="Training with flips costs most accuracy at keep left and keep "
    "right.",
)

# %% tags=["claim"]
arrows = under("keep left or right")
print(live.claim("none", ">", "flip"))
print(under("keep left or right", live).claim("none", ">", "flip", by=0.2))
print("\nIn the study:")
print(arrows.claim("none", ">", "flip", by=0.2))

# %% [markdown]
# The mirror image of keep left *is* keep right. With flips at a chance of one half, the network sees every arrow as
# often to the left as to the right under each of the two labels, and nothing it could learn tells them apart. What it
# answers is then left to chance, so read the two columns together. No error is raised anywhere: it looks like a hard
# task. Always look at the classes one by one when you add an augmentation.
#
# The ten other signs lose four to five points as well, though none is the mirror image of another; the figure points to
# the speed limits. Mirrored digits never occur on the road, and have to be learned all the same, with no more images
# and no more epochs than before. In the study:

# %%
tell("other signs", "flip")

# %% [markdown]
# **What would change it.** Change the label along with the image. A flipped keep left is a perfectly good keep right;
# a flipped no entry is still no entry; mirrored text is left alone. The study has that variant too, as `flip with its
# label`:

# %%
tell("other signs", "flip with its label")
tell("keep left or right", "flip with its label")
tell("keep left or right", "flip with its label", "flip")

# %% [markdown]
# It repairs the harm. Compared with no flip at all, it gains a point at the arrows and none that we can see elsewhere.
#
# **A symptom is not a diagnosis.** Another variant of the study has the arrows near one half too, and it flips nothing:

# %%
tell("keep left or right", "zoom and shift")
tell("keep left or right", "zoom and shift, 60 epochs", "zoom and shift")

# %% [markdown]
# Arrows that shrink and move about are slower to learn, and more epochs mend that. No number of epochs mends the
# flip, because the labels themselves contradict each other. When a class suffers, look at augmented images *with
# their labels* before you train longer.

# %% [markdown]
# ## 3.5 The order of transforms
#
# A pipeline is a composition of functions, and most of them do not commute. One order has proved itself, that of a
# camera: **geometry and colour on the picture, then conversion to a float tensor in [0, 1], then normalising, then
# erasing** (or erasing before normalising: know which). Three mistakes show why.
#
# **Conversion without scaling.** Without `scale=True` the numbers stay between 0 and 255, and all that follows
# expects 0 to 1.

# %%
one = torch.full((3, 4, 4), 200, dtype=torch.uint8)
unscaled = v2.ToDtype(torch.float32)(one).max().item()
scaled = v2.ToDtype(torch.float32, scale=True)(one).max().item()
print(f"without scale=True: {unscaled:.0f}; with it: {scaled:.3f}")
try:
    v2.Normalize([0.5] * 3, [0.25] * 3)(one)
except TypeError as error:
    print("normalising before the conversion:", error)

# %% [markdown]
# **Colour jitter after normalising.** Normalised pixels are centred on zero. Jitter cuts off at 0 and 1, as it must
# for pixels, and wipes out all that was darker than the mean.

# %%
normalise = v2.Normalize(data.mean.tolist(), data.std.tolist())


def unchanged_light(images):
    """Jitter with a factor of 1, which should change nothing."""
    return v2.functional.adjust_brightness(images, 1.0)


jitter_first = normalise(unchanged_light(images))
jitter_last = unchanged_light(normalise(images))
lost = (jitter_last != normalise(images)).float().mean().item()
print(f"values cut off by jitter after normalising: {lost:.0%}")
assert torch.equal(jitter_first, normalise(images))
assert lost > 0.5

# %% [markdown]
# **Erasing.** `RandomErasing` writes the value 0. Before normalising that is black; after it, the mean colour of the
# data, which says less. Both are in use; mixing them up between two experiments is the mistake. It comes after all
# geometry and blur; otherwise its hole is turned and softened as well.

# %%
erase_one = v2.RandomErasing(p=1.0)
torch.manual_seed(3)
before = normalise(erase_one(images[5]))
torch.manual_seed(3)
after = erase_one(normalise(images[5]))
mean, std = data.mean.view(3, 1, 1), data.std.view(3, 1, 1)
image_grid(
    torch.stack([images[5], before * std + mean, after * std + mean]),
    ["as it is", "erased first", "erased last"],
    columns=3,
    alt="A sign three times",
    message="Erased before normalising, the rectangle is black; erased "
    "afterwards, it has the mean colour.",
)

# %% [markdown]
# `Augment` keeps this order by itself: light, framing (crop, flip, affine), lens (blur), sensor (noise), and what
# stands in the way (erase). It never normalises. Do that in the model, or let the first batch norm do it, as here.

# %% [markdown]
# ## 3.6 Policies: let somebody else choose
#
# Choosing by hand means a dozen ranges. **Policies** replace them by one or two numbers.
#
# - **AutoAugment** ([Cubuk et al. 2019](https://arxiv.org/abs/1805.09501)) *searches*: a controller proposes pairs of
#   operations with chances and strengths, small networks are trained with them, and what helped is kept. The search
#   is expensive, so one takes the lists that were found for ImageNet, CIFAR-10 or SVHN.
# - **RandAugment** ([Cubuk et al. 2020](https://arxiv.org/abs/1909.13719)) searches nothing: $n$ operations are drawn
#   for each image, all with one strength $m$. Two numbers to tune, on a grid.
# - **TrivialAugment** ([Müller & Hutter 2021](https://arxiv.org/abs/2103.10158)) has no number at all: one operation
#   an image, with a strength drawn at random.
#
# All three are in torchvision, take uint8 images one at a time, and come before the conversion. Some of their
# operations are stranger than any camera: posterise (fewer levels), solarise (invert what is bright), equalise the
# histogram.

# %%
POLICIES = {
    "AutoAugment": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "RandAugment": v2.RandAugment(num_ops=2, magnitude=9),
    "TrivialAugment": v2.TrivialAugmentWide(),
}
torch.manual_seed(0)
drawn = [policy(pixels[2]) for policy in POLICIES.values() for _ in range(8)]
image_grid(
    torch.stack(drawn),
    [name for name in POLICIES for _ in range(8)],
    alt="Eight versions of a sign from each policy",
    message="The policies change the same sign in many ways, some of them "
    "drastic.",
)

# %% [markdown]
# None of the three knows your task. AutoAugment's list for CIFAR-10 inverts colours; look at the list before you use
# it where colour is the label. What does TrivialAugment do for the signs, of which it knows nothing, beside the
# ranges chosen by hand?

# %% tags=["claim"]
print(under("all").claim("TrivialAugment", ">", "none", by=0.05))
tell("clean", "TrivialAugment")
tell("all", "TrivialAugment", "all but flip")

# %% [markdown]
# It matches ranges that were chosen with these shifts in mind, within three points, and there is nothing to tune. It costs
# two points on clean signs, and the ranges chosen by hand cost far more. That makes it a good first thing to try.

# %% [markdown]
# ## 3.7 Strength over time
#
# The strength need not be the same from the first step to the last. `Augment(..., strength=ramp(0, 1, steps))`
# multiplies all ranges and chances by a number that grows from 0 to 1 over the first `steps` updates: easy images
# first, hard ones when the network can use them, a **curriculum** ([Bengio et al.
# 2009](https://doi.org/10.1145/1553374.1553380)). The `Trainer` tells the `Augment` which step it is at.

# %%
EVERYTHING = {
    "rotate": 25,
    "scale": (0.6, 1.1),
    "translate": 0.12,
    "shear": 8,
    "brightness": 0.5,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.03,
    "blur": 1.0,
    "noise": 0.08,
    "erase": 0.3,
}
growing = ramp(0, 1, steps=300)
at_steps = []
for step in (0, 150, 300):
    torch.manual_seed(0)  # the same draws at every strength
    at_steps.append(Augment(**EVERYTHING, strength=growing(step))(images))
image_grid(
    torch.cat(at_steps),
    [f"step {step}" for step in (0, 150, 300) for _ in range(8)],
    alt="Eight signs at each step",
    message="With the same random draws, the changes grow with the strength.",
)

# %%
steps = range(301)
lines(
    steps,
    {
        "growing": [growing(t) for t in steps],
        "fading": [1 - growing(t) for t in steps],
        "constant": [1.0 for t in steps],
        "half": [0.5 for t in steps],
    },
    xlabel="optimizer step",
    ylabel="strength",
    message="Growing, fading and half spend the same strength in total; "
    "constant spends twice as much.",
)

# %% [markdown]
# ### Predict
#
# The four lines are variants of the study, each with all augmentations but the flip, evaluated where everything shifts
# at once. `"fading"` uses the strengths of `"growing"` in reverse, `"half"` has the same mean. Which is best:
# `"growing"`, `"fading"`, `"constant"` or `"half"`?

# %% tags=["predict"]
my_best_strength = ...

# %%
strengths = {
    "constant": "all but flip",
    "fading": "all but flip, fading",
    "half": "all but flip, half",
    "growing": "all but flip, growing",
}
everything = under("all")
everything.table().loc[list(strengths.values())].round(3)

# %%
tell("all", "all but flip, growing", "all but flip")

# %% [markdown]
# Is that the growth, or only that there is less augmentation on average? Two variants have the same mean strength, and one
# of them even the same strengths in reverse. The study had declared that growing beats fading:

# %% tags=["claim"]
print(everything.claim("all but flip, growing", ">", "all but flip, fading"))
tell("all", "all but flip, growing", "all but flip, half")
tell("clean", "all but flip, growing")
tell("clean", "all but flip")
tell("all", "all but flip, growing", "TrivialAugment")

# %% [markdown]
# Growing beats fading by 13 points with the same strengths, so at this length the *order* of easy and hard images matters.
# The growing strength also gives back most of what full strength costs on clean signs. The study can't tell whether it is
# the growth itself that helps, or that the hard images come last.
#
# ### What would change it
#
# Twenty epochs on 480 signs are few. With three times as many, full strength from the start may well catch up, as zoom and
# shift did. And the learning rate falls to zero towards the end here, so the last images are those that the weights settle
# on. With a constant learning rate, the end may weigh less. Neither was tried. The opposite order has its friends too: some
# detectors, such as YOLOX ([Ge et al. 2021](https://arxiv.org/abs/2107.08430)), switch their strongest augmentation *off*
# for the last epochs.

# %% tags=["check"]
best_in_light = max(
    AUGMENTS, key=lambda a: under("light", live).values(a).mean()
)
best_strength = max(
    strengths, key=lambda s: everything.values(strengths[s]).mean()
)
check.score(
    {
        "Colour jitter drawn once per batch?": (
            my_one_draw_per_batch,
            "worse",
        ),
        "Best under strange light?": (
            my_best_in_strange_light,
            best_in_light,
        ),
        "Change of the accuracy on clean signs by the flip?": (
            my_change_by_the_flip,
            live.difference("flip", "none").mean,
        ),
        "Best strength over time?": (my_best_strength, best_strength),
    },
    within=0.05,
)

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: `random_flip` (easy, 10 minutes)
#
# Mirror each image of a batch (N, C, H, W) left to right with probability `p`, *each by a decision of its own*. Draw
# from the generator you are given, and leave the caller's images as they are.


# %% tags=["exercise"]
def random_flip(images, p, generator):
    """Return the images, each mirrored with probability p."""
    raise NotImplementedError


# %% tags=["check"]
check.random_flip(random_flip)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: all are mirrored, or none</b></summary>
#
# One random number decides once. `torch.rand` can give you as many as there are images.
#
# </details>
#
# <details>
# <summary><b>Hint: "size of tensor a must match"</b></summary>
#
# Decisions of shape (N,) meet images of four axes. Give them three more axes of length one; then `torch.where` does
# the rest.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def random_flip(images, p, generator):
    """Return the images, each mirrored with probability p."""
    flip = torch.rand(len(images), generator=generator) < p
    return torch.where(flip[:, None, None, None], images.flip(3), images)


check.random_flip(random_flip)

# %% [markdown]
# ### Exercise 2: `jitter` (easy, 8 minutes)
#
# Change the light of each image: scale × pixel + shift, cut off at 0 and 1. `scale` and `shift` have been drawn
# already and have one number for each image, (N,).


# %% tags=["exercise"]
def jitter(images, scale, shift):
    """Return scale * images + shift, for each image its own, in [0, 1]."""
    raise NotImplementedError


# %% tags=["check"]
check.jitter(jitter)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: there are stripes in my images</b></summary>
#
# Broadcasting lines up axes from the *right*: (N,) against (N, C, H, W) means one number a column. If N happens to
# equal W, nothing complains.
#
# </details>
#
# <details>
# <summary><b>Hint: only some pixels are wrong</b></summary>
#
# Look at the brightest and the darkest. When do you cut off?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def jitter(images, scale, shift):
    """Return scale * images + shift, for each image its own, in [0, 1]."""
    scale, shift = scale[:, None, None, None], shift[:, None, None, None]
    return (scale * images + shift).clamp(0, 1)


check.jitter(jitter)

# %% [markdown]
# ### Exercise 3: `choose_augmentations` (medium, 15 minutes)
#
# Six tasks. For each, return the *set* of names of the augmentations that keep the label. Ask twice: can the changed
# picture get the same label without a doubt? Could a picture like it come in use? Where both is so, it belongs in;
# where opinions can differ, the check accepts either.
#
# | task | the label says |
# |---|---|
# | `"handwritten digits"` | which of 0 to 9 |
# | `"land use from satellites"` | wood, field, town or water, seen from straight above |
# | `"heart on the left or on the right, in chest X-rays"` | on which side the heart lies |
# | `"keep left or keep right, the signs"` | which of the two signs |
# | `"ripe or green tomatoes"` | whether the tomato in the picture is red |
# | `"lens with or without a fine scratch"` | whether there is a scratch, a pixel wide, anywhere |
#
# | augmentation | what it does |
# |---|---|
# | `"small rotation"` | up to 10 degrees |
# | `"any rotation"` | up to 180 degrees |
# | `"flip"`, `"vertical flip"` | left to right, top to bottom |
# | `"shift"` | by up to a tenth of the side; nothing important is cut off, except perhaps a scratch |
# | `"light"` | brightness and contrast, a little |
# | `"hue"` | any turn of the circle of colours |
# | `"blur"` | as by a bad lens |
# | `"erasing"` | blackens a rectangle of up to a third of the picture |


# %% tags=["exercise"]
def choose_augmentations(task):
    """Return the set of augmentations that keep the label of the task."""
    raise NotImplementedError


# %% tags=["check"]
check.choose_augmentations(choose_augmentations)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: how to write it down</b></summary>
#
# A dictionary from the task to a set, and one look-up in it.
#
# </details>
#
# <details>
# <summary><b>Hint: which to doubt</b></summary>
#
# Take two classes, and look for a transform that makes one of them the other. Then take the smallest thing that
# decides the label, and look for a transform that removes it.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def choose_augmentations(task):
    """Return the set of augmentations that keep the label of the task."""
    turns = {"small rotation", "any rotation"}
    keeping = {
        "handwritten digits": {"small rotation", "shift", "light"},
        "land use from satellites": turns
        | {"flip", "vertical flip", "shift", "light"},
        "heart on the left or on the right, in chest X-rays": {
            "small rotation",
            "shift",
            "light",
        },
        "keep left or keep right, the signs": {
            "small rotation",
            "shift",
            "light",
            "blur",
        },
        "ripe or green tomatoes": turns | {"flip", "shift", "blur"},
        "lens with or without a fine scratch": turns
        | {"flip", "vertical flip", "light"},
    }
    return keeping[task]


check.choose_augmentations(choose_augmentations)

# %% [markdown]
# ## Make it bigger
#
# CIFAR-10 has no keep left: a flip preserves all ten labels, and crop and flip are what every recipe begins with.
# With and without, on a GPU; it downloads 170 MB once and runs only when the environment variable `CNNLAB_PROFILE` is
# `gpu`.

# %% tags=["bigger"]
if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)
    recipes = {"none": None, "crop and flip": Augment(crop_pad=4, flip=0.5)}

    def on_photos(seed, augment):
        torch.manual_seed(seed)
        model = cnnlab.small_resnet(num_classes=10, width=32, depth=3)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
        )
        train = cnnlab.loader(photos.train, 128, shuffle=True, seed=seed)
        one_cycle = cnnlab.schedules.one_cycle(15 * len(train))
        trainer = cnnlab.Trainer(
            model,
            optimizer,
            scheduler=cnnlab.attach(optimizer, one_cycle),
            batch_transform=augment,
            seed=seed,
        )
        trainer.fit(train, epochs=15)
        return trainer.evaluate(cnnlab.loader(photos.test, 512))["acc"]

    bigger = cnnlab.compare(
        {
            name: lambda seed, augment=augment: on_photos(seed, augment)
            for name, augment in recipes.items()
        },
        seeds=3,
    )
    print(bigger)
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% [markdown]
# ## Key points
#
# - Augmentation states what the label does not depend on. That knowledge comes from the task.
# - It helps against the shift it resembles, if at all. Measure it there, and look at the clean images too.
# - Look at single classes: a flip can ruin two of them while the mean falls only a little.
# - Draw parameters for each image, not for each batch.
# - Picture first (geometry, colour), then conversion to [0, 1], then normalising and erasing.
# - Augmented training takes longer. Where epochs are few, let the strength grow.
# - Only training images are augmented.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | two classes at one half, the others fine | a transform that turns one into the other; or too few epochs |
# | colour jitter does nothing | it is drawn once for a batch, and batch norm divides it out |
# | half of the pixels are exactly 0 | colour jitter after normalising |
# | every worker process gives the same "random" images | a NumPy generator of the data set's own, copied to all workers |
# | validation accuracy above training accuracy all along | training accuracy is measured on augmented images; that is no mistake |
# | validation accuracy jumps at each measurement | the validation images are augmented as well |
# | augmentation "does not help" | too few epochs, or a test without the shift it is meant for |
#
# ## References
#
# - P. Simard, D. Steinkraus and J. Platt, *Best practices for convolutional neural networks applied to visual
#   document analysis*, 2003, [doi:10.1109/ICDAR.2003.1227801](https://doi.org/10.1109/ICDAR.2003.1227801)
# - S. Chen, E. Dobriban and J. Lee, *A group-theoretic framework for data augmentation*, 2020,
#   [arXiv:1907.10905](https://arxiv.org/abs/1907.10905)
# - C. Szegedy et al., *Going deeper with convolutions*, 2015, [arXiv:1409.4842](https://arxiv.org/abs/1409.4842)
# - Z. Zhong et al., *Random erasing data augmentation*, 2017, [arXiv:1708.04896](https://arxiv.org/abs/1708.04896)
# - T. DeVries and G. Taylor, *Improved regularization of convolutional neural networks with cutout*, 2017,
#   [arXiv:1708.04552](https://arxiv.org/abs/1708.04552)
# - A. Buslaev et al., *Albumentations: fast and flexible image augmentations*, 2020,
#   [doi:10.3390/info11020125](https://doi.org/10.3390/info11020125)
# - D. Hendrycks and T. Dietterich, *Benchmarking neural network robustness to common corruptions and perturbations*,
#   2019, [arXiv:1903.12261](https://arxiv.org/abs/1903.12261)
# - E. Cubuk et al., *AutoAugment: learning augmentation policies from data*, 2019,
#   [arXiv:1805.09501](https://arxiv.org/abs/1805.09501)
# - E. Cubuk et al., *RandAugment: practical automated data augmentation with a reduced search space*, 2020,
#   [arXiv:1909.13719](https://arxiv.org/abs/1909.13719)
# - S. Müller and F. Hutter, *TrivialAugment: tuning-free yet state-of-the-art data augmentation*, 2021,
#   [arXiv:2103.10158](https://arxiv.org/abs/2103.10158)
# - Y. Bengio et al., *Curriculum learning*, 2009,
#   [doi:10.1145/1553374.1553380](https://doi.org/10.1145/1553374.1553380)
# - Z. Ge et al., *YOLOX: exceeding YOLO series in 2021*, 2021, [arXiv:2107.08430](https://arxiv.org/abs/2107.08430)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# The matrix of 3.3 and the flip of 3.4 are the lesson: twenty minutes. 3.2, 3.6 and 3.7 can be read at home.
#
# ## Questions for the room
#
# - Name a task in which a flip is right, one in which it is wrong, and one in which it depends on the country.
# - Erasing gained half a point against occlusion here. What would you try before you conclude that it never helps?
# - An augmentation is a statement about the world. Whose job is it to make it: the engineer's or the expert's?
