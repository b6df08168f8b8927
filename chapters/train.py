"""Train a convolutional network with torch and torchvision alone.

This is the plain code of the chapters in one file, as far as `main`, at the
end, needs it. A comment names the chapter that explains each part.
"""

import argparse
import copy
import io
import math
import os
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    WeightedRandomSampler,
    default_collate,
)
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.transforms import v2


# --- Chapter 1. The training loop -----------------------------------------
class ImageDataset(Dataset):
    """Images (N, 3, H, W) of uint8 and their labels, one pair at a time.

    A transform that returns floats has to bring them to 0..1 itself.
    """

    def __init__(self, images, labels, transform=None):
        self.images, self.labels = images, labels
        self.transform = transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if self.transform is not None:
            image = self.transform(image)
        if image.dtype == torch.uint8:
            image = image / 255
        return image, self.labels[index]


def make_loader(dataset, batch_size, shuffle, seed, **options):
    """Return a DataLoader whose order depends only on the seed.

    For a GPU, add `pin_memory=True`, which makes the copies faster.
    """
    return DataLoader(
        dataset,
        batch_size,
        shuffle=shuffle,
        drop_last=shuffle,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def pick_device():
    """Return the GPU, if CUDA finds one, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# --- Chapter 12. Faster and bigger ----------------------------------------
def train_epoch(
    model,
    loader,
    optimizer,
    loss_fn,
    device,
    scheduler=None,
    max_norm=None,
    microbatch=None,
    dtype=None,
    scaler=None,
):
    """Train for one epoch; return the mean loss over the samples."""
    set_train_mode(model)
    device, total, count = torch.device(device), 0.0, 0
    autocast = torch.autocast(device.type, dtype, enabled=dtype is not None)
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    for images, targets in loader:
        images = images.to(device, non_blocking=True)
        targets = targets.to(device, non_blocking=True)
        n, size = len(images), microbatch or len(images)
        optimizer.zero_grad()
        for x, y in zip(images.split(size), targets.split(size), strict=True):
            with autocast:
                loss = loss_fn(model(x), y) * (len(x) / n)
            scaler.scale(loss).backward()
            total += loss.item() * n
        if max_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        scaler.step(optimizer)
        scaler.update()
        if scheduler is not None:
            scheduler.step()
        count += n
    return total / count


# --- Chapter 1. The training loop -----------------------------------------
@torch.inference_mode()  # as no_grad, and a little faster
def evaluate_model(model, loader, device):
    """Return the accuracy over all samples."""
    model.eval()
    correct, count = 0, 0
    for images, labels in loader:
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        correct += (model(images).argmax(dim=1) == labels).sum().item()
        count += len(labels)
    return correct / count


# --- Chapter 2. Normalisation, initialisation, regularisation -------------
class ResidualBlock(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        shortcut = nn.Conv2d(channels, width, 1, 2, bias=False)
        self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x):
        out = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(out)) + self.shortcut(x)).relu()


class SmallResNet(nn.Module):
    def __init__(self, num_classes=12):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 1, 1), 0.45))
        self.register_buffer("std", torch.full((1, 1, 1), 0.25))
        conv = nn.Conv2d(3, 16, 3, 2, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU())
        blocks = ResidualBlock(16, 32), ResidualBlock(32, 64)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        x = self.blocks(self.stem((x - self.mean) / self.std))
        return self.head(x.mean(dim=(2, 3)))


def init_weights(module):
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def decay_groups(model, weight_decay):
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    decayed = {"params": weights, "weight_decay": weight_decay}
    return [decayed, {"params": others, "weight_decay": 0.0}]


# --- Chapter 3. Data augmentation -----------------------------------------
def train_transform(size):
    """Return the transform of a uint8 training image (3, size, size)."""
    return v2.Compose(
        [
            v2.RandomCrop(size, padding=size // 8),
            v2.RandomHorizontalFlip(p=0.5),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


# --- Chapter 4. Mixup and CutMix ------------------------------------------
def mix_batch(num_classes, alpha=1.0):
    """Return a collate function that applies mixup or CutMix to a batch."""
    options = {"alpha": alpha, "num_classes": num_classes}
    mix = v2.RandomChoice([v2.MixUp(**options), v2.CutMix(**options)])

    def collate(samples):
        return mix(*default_collate(samples))

    return collate


# --- Chapter 5. Learning-rate schedules -----------------------------------
def make_schedule(optimizer, warmup_steps, total_steps):
    """Return a scheduler: warm-up, then cosine to 0; step it per batch."""
    rise = LinearLR(optimizer, 1 / warmup_steps, total_iters=warmup_steps)
    fall = CosineAnnealingLR(optimizer, T_max=total_steps - warmup_steps)
    return SequentialLR(optimizer, [rise, fall], milestones=[warmup_steps])


# --- Chapter 6. Knowing when to stop, and averaging -----------------------
class EarlyStopper:
    """Keep the best weights, and say when the patience has run out."""

    def __init__(self, patience, min_delta=0.0):
        self.patience, self.min_delta = patience, min_delta
        self.best = self.to_beat = -float("inf")
        self.bad_epochs, self.best_weights = 0, None

    def should_stop(self, accuracy, model):
        if accuracy > self.best:
            self.best = accuracy
            self.best_weights = copy.deepcopy(model.state_dict())
        self.bad_epochs += 1
        if accuracy > self.to_beat + self.min_delta:
            self.to_beat, self.bad_epochs = accuracy, 0
        return self.bad_epochs >= self.patience

    def state_dict(self):
        return vars(self)

    def load_state_dict(self, state):
        vars(self).update(state)


def make_ema(model, decay):
    def blend(average, weight, n):  # n = t + 1 averages so far
        return average.lerp(weight, 1 - min(decay, n.item() / (n.item() + 9)))

    ema = torch.optim.swa_utils.AveragedModel(model, avg_fn=blend)
    ema.n_averaged += 1  # the initial weights count as the first
    return ema


def save_checkpoint(path, parts, **facts):
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save(state | facts, f"{path}.new")
    Path(f"{path}.new").replace(path)  # a crash leaves the old file


def load_checkpoint(path, parts):
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state


# --- Chapter 7. Debugging training ----------------------------------------
def check_first_loss(model, loader, loss_fn, num_classes):
    """Return the loss of a fresh model on one batch, and log K."""
    images, targets = next(iter(loader))
    model = copy.deepcopy(model).train()  # no running statistics yet
    with torch.no_grad():
        loss = loss_fn(model(images), targets).item()
    return loss, math.log(num_classes)


# --- Chapter 9. Transfer learning -----------------------------------------
def load_backbone(num_classes, weights=ResNet18_Weights.DEFAULT):
    """Return a ResNet-18, pretrained on ImageNet, with a new head."""
    model = resnet18(weights=weights)
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def freeze_all_but_head(model):
    model.requires_grad_(False)
    model.fc.requires_grad_(True)


def set_train_mode(model):
    """Start an epoch; frozen batch-norm layers stay in evaluation mode."""
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # with affine=True
            layer.train(layer.weight.requires_grad)


# --- Chapter 11. Imbalanced classes ---------------------------------------
def balanced_loader(dataset, batch_size, seed, **options):
    """Return a DataLoader that draws all classes equally often.

    The dataset has its class indices in `labels`, as `ImageDataset` does.
    """
    counts = torch.bincount(dataset.labels)
    sampler = WeightedRandomSampler(
        (1 / counts)[dataset.labels],  # one weight per sample
        num_samples=len(dataset),
        generator=torch.Generator().manual_seed(seed),
    )
    return DataLoader(dataset, batch_size, sampler=sampler, **options)


# --- Chapter 12. Faster and bigger ----------------------------------------
def setup_ddp():
    """Join the processes of torchrun; return rank and number (0, 1 alone)."""
    if "RANK" not in os.environ:
        return 0, 1
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def ddp_loader(dataset, batch_size, seed, **options):
    """Return a DataLoader of this process's share of the data."""
    sampler = DistributedSampler(dataset, seed=seed, drop_last=True)
    share = max(1, batch_size // dist.get_world_size())
    return DataLoader(dataset, share, sampler=sampler, **options)


def use_fast_kernels():
    """Allow TF32, and let cuDNN choose the fastest convolutions."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


# --- Chapter 13. Capstone: your own photographs ---------------------------
def load_image(path, size):
    """Return an image file, upright and square, as uint8 (3, size, size)."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
    except (OSError, SyntaxError) as error:
        raise SystemExit(f"can't read {path}: {error}") from None
    if image.mode != "I;16":  # 16 bits of grey, which convert() would clip
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
        image = image.convert("RGB")
    image = v2.functional.to_image(image).expand(3, -1, -1)
    image = v2.functional.to_dtype(image, torch.uint8, scale=True)
    return v2.functional.center_crop(v2.functional.resize(image, size), size)


def load_folder(folder, size):
    """Return images (N, 3, size, size), labels (N,) and class names."""
    try:
        files = ImageFolder(folder, loader=partial(load_image, size=size))
    except OSError as error:  # no folder, no classes, or an empty class
        raise SystemExit(str(error)) from None
    images = torch.stack([image for image, _ in files])
    return images, torch.tensor(files.targets), files.classes


def split_classes(labels, fraction, seed):
    """Return indices: a fraction of each class, and all others."""
    rng = torch.Generator().manual_seed(seed)
    chosen, others = [], []
    for label in labels.unique():
        indices = (labels == label).nonzero().flatten()
        indices = indices[torch.randperm(len(indices), generator=rng)]
        n = max(1, round(fraction * len(indices)))
        chosen.append(indices[:n])
        others.append(indices[n:])
    return torch.cat(chosen), torch.cat(others)


def build_model(num_classes, small, pretrained=True):
    """Return a new small ResNet, or a ResNet-18 with ImageNet's weights."""
    if small:
        return SmallResNet(num_classes).apply(init_weights)
    preset = ResNet18_Weights.DEFAULT.transforms()
    weights = ResNet18_Weights.DEFAULT if pretrained else None
    try:
        backbone = load_backbone(num_classes, weights)
    except OSError as error:
        raise SystemExit(
            f"can't download ResNet-18: {error}; --small needs no download"
        ) from None
    return nn.Sequential(v2.Normalize(preset.mean, preset.std), backbone)


def predict(path, image):
    """Return the class of an image file and its probability.

    All else comes from the file that training wrote to the path.
    """
    state = load_checkpoint(path, {})
    if "classes" not in state:
        raise SystemExit(f"{path} has no class names: train it again")
    classes, small = state["classes"], state["small"]
    model = make_ema(build_model(len(classes), small, pretrained=False), 0)
    stopper = state.get("stopper")
    model.load_state_dict(
        stopper["best_weights"] if stopper else state["ema"]
    )
    pixels = load_image(image, state["size"])[None] / 255
    with torch.inference_mode():
        probabilities = model.eval()(pixels).softmax(dim=1)[0]
    return classes[probabilities.argmax()], probabilities.max().item()


def parse_options(arguments=None):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Train on your own images.")
    add = parser.add_argument
    add("path", help="one folder per class; with --predict, an image")
    add("--predict", action="store_true", help="classify it with --out")
    add("--test", help="a folder, evaluated once at the end")
    add("--small", action="store_true", help="a small net, from scratch")
    add("--frozen", action="store_true", help="train only ResNet-18's head")
    add("--size", type=int, help="pixels: 224, or 32 with --small")
    add("--lr", type=float, help="0.01, or 0.1 with --small")
    add("--valid", type=float, default=0.2, help="fraction held out")
    add("--epochs", type=int, default=40)
    add("--batch-size", type=int, default=32)
    add("--weight-decay", type=float, default=5e-4)
    add("--ema", type=float, default=0.99, help="decay of the average")
    add("--patience", type=int, help="stop early, with a constant lr")
    add("--max-norm", type=float, help="clip gradients")
    add("--mix", action="store_true", help="mixup or CutMix on each batch")
    add("--balanced", action="store_true", help="draw classes equally often")
    add("--microbatch", type=int, help="images per accumulation step")
    add("--bf16", action="store_true", help="mixed precision")
    add("--no-augment", action="store_true")
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="go on from --out")
    add("--out", default="run.pt")
    o = parser.parse_args(arguments)
    o.size = o.size or (32 if o.small else 224)
    o.lr = o.lr or (0.1 if o.small else 0.01)
    return o


def load_splits(o):
    """Return a training set, a validation loader and the class names."""
    images, labels, classes = load_folder(o.path, o.size)
    counts = labels.bincount().tolist()
    print("images per class:", dict(zip(classes, counts, strict=True)))
    if len(classes) < 2 or min(counts) < 2:
        raise SystemExit("you need at least two classes of two images each")
    held_out, known = split_classes(labels, o.valid, o.seed)
    transform = None if o.no_augment else train_transform(o.size)
    train_set = ImageDataset(images[known], labels[known], transform)
    valid_set = ImageDataset(images[held_out], labels[held_out])
    return train_set, make_loader(valid_set, 256, False, seed=0), classes


def evaluate_folder(o, model, classes, device):
    """Return the accuracy on the folder of `--test`."""
    images, labels, names = load_folder(o.test, o.size)
    if unknown := {*names} - {*classes}:
        raise SystemExit(f"{o.path} has no images of {unknown}")
    labels = torch.tensor([classes.index(name) for name in names])[labels]
    test = make_loader(ImageDataset(images, labels), 256, False, seed=0)
    return evaluate_model(model, test, device)


def main(arguments=None):
    """Train as the command line says; return the averaged model."""
    o = parse_options(arguments)
    if o.predict:
        name, probability = predict(o.out, o.path)
        print(f"{name}, p = {probability:.2f}")
        return None
    rank, world_size = setup_ddp()
    if world_size > 1 and (o.balanced or o.patience):
        raise SystemExit("--balanced and --patience need a single process")
    if rank > 0:
        sys.stdout = io.StringIO()  # only the first process prints
    torch.manual_seed(o.seed)
    device = pick_device()
    if device.type == "cuda":
        use_fast_kernels()
    train_set, valid, classes = load_splits(o)
    K, batch_size = len(classes), min(o.batch_size, len(train_set))
    load = partial(make_loader, shuffle=True)
    if o.balanced:
        load = partial(balanced_loader, drop_last=True)
    if world_size > 1:
        load = partial(ddp_loader, drop_last=True)
    more = {"collate_fn": mix_batch(K)} if o.mix else {}

    model = build_model(K, o.small)
    if o.frozen and not o.small:
        freeze_all_but_head(model[1])
    loss, log_k = check_first_loss(model, valid, F.cross_entropy, K)
    print(f"first loss {loss:.2f}, log K = {log_k:.2f}")
    model.to(device)
    parallel = DDP(model) if world_size > 1 else model
    ema = make_ema(model, o.ema)
    groups = decay_groups(model, o.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=o.lr, momentum=0.9)
    optimizer.register_step_post_hook(lambda *_: ema.update_parameters(model))
    parts = {"model": model, "ema": ema, "optimizer": optimizer}
    if o.patience:
        parts["stopper"] = EarlyStopper(o.patience)
    else:
        steps = max(2, o.epochs * len(load(train_set, batch_size, seed=0)))
        rise = max(1, steps // 20)
        parts["scheduler"] = make_schedule(optimizer, rise, steps)

    facts = {"classes": classes, "size": o.size, "small": o.small}
    start = load_checkpoint(o.out, parts)["epoch"] if o.resume else 0
    for epoch in range(start, o.epochs):
        seed = o.seed + epoch  # a resumed run draws the same
        torch.manual_seed(seed + 1000 * rank)
        loss = train_epoch(
            parallel,
            load(train_set, batch_size, seed=seed, **more),
            optimizer,
            F.cross_entropy,
            device,
            scheduler=parts.get("scheduler"),
            max_norm=o.max_norm,
            microbatch=o.microbatch,
            dtype=torch.bfloat16 if o.bf16 else None,
        )
        accuracy = evaluate_model(ema, valid, device)
        print(f"epoch {epoch + 1}: loss {loss:.3f}, valid {accuracy:.3f}")
        stop = o.patience and parts["stopper"].should_stop(accuracy, ema)
        if rank == 0:
            save_checkpoint(o.out, parts, epoch=epoch + 1, **facts)
        if stop:
            break
    if o.patience:
        ema.load_state_dict(parts["stopper"].best_weights)
    if o.test:
        accuracy = evaluate_folder(o, ema, classes, device)
        print(f"test accuracy {accuracy:.3f}")
    if world_size > 1:
        dist.destroy_process_group()
    return ema.module


if __name__ == "__main__":
    main()
