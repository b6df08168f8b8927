# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 0. Your first network
#
# In July 1966, Seymour Papert at MIT gave a group of students a job for the summer: connect a camera to a computer, and
# make it name the objects it sees ([Papert 1966](https://hdl.handle.net/1721.1/6125)). The summer wasn't long enough. It
# took until 2012 for a program to get good at this, and nobody had told that program what a cat looks like. It had been
# shown a million photographs, and had adjusted sixty million numbers until its answers were mostly correct. Such a
# program is called a **neural network**. In this chapter you'll use one, take it apart, and train a small one yourself.
#
# **You will be able to** turn an image into a tensor, compute a convolution and a gradient step by hand, count the
# parameters of a network, train a classifier in plain PyTorch, and look at its mistakes in a confusion matrix.
#
# | | |
# |---|---|
# | to read | 35 minutes, with the code |
# | exercises | 50 minutes, and an hour for the open one at the end |
# | to run | 20 seconds on one core of a laptop, without internet access or a GPU |
# | you need | a little Python, and some idea of what a derivative is |

# %% tags=["setup"]
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image

import cnnlab
from cnnlab import check, diagrams, plots

lab = cnnlab.setup(seed=0)

# %% [markdown]
# ## 0.1 A network that names photographs
#
# Start with the finished thing. `EfficientNet-Lite0` is a network for phones, a variant of EfficientNet-B0
# ([Tan & Le 2019](https://arxiv.org/abs/1905.11946)). It was trained on **ImageNet**: 1.3 million photographs, each
# labelled with one of 1,000 **classes** ([Russakovsky et al. 2015](https://arxiv.org/abs/1409.0575)). For every image,
# it gives each class a **probability**, a number between 0 and 1, and the 1,000 probabilities add up to 1.
#
# Run this cell (a few seconds) and look at the network's first choice for each of eight photographs.

# %%
try:
    real = cnnlab.pretrained("efficientnet_lite0", None)
    photos = cnnlab.load("photos")
except ImportError as missing:
    real = None
    print(f"{missing}. Until then, the cells with photographs do nothing.")


def photo(name):
    """Return a photograph of the course; `photos.classes` names them."""
    number = photos.classes.index(name)
    return photos.train.images[number] / 255


def name_photos(names):
    """Show photographs, each with the first choice of the network."""
    images = torch.stack([photo(name) for name in names])
    answers = real.classify(images)
    titles = [
        f"{name}, {100 * probability:.0f} %"
        for name, probability in zip(
            answers["class"], answers["probability"], strict=True
        )
    ]
    return plots.image_grid(
        images,
        titles,
        columns=4,
        alt="Eight photographs with the network's first choice",
        message="Every photograph gets a name, but not every name is correct",
    )


favourites = ["chelsea", "coffee", "camera", "china"]
strange = ["motorcycle_left", "rocket", "coins", "clock_motion"]
name_photos(favourites + strange) if real else None

# %% [markdown]
# The cat is called Chelsea, and she isn't Egyptian, but *Egyptian cat* is a fair answer. ImageNet has no class for
# motorcycles, so *moped* is the best the network can do, and it has none for coins, which become a *golf ball*. The
# clock is the worst case. "Wall clock" *is* one of the classes, but the photograph is blurred, and the network calls it
# a *bubble* with more confidence than it has about the cat.
#
# The network can't say "something else". It always divides its 100 % among the 1,000 classes it knows.
#
# ### Predict
#
# The moon isn't among the 1,000 classes. Which class will be the first choice for a photograph of it, and with what
# probability? Write the probability in place of the dots. (Everything runs without an answer too.)

# %% tags=["predict"]
my_moon = ...  # a number between 0 and 1

# %% tags=["experiment"]
moon = None
if real:  # shows the photograph as the network gets it
    moon = cnnlab.classify(real, photo("moon"), real.classes)
moon

# %% tags=["check"]
if real:
    check.prediction(
        "How probable is the first choice for the moon?",
        my_moon,
        float(moon["probability"].iloc[0]),
        within=0.15,
    )

# %% [markdown]
# A nematode is a tiny worm, usually photographed through a microscope, in a bright round field. So the mistake isn't a
# stupid one: of everything the network has seen, this looks most like the moon.
#
# ## 0.2 An image is a tensor
#
# What does the network get to see? Numbers. A **tensor** is an array of numbers with any number of axes: a list has one
# axis, a table has two, and a colour photograph has three. Its **shape** gives the length of each axis, and its
# **dtype** the kind of number: `uint8` means whole numbers from 0 to 255. Each **pixel** of a photograph has an amount
# of red, green and blue, and all the red values together are a **channel**, a grey image of its own.
#
# These pixels need three changes before a network can use them.
#
# 1. **Order of the axes.** Files store the colours last, (H, W, C) for height, width and channels. PyTorch wants them
#    first, (C, H, W).
# 2. **A batch.** A network works on several images at once, a **batch** of shape (N, C, H, W). A single image is a
#    batch with $N = 1$.
# 3. **Floats.** A network multiplies the pixels by its **weights**, numbers such as 0.037, so the pixels must be floats
#    too. Divide by 255, and they run from 0 to 1.
#
# **Find the bug.** A colleague has made a batch of one flower. The shape is correct, and there's no error. Run the cell
# and look at what the network would get.

# %%
flower = torch.from_numpy(load_sample_image("flower.jpg").copy())
print("in the file: shape", tuple(flower.shape), "dtype", flower.dtype)
print("the top left pixel:", flower[0, 0].tolist())

# the colleague's lines
height, width, channels = flower.shape
batch = flower.reshape(1, channels, height, width) / 255
print("the batch:   shape", tuple(batch.shape), "dtype", batch.dtype)

red, green, blue = flower[:, :, 0], flower[:, :, 1], flower[:, :, 2]
grey = torch.stack([red, green, blue])[:, None].expand(-1, 3, -1, -1)
plots.image_grid(
    torch.cat([grey / 255, batch]),
    ["red", "green", "blue", "the batch"],
    columns=4,
    alt="Three grey images of a flower, and a pattern of coloured threads",
    message="The channels show a flower. The batch has the correct shape, "
    "but shows none",
)

# %% [markdown]
# A network would train on such images without complaint, and it would even learn a little. The shape doesn't reveal the
# mistake, but one look at the image does. So here's the first rule of the trade: *look at what goes into the network*,
# as the network gets it ([Karpathy 2019](https://karpathy.github.io/2019/04/25/recipe/)).
#
# ### Exercise 1: `to_batch` (easy, 5 minutes)
#
# Write the conversion without the bug. The function gets the uint8 pixels of one image, (H, W, 3), and returns a batch
# (1, 3, H, W) of float32 values between 0 and 1.


# %% tags=["exercise"]
def to_batch(pixels):
    """Turn uint8 pixels (H, W, 3) into a float batch (1, 3, H, W)."""
    raise NotImplementedError


# %% tags=["check"]
check.to_batch(to_batch)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: what is wrong with reshape?</b></summary>
#
# `reshape` reads the values in the order in which they lie in memory: red, green and blue of the first pixel, then of
# the second. Which tensor method changes the order of the axes instead? Its name is the mathematical word for
# reordering.
#
# </details>
#
# <details>
# <summary><b>Hint: one axis is missing</b></summary>
#
# `tensor[None]` adds an axis of length 1 at the front.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def to_batch(pixels):
    """Turn uint8 pixels (H, W, 3) into a float batch (1, 3, H, W)."""
    return pixels.permute(2, 0, 1)[None] / 255


check.to_batch(to_batch)

# %% [markdown]
# **Now your own photograph.** Drag one into the list of files on the left, and write its name between the quotes. Until
# you do, the cell classifies a photograph of a flower. The picture shows what the network gets: a square from the
# middle, reduced to 224 x 224 pixels.
#
# Inside, one more step follows. Most networks first **normalise** the pixels: they subtract a mean and divide by a
# standard deviation, so that the values lie around zero. `cnnlab.small_resnet`, the network of most chapters, does that
# itself too, in its first layer.

# %%
my_photo = ""  # such as "mug.jpg" or "~/Pictures/mug.jpg"; / on Windows too

if real:
    choices = cnnlab.classify(real, my_photo or photo("flower"), real.classes)
choices if real else None

# %% [markdown]
# ## 0.3 A convolution by hand
#
# How can numbers find an edge? Lay a small square of weights, a **filter** or **kernel**, over a corner of the image.
# Multiply each pixel by the weight on top of it and add up the products. The sum is one value of the result. Then move
# the filter by one pixel and do it again. In deep learning, this sliding sum is called a **convolution**.
# (Mathematically, it's a *cross-correlation*: a mathematician's convolution first flips the kernel, which turns it by
# 180 degrees. A network learns its weights, so it makes no difference whether they're flipped.)
#
# The filter below has −1 on its left and +1 on its right. So it subtracts what is on the left from what is on the right.
# Each sum is a tensor with a single value, and `.item()` makes it a Python number.

# %%
dark_to_bright = torch.tensor(
    [
        [1.0, 1.0, 1.0, 9.0, 9.0],
        [1.0, 1.0, 1.0, 9.0, 9.0],
        [1.0, 1.0, 1.0, 9.0, 9.0],
    ]
)
edge = torch.tensor([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]])

for column in range(3):
    square = dark_to_bright[0:3, column : column + 3]
    print(f"columns {column} to {column + 2}: {(square * edge).sum().item()}")

# %% [markdown]
# Where nothing changes, the positive and negative products cancel, and the sum is 0. At the edge, three
# products of 9 meet three of −1, which makes 24. Turn the filter by 90 degrees, and it finds horizontal edges. Nine
# equal weights give a blurred image.
#
# Here are these three filters applied to a traffic sign from the course's data set. In the two edge images, grey means
# zero, bright is positive and dark is negative.

# %%
data = cnnlab.load("pocket")  # 12 kinds of traffic signs, 32 x 32 pixels
no_entry = data.train.labels == data.classes.index("no entry")
sign = data.train.images[no_entry][3].float().mean(dim=0) / 255  # grey

filters = torch.stack([edge, edge.T, torch.ones(3, 3) / 9])
found = F.conv2d(sign[None, None], filters[:, None])[0]
found[:2] = 0.5 + found[:2] / 3  # zero becomes grey
middle = sign[1:-1, 1:-1]  # the results lack one pixel on each side

plots.image_grid(
    torch.cat([middle[None], found])[:, None],
    ["the sign", "vertical edges", "horizontal edges", "blurred"],
    columns=4,
    alt="A no-entry sign, and the results of three filters",
    message="Nine weights decide what a filter finds",
)

# %% [markdown]
# ### Exercise 2: `convolve` (medium, 10 minutes)
#
# Write the convolution of one channel, with two loops and without `F.conv2d`. Don't flip the kernel, because `F.conv2d`
# doesn't either. The image has shape (H, W) and the kernel (h, w). The kernel never sticks out of the image, so the
# result is a little smaller than the image. How much smaller?


# %% tags=["exercise"]
def convolve(image, kernel):
    """Return the sum of products at each position of the kernel."""
    raise NotImplementedError


# %% tags=["check"]
check.convolve(convolve)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: how many positions are there?</b></summary>
#
# In a row of 5 pixels, a kernel of width 3 can begin at pixel 0, 1 or 2. Write the number of positions as a formula,
# and test it with a kernel of width 1 and one of width 5.
#
# </details>
#
# <details>
# <summary><b>Hint: where do I put the sums?</b></summary>
#
# Make a tensor of zeros of the right shape first, and fill it in the loops.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def convolve(image, kernel):
    """Return the sum of products at each position of the kernel."""
    h, w = kernel.shape
    rows, columns = image.shape[0] - h + 1, image.shape[1] - w + 1
    out = torch.zeros(rows, columns)
    for i in range(rows):
        for j in range(columns):
            out[i, j] = (image[i : i + h, j : j + w] * kernel).sum()
    return out


check.convolve(convolve)

# %% [markdown]
# **From a filter to a layer.** Once you know these terms, you can read the diagram of a network.
#
# - A **feature map** is the result of one filter: it shows where the filter has found what it looks for. A layer with
#   16 filters gives 16 feature maps, which are the 16 channels of its output.
# - A filter spans *all* channels of its input. On a colour image, a 3 x 3 filter has 3 x 3 x 3 = 27 weights.
# - **Padding** puts a border of zeros around the image, so that the output doesn't shrink.
# - **Stride** is the number of pixels that the filter moves at a time; a stride of 2 halves the height and the width.
# - **Pooling** replaces a square of values by their maximum or mean, which also makes the maps smaller.
# - A **ReLU** replaces negative values by zero. Such a function between the layers is called an **activation**. Without
#   one, a stack of convolutions could do no more than a single, larger convolution.
# - A **residual block** adds its input to the output of its convolutions, so the convolutions only have to learn the
#   change ([He et al. 2016](https://arxiv.org/abs/1512.03385)).
#
# With a kernel of $k$ pixels, padding $p$ and stride $s$, a side of $n$ pixels becomes
# $\lfloor (n + 2p - k) / s \rfloor + 1$. Check it with the next cell: $(32 + 2 - 3)/2$ is 15.5, rounded down 15, plus
# one is 16. A new layer starts with random weights, and this is how you create one:

# %%
layer = torch.nn.Conv2d(3, 16, kernel_size=3, stride=2, padding=1)
image = data.train.images[:1] / 255
print("input  ", tuple(image.shape))
print("weights", tuple(layer.weight.shape), "and a bias for each filter")
print("output ", tuple(layer(image).shape))

# %% [markdown]
# **Why convolve?** You could also give each output a weight of its own for every input value. There are three reasons
# not to.
#
# - **Locality.** Neighbouring pixels belong together: an edge or a corner fits into 3 x 3 of them. So each output only
#   needs to look at a small square, and deeper layers combine these squares.
# - **Weight sharing.** The layer above uses the same 16 · 27 = 432 weights at every place of the image. A weight for each
#   pair of its 32 · 32 · 3 = 3,072 inputs and 16 · 16 · 16 = 4,096 outputs would make 12.6 million.
# - **Translation equivariance.** If you shift the image, the feature maps shift with it. So a filter that has learnt a
#   digit in one corner finds it in all the others.
#
# Equivariance has limits. A stride of 2 keeps it only for shifts by an even number of pixels, and at the border, the
# padding disturbs it. The cell shifts the sign to the right by four pixels. What leaves the image on the right comes
# back on the left.

# %%
with torch.no_grad():
    maps = layer(image)
    maps_of_shifted = layer(image.roll(4, dims=3))
equal = torch.isclose(maps_of_shifted, maps.roll(2, dims=3), atol=1e-5)
columns = equal.flatten(0, 2).all(dim=0)
print(f"{columns.sum().item()} of 16 columns have shifted by two")
print("the others:", (~columns).nonzero().flatten().tolist())

# %% [markdown]
# Only columns at the left border differ. At the end of our network, a mean over all pixels of each map makes the result
# nearly **invariant**: it matters little where in the image the sign is.
#
# ## 0.4 Gradients, by hand and by machine
#
# Who chooses the weights? In 1980, Fukushima's [neocognitron](https://doi.org/10.1007/BF00344251) had layers like these.
# In 1989, LeCun and his colleagues let gradient descent find all of the weights, and their network read
# [handwritten zip codes](https://doi.org/10.1162/neco.1989.1.4.541).
#
# Training asks one question about every weight: if it were a little larger, would the error grow or shrink, and
# how fast? The answer is a derivative.
#
# Take the smallest network there is: one weight $w$, and the prediction $w x$. For the input $x = 2$ the correct output
# is $y = 10$. The **loss** is the number that says how wrong the prediction is; here, we take the squared error
#
# $$ L(w) = (w x - y)^2, \qquad \frac{dL}{dw} = 2\,(w x - y)\,x. $$
#
# At $w = 3$ the prediction is 6, the loss is 16, and the derivative is $2 \cdot (-4) \cdot 2 = -16$. PyTorch gets the
# same result without being told the formula. `requires_grad=True` makes it record every operation with $w$, and
# `backward()` goes through the record from the end to the start and applies the chain rule at each operation. This is
# called **autograd**, and the derivative, which it stores in `w.grad`, is the **gradient**.

# %%
w = torch.tensor(3.0, requires_grad=True)
loss = (w * 2 - 10) ** 2
loss.backward()
print(f"loss {loss.item()}, gradient {w.grad.item()}, by hand -16")

weights = torch.linspace(0, 8, 81)
curve = (weights * 2 - 10) ** 2
tangent = loss.item() + w.grad.item() * (weights - 3)
tangent[(weights < 2) | (weights > 4)] = torch.nan
plots.lines(
    weights,
    {"loss": curve, "slope at w = 3": tangent},
    xlabel="weight w",
    ylabel="loss",
    message="The slope at w = 3 is negative: a larger weight makes the loss "
    "smaller",
)

# %% [markdown]
# So the weight should grow. **Gradient descent** moves each weight a little against its gradient,
#
# $$ w \leftarrow w - \eta \, \frac{dL}{dw}, $$
#
# and the small number $\eta$ is the **learning rate**, `lr` in code. With $\eta = 0.1$ the weight 3 becomes 4.6, and
# the loss falls from 16 to 0.64. A network with a million weights does the same. One call to `backward()` computes all
# the gradients, for about the price of two predictions. This is **backpropagation**. The method is older than deep
# learning ([Linnainmaa](https://doi.org/10.1007/BF01931367) described it in his thesis of 1970), and
# [Rumelhart et al. 1986](https://doi.org/10.1038/323533a0) made it known by showing what networks learn with it.
#
# ### Predict
#
# Now let the loss be $w^2$. Its derivative is $2w$, which is 6 at $w = 3$. What is `w.grad` after you've computed the
# loss and called `backward()` twice, as in two steps of a training loop?

# %% tags=["predict"]
my_gradient = ...  # a number

# %% tags=["experiment"]
w = torch.tensor(3.0, requires_grad=True)
for _ in range(2):
    loss = w**2
    loss.backward()
    print("w.grad is", w.grad.item())

# %% tags=["check"]
check.prediction(
    "What is w.grad after two calls to backward()?",
    my_gradient,
    w.grad.item(),
    within=0.1,
)

# %% [markdown]
# `backward()` *adds* to `.grad`. That's useful for some tricks (chapter 12), and a trap in every training loop. You have to
# clear the gradient yourself before each step, here with `w.grad = None`.
#
# Autograd also records a step such as `w - lr * w.grad`, so the result would require gradients, too. `tensor.detach()`
# returns a tensor with the same values and without the record. (Don't write `w -= ...`: autograd refuses to change a
# tensor that requires gradients in place.)
#
# ### Exercise 3: `gradient_step` (medium, 12 minutes)
#
# A linear model predicts `x @ w`, from inputs `x` of shape (N, D) and weights `w` of shape (D,). Its loss is the *mean*
# of the squared errors over the N samples. Return the weights after one step of gradient descent, as a new tensor that
# doesn't require gradients. Let autograd find the gradient. `w` requires gradients, and there may be one in `w.grad`
# from an earlier step, just as in a loop.


# %% tags=["exercise"]
def gradient_step(w, x, y, lr):
    """Return the weights after one step on the mean squared error."""
    raise NotImplementedError


# %% tags=["check"]
check.gradient_step(gradient_step)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the step is too long, and in a strange direction</b></summary>
#
# Print `w.grad` before you call `backward()`. Is it None?
#
# </details>
#
# <details>
# <summary><b>Hint: `w.grad` is None</b></summary>
#
# Only a **leaf** tensor gets a gradient: one that wasn't computed from another tensor. `w.clone()` isn't a leaf.
#
# </details>
#
# <details>
# <summary><b>Hint: "a leaf Variable that requires grad is being used in an in-place operation"</b></summary>
#
# `w -= ...` changes `w` itself. Compute a new tensor instead.
#
# </details>
#
# <details>
# <summary><b>Hint: the new weights still require gradients</b></summary>
#
# `tensor.detach()` has the same values and no history. You can call it at the start, at the end, or both.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def gradient_step(w, x, y, lr):
    """Return the weights after one step on the mean squared error."""
    w = w.detach().requires_grad_()  # without a history or an old gradient
    loss = ((x @ w - y) ** 2).mean()
    loss.backward()
    return (w - lr * w.grad).detach()


check.gradient_step(gradient_step)

# %% [markdown]
# ## 0.5 Our network on one page
#
# This is the network you'll train in most chapters. You know almost all of its parts: convolutions with stride 2,
# ReLUs, two residual blocks, and a pooling layer at the end, which takes the mean over all pixels of each feature map.
# *Batch norm* keeps the values between the layers in a useful range, and chapter 2 explains how. The **linear layer**
# at the end computes each of its twelve outputs, the **logits**, as a weighted sum of the 64 features, plus one number
# of its own, the **bias**.

# %%
fresh = cnnlab.small_resnet(num_classes=12)
print(f"{sum(p.numel() for p in fresh.parameters()):,} parameters")
diagrams.network(fresh)

# %% [markdown]
# A **parameter** is a number that training changes: all weights and biases are parameters. You can count them with a
# pencil. The first convolution, the **stem**, has 16 filters, and each spans 3 channels, so it has 16 · 3 · 3 · 3 = 432
# weights. The batch-norm layer after it multiplies each channel by one parameter and adds another: 2 · 16 = 32.
# Together that's 464 parameters. The linear layer has 64 · 12 weights and 12 biases, 780 in all.
#
# ### Exercise 4: `count_parameters` (easy, 8 minutes)
#
# Each layer is a tuple of its kind and its sizes.
#
# | layer | what it is |
# |---|---|
# | `("conv", 3, 16, 3)` | a convolution from 3 to 16 channels with a kernel of 3 x 3, without biases |
# | `("norm", 16)` | a batch-norm layer over 16 channels |
# | `("linear", 64, 12)` | a linear layer from 64 features to 12 outputs, with biases |
# | `("relu",)`, or any other kind | has no parameters |
#
# Return how many parameters a list of such layers has. (The convolutions have no biases because the batch norm after
# them would only subtract them again.)


# %% tags=["exercise"]
def count_parameters(layers):
    """Return the number of parameters of a list of layers."""
    raise NotImplementedError


# %% tags=["check"]
check.count_parameters(count_parameters)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: a list of lists of different lengths</b></summary>
#
# `kind, *sizes = layer` puts the name into `kind` and the numbers into the list `sizes`.
#
# </details>
#
# <details>
# <summary><b>Hint: test it on something you know</b></summary>
#
# The stem has 464 parameters, and the first block 14,528. The block consists of a convolution from 16 to 32 channels, one
# from 32 to 32, and one from 16 to 32 with a kernel of 1 x 1 in the shortcut, each with a batch norm.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def count_parameters(layers):
    """Return the number of parameters of a list of layers."""
    total = 0
    for kind, *sizes in layers:
        if kind == "conv":
            n_in, n_out, kernel = sizes
            total += n_out * n_in * kernel * kernel
        elif kind == "norm":
            total += 2 * sizes[0]
        elif kind == "linear":
            n_in, n_out = sizes
            total += n_in * n_out + n_out
    return total


check.count_parameters(count_parameters)

# %% [markdown]
# ### Exercise 5: `receptive_field` (hard, 20 minutes)
#
# One value in the first feature map sees 3 x 3 pixels. A value in the second one sees 3 x 3 values of the first, so it
# sees more of the image. The square of pixels that a value depends on is its **receptive field**, and it decides what a
# layer can find: an edge, a digit, or a whole sign.
#
# Return the side of this square for a stack of convolutions, given as pairs (kernel, stride) from the first layer to
# the last. Ignore the borders of the image. For example, `[(3, 1), (3, 1)]` gives 5.


# %% tags=["exercise"]
def receptive_field(layers):
    """Return the side of the square of pixels that one value sees."""
    raise NotImplementedError


# %% tags=["check"]
check.receptive_field(receptive_field)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: keep two numbers</b></summary>
#
# Go from the first layer to the last. Besides the side of the square, keep the distance in pixels between two
# neighbouring values of the map you've reached. Which of the two does a kernel change, and which does a stride change?
#
# </details>
#
# <details>
# <summary><b>Hint: draw it</b></summary>
#
# One dimension is enough. Draw a row of pixels, above it every second dot for a layer with kernel 3 and stride 2, and
# above that a layer with kernel 3. Then follow one dot down.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def receptive_field(layers):
    """Return the side of the square of pixels that one value sees."""
    side, jump = 1, 1  # jump: pixels between two neighbouring values
    for kernel, stride in layers:
        side += (kernel - 1) * jump
        jump *= stride
    return side


check.receptive_field(receptive_field)

# %% [markdown]
# **Autograd can show it.** The gradient of a value with respect to the *pixels* is zero wherever the value doesn't
# look. The cell builds the five convolutions of our network, and dims the pixels that a value in the middle doesn't
# see.

# %%
stop = data.train.images[data.train.labels == data.classes.index("stop")][6]
stack = [(3, 2), (3, 2), (3, 1), (3, 2), (3, 1)]  # kernel, stride
pixels = torch.zeros(1, 1, 32, 32, requires_grad=True)
maps, views = pixels, []
for kernel, stride in stack:
    ones = torch.ones(1, 1, kernel, kernel)
    maps = F.conv2d(maps, ones, stride=stride, padding=kernel // 2)
    half = maps.shape[-1] // 2
    value = maps[0, 0, half, half]  # one in the middle
    (gradient,) = torch.autograd.grad(value, pixels, retain_graph=True)
    seen = gradient[0] > 0
    views.append(stop / 255 * (0.25 + 0.75 * seen))

plots.image_grid(
    torch.stack(views),
    ["stem", "block 1 a", "block 1 b", "block 2 a", "block 2 b"],
    columns=5,
    alt="A stop sign; bright is what one value of each convolution sees",
    message="The higher the layer, the more of the sign one value sees",
)

# %% [markdown]
# ## 0.6 Train it
#
# The network returns twelve logits. There's one per class, it can be any number, and the class with the highest one is
# the prediction. The **softmax** turns the logits into probabilities by taking $e$ to the power of each and dividing by
# the sum. For the logits 2, 1 and −1 it gives 0.71, 0.26 and 0.04.
#
# The loss is the **cross-entropy**: minus the logarithm of the probability that the network gave the correct class. If
# the first class was correct, the loss is −log 0.71 = 0.35. If it was the third, the loss is 3.35. You can read it as
# the network's surprise at the truth. `F.cross_entropy` takes the logits, does both steps, and returns the mean over
# the batch.
#
# All of training is in the ten lines below: take a batch of 64 signs, predict, compute the loss, find the gradients,
# take a step, and repeat. One pass over all 3,000 signs is an **epoch**. An **optimizer** takes the steps, and
# `momentum` lets it keep some of its last direction. Run it; it takes 5 to 15 seconds. The cell after it evaluates the
# network on 960 signs that it hasn't been trained on, the **validation set**.

# %% tags=["experiment"]
torch.manual_seed(0)  # the same random weights in every run
model = cnnlab.small_resnet(num_classes=12)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
batches = cnnlab.loader(data.train, batch_size=64, shuffle=True)
losses = []

for epoch in range(8):
    for images, labels in batches:
        logits = model(images)  # forwards
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()  # forget the gradients of the last step
        loss.backward()  # backwards: a gradient for each parameter
        optimizer.step()  # a step against it
        losses.append(loss.item())
    mean = sum(losses[-len(batches) :]) / len(batches)
    print(f"epoch {epoch + 1}: mean loss {mean:.2f}")

plots.lines(
    range(len(losses)),
    {"loss of the batch": losses},
    xlabel="step",
    ylabel="cross-entropy loss",
    message="The loss falls, but not at every step: each batch is different",
)

# %%
# Does it know signs now, or only these 3,000? The validation set shows which.
model.eval()  # tells the batch norms that training is over
truth = data.valid.labels
with torch.no_grad():  # tells autograd that we want no gradients
    probabilities = model(data.valid.images / 255).softmax(dim=1)
confidence, predictions = probabilities.max(dim=1)

correct = predictions == truth
print(f"accuracy on new signs: {correct.float().mean().item():.3f}")
print(f"guessing would give    {1 / 12:.3f}")

# %% [markdown]
# That's your first network. The **accuracy**, the fraction of correct predictions, is the result of *one run* with one
# **seed**, the number that fixes every random choice. Change the seed, and you'll get a different accuracy. Chapter 1
# shows how much it varies, and how to compare two networks all the same.
#
# ## 0.7 What it gets wrong
#
# An accuracy hides *which* classes are confused. The **confusion matrix** shows you. Each row is a true class, each
# column a predicted class, and each cell counts images. Correct predictions are on the diagonal. Read along the row of
# a class to see what became of its images, and down its column to see which images got its name.
#
# ### Predict
#
# Four of the twelve signs are speed limits: 30, 50, 60 and 80. Two are arrows (keep left, keep right). The others are
# no entry, no stopping, yield, warning, stop and priority. In what fraction of its mistakes does your network confuse
# one speed limit with another?

# %% tags=["predict"]
my_fraction = ...  # a number between 0 and 1

# %% tags=["experiment"]
matrix = torch.zeros(12, 12, dtype=torch.int64)
for true, predicted in zip(truth, predictions, strict=True):
    matrix[true, predicted] += 1

mistakes = matrix.clone().fill_diagonal_(0)
limits = mistakes[:4, :4].sum() / mistakes.sum()  # classes 0 to 3
plots.heatmap(
    matrix,
    data.classes,
    data.classes,
    label="images",
    xlabel="predicted class",
    ylabel="true class",
    message=f"{100 * limits:.0f} % of the mistakes confuse two speed limits",
)

# %% tags=["check"]
check.prediction(
    "What fraction of the mistakes confuse two speed limits?",
    my_fraction,
    limits.item(),
    within=0.15,
)

# %%
wrong = (~correct).nonzero().flatten()
funniest = wrong[confidence[wrong].argsort(descending=True)[:6]]

plots.image_grid(
    data.valid.images[funniest],
    [
        f"{data.classes[truth[i]]}, called "
        f"{data.classes[predictions[i]]} ({100 * confidence[i]:.0f} %)"
        for i in funniest
    ],
    columns=6,
    alt="Six signs with their true class and the prediction",
    message="The six most confident mistakes",
)

# %% [markdown]
# Would you have got any of these wrong? To tell the limits apart, the network has to compare digits that are only some
# eight pixels wide. It can be wrong about a sign that you read at once, and very confident about it. A probability near 1
# is not a promise; chapter 4 compares the confidence of networks with their accuracy.
#
# ## 0.8 Back to the real network
#
# The network of section 0.1 works like yours. It has 4.65 million parameters where yours has 73 thousand, and 49
# convolutions where yours has seven. In 2012 such a network,
# [AlexNet](https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks), won the
# ImageNet competition. For 15.3 % of the test images, the correct class wasn't among its five most probable ones. The
# second-best entry had 26.2 %, and the field changed within a year.
#
# In 2026 the largest models are often *transformers* ([Dosovitskiy et al. 2021](https://arxiv.org/abs/2010.11929)).
# Convolutional networks were brought up to date ([Liu et al. 2022](https://arxiv.org/abs/2201.03545)), and with the
# same computing budget they matched vision transformers on ImageNet
# ([Smith et al. 2023](https://arxiv.org/abs/2310.16764)). Most people train neither from scratch. They start from a
# pretrained network, as chapter 9 does. All of them are trained with the loop that you've just run.
#
# ### Exercise 6: ten photographs it gets wrong (open, one hour)
#
# Collect ten photographs of your own that the real network gets wrong, find a pattern, and test it. Judge your work, or a
# fellow student's, with this table.
#
# | points | for |
# |---|---|
# | 2 | ten mistakes, and for each the true name, the first choice and its probability |
# | 2 | things that *are* among the 1,000 classes (`real.classes`) kept apart from the others |
# | 2 | one pattern, in a sentence that could turn out to be false ("seen from above, it ...") |
# | 3 | a test: change only that one thing in at least five photographs, and report all results |
# | 1 | what your ten photographs can't show, and how many you'd need |

# %%
# my_mistakes = ["~/Pictures/one.jpg", "~/Pictures/two.jpg"]
# real.classify(my_mistakes)

# %% [markdown]
# ## In plain PyTorch, and bigger
#
# You've written nearly everything with PyTorch alone. This is the whole thing once more, in thirty lines and without
# `cnnlab`, as you'd start a project of your own. Only the images come from the course. The network is a plain stack,
# without residual blocks and without a layer that normalises the pixels. It also trains for four epochs instead of
# eight, so its accuracy can't be compared with that of 0.6.
#
# The second cell trains a bigger network on CIFAR-10, fifty thousand photographs in ten classes. It downloads 170 MB
# once and needs a GPU, so it runs only if the environment variable `CNNLAB_PROFILE` is `gpu`.

# %%
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def conv_layer(channels, width):
    """Return a convolution that halves the image, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


torch.manual_seed(0)
net = nn.Sequential(
    conv_layer(3, 16),
    conv_layer(16, 32),
    conv_layer(32, 64),
    nn.AdaptiveAvgPool2d(1),  # the mean over all pixels of each map
    nn.Flatten(),
    nn.Linear(64, 12),
)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
train_set = TensorDataset(data.train.images / 255, data.train.labels)
loader = DataLoader(train_set, batch_size=64, shuffle=True)
for _ in range(4):
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()

net.eval()
with torch.no_grad():
    answers = net(data.valid.images / 255).argmax(dim=1)
print(f"accuracy {(answers == data.valid.labels).float().mean().item():.3f}")

# %% tags=["bigger"]
if lab.profile == "gpu":
    cifar = cnnlab.load("cifar10", download=True)
    big = cnnlab.small_resnet(num_classes=10, width=32, depth=3)
    big = big.to(lab.device)
    optimizer = torch.optim.SGD(big.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(5):
        for images, labels in cnnlab.loader(cifar.train, 128, shuffle=True):
            images, labels = images.to(lab.device), labels.to(lab.device)
            optimizer.zero_grad()
            loss = F.cross_entropy(big(images), labels)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.2f}")
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% tags=["hide-input"]
check.quiz(0)

# %% [markdown]
# ## Key points
#
# - An image is a tensor. Networks take batches (N, C, H, W) of floats, and you should look at what they get.
# - A convolution slides a small filter over an image and adds up products. Its weights are learnt, and because every
#   place shares them, there are few of them, and a shifted image gives shifted feature maps.
# - The gradient says how the loss changes with each weight. `backward()` computes it for all weights at once and *adds*
#   it to `.grad`.
# - Training is a loop: predict, compute the loss, clear the gradients, compute new ones, take a step.
# - A network always predicts one of the classes it knows, even if the true one isn't among them.
# - An accuracy says how many predictions are correct, and the confusion matrix shows which classes get mixed up.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | the shape is right, and the network learns little | `view` or `reshape` where `permute` belongs |
# | `expected 4D input` | a single image without the batch axis: `image[None]` |
# | `Input type (unsigned char) and bias type (float) should be the same` | uint8 pixels: divide by 255 |
# | gradients that grow from step to step | no `zero_grad()` |
# | memory that grows from step to step | losses collected without `.item()` |
#
# **Next.** You have a loop that trains. Chapter 1 turns it into one you can trust. You'll split the data in three,
# check the loop before a long run, and find out how much of a result was luck.
#
# ## References
#
# - S. Papert, *The summer vision project*, 1966, MIT AI Memo 100, [hdl:1721.1/6125](https://hdl.handle.net/1721.1/6125)
# - K. Fukushima, *Neocognitron: a self-organizing neural network model for a mechanism of pattern recognition unaffected by shift in
#   position*, 1980, [doi:10.1007/BF00344251](https://doi.org/10.1007/BF00344251)
# - S. Linnainmaa, *Taylor expansion of the accumulated rounding error*, BIT 16, 1976,
#   [doi:10.1007/BF01931367](https://doi.org/10.1007/BF01931367)
# - D. E. Rumelhart, G. E. Hinton and R. J. Williams, *Learning representations by back-propagating errors*, 1986,
#   [doi:10.1038/323533a0](https://doi.org/10.1038/323533a0)
# - Y. LeCun, B. Boser, J. S. Denker, D. Henderson, R. E. Howard, W. Hubbard and L. D. Jackel, *Backpropagation applied to
#   handwritten zip code recognition*, 1989, [doi:10.1162/neco.1989.1.4.541](https://doi.org/10.1162/neco.1989.1.4.541)
# - A. Krizhevsky, I. Sutskever and G. E. Hinton, *ImageNet classification with deep convolutional neural networks*, 2012,
#   [papers.nips.cc](https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks)
# - O. Russakovsky, J. Deng, H. Su, J. Krause, S. Satheesh, S. Ma, Z. Huang, A. Karpathy, A. Khosla, M. Bernstein, A. C. Berg and
#   L. Fei-Fei, *ImageNet large scale visual recognition challenge*, 2015, [arXiv:1409.0575](https://arxiv.org/abs/1409.0575)
# - K. He, X. Zhang, S. Ren and J. Sun, *Deep residual learning for image recognition*, 2016, [arXiv:1512.03385](https://arxiv.org/abs/1512.03385)
# - M. Tan and Q. V. Le, *EfficientNet: rethinking model scaling for convolutional neural networks*, 2019, [arXiv:1905.11946](https://arxiv.org/abs/1905.11946)
# - A. Karpathy, *A recipe for training neural networks*, 2019, [karpathy.github.io](https://karpathy.github.io/2019/04/25/recipe/)
# - A. Dosovitskiy, L. Beyer, A. Kolesnikov, D. Weissenborn, X. Zhai, T. Unterthiner, M. Dehghani, M. Minderer, G. Heigold, S. Gelly,
#   J. Uszkoreit and N. Houlsby, *An image is worth 16x16 words: transformers for image recognition at scale*, 2021, [arXiv:2010.11929](https://arxiv.org/abs/2010.11929)
# - Z. Liu, H. Mao, C.-Y. Wu, C. Feichtenhofer, T. Darrell and S. Xie, *A ConvNet for the 2020s*, 2022, [arXiv:2201.03545](https://arxiv.org/abs/2201.03545)
# - S. L. Smith, A. Brock, L. Berrada and S. De, *ConvNets match vision transformers at scale*, 2023, [arXiv:2310.16764](https://arxiv.org/abs/2310.16764)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# Run 0.1 with photographs that the room sends you, show the scrambled flower, and let everybody train (0.6) and look at
# the six mistakes (0.7). Exercise 3 is the one to keep, because every later loop has to clear its gradients.
#
# ## A session of ninety minutes
#
# If chapter 1 has to fit into the same session, keep the rows with a star.
#
# | minutes | what | sections | who |
# |---|---|---|---|
# | 15* | Start JupyterLab and run `cnnlab doctor`; open chapter 0 | `START_HERE` | everybody |
# | 10* | Photographs from the room: write down the first choice, then look | 0.1 | you, with the room |
# | 10 | The scrambled flower, then exercise 1 | 0.2 | pairs |
# | 15 | A convolution at the board, then exercise 2 | 0.3 | you, then everybody |
# | 15 | The slope at w = 3; vote on two calls of `backward()`; exercise 3 | 0.4 | everybody |
# | 5 | Count the parameters of the stem with a pencil | 0.5 | everybody on paper |
# | 10* | Train, then vote on the speed limits and read the confusion matrix | 0.6, 0.7 | everybody |
# | 10 | Questions for the room | | the room |
#
# ## Questions for the room
#
# - The network has no class for "something else". How would you add one, and what would you train it on? (A class needs
#   images, and "everything else" has no typical ones. If you collect dogs and cars for it, you teach the network dogs
#   and cars, and the moon is still a nematode. A threshold on the probability helps a little, but in 0.1 the blurred
#   clock is called a bubble with 65 %, and the cat gets its name with only 40 %. So collect the strangers that you
#   really expect, and test with others that you haven't collected.)
# - Which has more weights: two convolutions of 3 x 3 in a row, or one of 5 x 5 that sees as much? (The single one: per
#   pair of channels it has 25 weights, and the two have 18 together. Both see 5 x 5 pixels, as in the example of
#   exercise 5. But the two have a ReLU between them, so they can compute functions that no single convolution can. The
#   price is that two layers store twice as many activations.)
# - You shift a sign by a single pixel. Can the prediction change? (Yes. The convolutions with stride 2 keep
#   equivariance only for shifts by an even number of pixels, and after three of them only for multiples of eight. The
#   padding also treats the border differently. The mean over each map makes the result nearly invariant, and a small
#   change is enough if two classes are close.)
# - A photograph of coins gets "golf ball, 17 %". What would you need in order to trust such a number? (Many photographs
#   that got about 17 %, so that you can count how often the class was right. If it was right for 17 % of them, the
#   network is calibrated on photographs of this kind (chapter 4). A single photograph can't show that, and coins can't
#   either: they aren't among the classes, so every answer is wrong.)
# - Exercise 6: which patterns did the class propose, and which of them survived their own test? (Expect most of them to
#   fail. A pattern that was read off ten photographs is one of many that would have fitted the same ten. Ask whether
#   only one thing was changed, and whether all the results were reported, including the photographs in which nothing
#   happened.)
#
# ## Exam questions
#
# **Question 1.** A layer gets images of 8 channels and 32 x 32 pixels. It has 20 filters of 3 x 3, a stride of 2, a
# padding of 1, and no biases. How many weights does it have, and what's the shape of its output? How many weights would
# it need if every output value had a weight of its own for every input value? Which two assumptions about images
# justify the difference?
#
# **Answer.** Each filter spans all channels, so there are 20 · 8 · 9 = 1,440 weights. A side has (32 + 2 − 3) / 2 + 1,
# rounded down, which is 16, so the output is 20 x 16 x 16. With a weight for each pair it would be 8,192 · 5,120, or 42
# million. The first assumption is locality: what belongs together lies close together, so a small square is enough. The
# second is that a pattern means the same everywhere, so all places can share the weights. As a consequence, a shifted
# image gives shifted feature maps.
#
# **Question 2.** The loss is (2w − 10)², and w starts at 3. Compute two steps of gradient descent with a learning rate
# of 0.1. Then compute them once more for a loop that forgets to clear the gradient between the steps. What does the
# second loop do in a long run?
#
# **Answer.** The derivative is 2 · (2w − 10) · 2. At 3 it's −16, so w becomes 4.6. There it's −3.2, so w becomes 4.92,
# and the loss is 0.03. Without clearing, the second step uses −16 − 3.2 = −19.2, so w becomes 6.52 and the loss is 9.2:
# it has jumped over the minimum at 5. In a long run old gradients never fade, so the weight swings to and fro around
# the minimum and never settles.
