"""Train a convolutional network with torch and torchvision alone.

This is the plain code of the chapters in one file. Each part names the
chapter that explains it; change it there, and run `make fix`.
"""

import argparse
import copy
import math
import os
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.quasirandom import SobolEngine
from torch.utils.data import (
    DataLoader,
    Dataset,
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
    """Train for one epoch; return the mean loss over the samples.

    For mixed precision, pass a dtype; with float16, pass a GradScaler too.
    """
    set_train_mode(model)
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    device, total, count = torch.device(device), 0.0, 0
    for images, targets in loader:
        images = images.to(device, non_blocking=True)
        targets = targets.to(device, non_blocking=True)
        n, size = len(images), microbatch or len(images)
        optimizer.zero_grad()
        for x, y in zip(images.split(size), targets.split(size), strict=True):
            with torch.autocast(
                device.type, dtype, enabled=dtype is not None
            ):
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


def fit(model, train_loader, valid_loader, optimizer, epochs, device):
    """Train; return (training loss, validation accuracy) of each epoch."""
    model.to(device)
    history = []
    for _ in range(epochs):
        loss = train_epoch(
            model, train_loader, optimizer, F.cross_entropy, device
        )
        history.append((loss, evaluate_model(model, valid_loader, device)))
    return history


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
    mix = v2.RandomChoice(
        [
            v2.MixUp(alpha=alpha, num_classes=num_classes),
            v2.CutMix(alpha=alpha, num_classes=num_classes),
        ]
    )

    def collate(samples):
        images, labels = default_collate(samples)
        return mix(images, labels)

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


def make_ema(model, decay):
    def blend(average, weight, n):  # n = t + 1 averages so far
        return average.lerp(weight, 1 - min(decay, n.item() / (n.item() + 9)))

    ema = torch.optim.swa_utils.AveragedModel(model, avg_fn=blend)
    ema.n_averaged += 1  # the initial weights count as the first
    return ema


def save_checkpoint(path, epoch, **parts):
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save(state | {"epoch": epoch}, f"{path}.new")
    Path(f"{path}.new").replace(path)  # a crash leaves the old file


def load_checkpoint(path, **parts):
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["epoch"]


# --- Chapter 7. Debugging training ----------------------------------------


def check_first_loss(model, loader, loss_fn, num_classes):
    """Return the loss of a fresh model on one batch, and log K."""
    images, targets = next(iter(loader))
    model = copy.deepcopy(model).train()  # no running statistics yet
    with torch.no_grad():
        loss = loss_fn(model(images), targets).item()
    return loss, math.log(num_classes)


def overfit_batch(model, batch, optimizer, loss_fn, steps):
    """Train on one batch again and again; return the loss at each step."""
    images, targets = batch
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model(images), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# --- Chapter 8. Choosing hyperparameters ----------------------------------

RANGES = {"lr": (1e-4, 1e-1), "weight_decay": (1e-3, 1.0)}


def sample_settings(n, seed):
    """Return n settings that cover RANGES evenly on log scales."""
    points = SobolEngine(len(RANGES), scramble=True, seed=seed).draw(n)
    settings = []
    for point in points.tolist():
        setting = {}
        for u, name in zip(point, RANGES, strict=True):
            low, high = RANGES[name]
            setting[name] = low * (high / low) ** u
        settings.append(setting)
    return settings


def random_search(
    make_model, train_loader, valid_loader, settings, epochs, device
):
    """Train with each setting; return (accuracy, setting), best first."""
    start = train_loader.generator.get_state()
    results = []
    for setting in settings:
        train_loader.generator.set_state(start)  # the same order
        model = make_model().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), **setting)
        history = fit(
            model, train_loader, valid_loader, optimizer, epochs, device
        )
        results.append((history[-1][1], setting))
    return sorted(results, key=lambda result: result[0], reverse=True)


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


# --- Chapter 10. Fine-tuning ----------------------------------------------

RESNET_STAGES = (
    ("conv1", "bn1"),
    ("layer1",),
    ("layer2",),
    ("layer3",),
    ("layer4",),
    ("fc",),
)


def stage_parameters(model, stage):
    """The parameters of a stage of a torchvision ResNet, 0 the lowest."""
    return [
        parameter
        for name in RESNET_STAGES[stage]
        for parameter in getattr(model, name).parameters()
    ]


def layer_groups(model, lr, decay, weight_decay=0.01):
    """Parameter groups: the head gets lr, each stage below decay times it."""
    groups = []
    for depth, stage in enumerate(reversed(range(len(RESNET_STAGES)))):
        parameters = stage_parameters(model, stage)
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        stage_lr = lr * decay**depth
        groups += [
            {
                "params": matrices,
                "lr": stage_lr,
                "weight_decay": weight_decay,
            },
            {"params": vectors, "lr": stage_lr, "weight_decay": 0.0},
        ]
    return groups


def unfreeze_stage(model, stage):
    for parameter in stage_parameters(model, stage):
        parameter.requires_grad_(True)


# --- Chapter 11. Imbalanced classes ---------------------------------------


def class_weights(labels, num_classes):
    """Return N / (K n_k) for each class; a sample weighs 1 on average."""
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts)


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


class FocalLoss(nn.Module):
    """Cross-entropy that damps samples classified with confidence."""

    def __init__(self, gamma=2.0, weight=None):
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", weight)

    def forward(self, logits, labels):
        loss = F.cross_entropy(logits, labels, reduction="none")
        damped = (1 - (-loss).exp()) ** self.gamma * loss
        if self.weight is None:
            return damped.mean()
        weights = self.weight[labels]
        return (weights * damped).sum() / weights.sum()


# --- Chapter 12. Faster and bigger ----------------------------------------


def setup_ddp():
    """Join the processes of torchrun; return rank and number (0, 1 alone)."""
    if "RANK" not in os.environ:
        return 0, 1
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def use_fast_kernels():
    """Allow TF32, and let cuDNN choose the fastest convolutions."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


# --- Chapter 13. Capstone: your own photographs ---------------------------


def load_folder(folder, size):
    """Return images (N, 3, size, size), labels (N,) and class names."""
    square = v2.Compose(
        [v2.ToImage(), v2.Resize(size, antialias=True), v2.CenterCrop(size)]
    )
    files = ImageFolder(folder, transform=square)
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


def build_model(num_classes, pretrained):
    """Return a new small ResNet, or a ResNet-18 with ImageNet's weights."""
    if not pretrained:
        return SmallResNet(num_classes).apply(init_weights)
    preset = ResNet18_Weights.DEFAULT.transforms()
    normalise = v2.Normalize(preset.mean, preset.std)
    return nn.Sequential(normalise, load_backbone(num_classes))


def parse_options(arguments=None):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description="Train on a folder that has one folder per class."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--test", type=Path, help="evaluate on it at the end")
    parser.add_argument("--valid", type=float, default=0.2, help="fraction")
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--ema", type=float, default=0.99, help="decay")
    parser.add_argument(
        "--patience",
        type=int,
        help="epochs without a gain before stopping early",
    )
    parser.add_argument("--max-norm", type=float, help="clip gradients")
    parser.add_argument(
        "--pretrained", action="store_true", help="use --lr 0.01 --size 224"
    )
    parser.add_argument(
        "--frozen",
        action="store_true",
        help="with --pretrained: train the head alone",
    )
    parser.add_argument(
        "--balanced",
        action="store_true",
        help="draw all classes equally often",
    )
    parser.add_argument(
        "--microbatch", type=int, help="images per gradient accumulation step"
    )
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument(
        "--mix", action="store_true", help="mixup or CutMix on each batch"
    )
    parser.add_argument("--no-augment", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("run.pt"))
    options = parser.parse_args(arguments)
    if options.resume and options.patience:
        parser.error(
            "--resume forgets the best epoch, so --patience can't go on"
        )
    return options


def main(arguments=None):
    """Train as the command line says; return the averaged model."""
    o = parse_options(arguments)
    torch.manual_seed(o.seed)
    device = pick_device()
    if device.type == "cuda":
        use_fast_kernels()
    images, labels, classes = load_folder(o.folder, o.size)
    held_out, known = split_classes(labels, o.valid, o.seed)
    transform = None if o.no_augment else train_transform(o.size)
    train_set = ImageDataset(images[known], labels[known], transform)
    valid_set = ImageDataset(images[held_out], labels[held_out])
    if len(train_set) < o.batch_size:
        raise SystemExit(
            f"{len(train_set)} training images don't fill a batch of "
            f"{o.batch_size}: choose a smaller --batch-size"
        )
    valid = make_loader(valid_set, 256, shuffle=False, seed=0)
    more = {"collate_fn": mix_batch(len(classes))} if o.mix else {}
    load = partial(make_loader, shuffle=True)
    if o.balanced:
        load = partial(balanced_loader, drop_last=True)

    model = build_model(len(classes), o.pretrained)
    if o.pretrained and o.frozen:
        freeze_all_but_head(model[1])
    loss, log_k = check_first_loss(
        model, valid, F.cross_entropy, len(classes)
    )
    print(f"first loss {loss:.2f}, log K = {log_k:.2f}")
    model.to(device)
    ema = make_ema(model, o.ema)
    optimizer = torch.optim.SGD(
        decay_groups(model, o.weight_decay), lr=o.lr, momentum=0.9
    )
    optimizer.register_step_post_hook(lambda *_: ema.update_parameters(model))
    parts = {"model": model, "ema": ema, "optimizer": optimizer}
    if not o.patience:
        steps = o.epochs * (len(train_set) // o.batch_size)
        schedule = make_schedule(optimizer, max(1, steps // 20), steps)
        parts["scheduler"] = schedule
    stopper = EarlyStopper(o.patience or o.epochs)

    start = load_checkpoint(o.out, **parts) if o.resume else 0
    for epoch in range(start, o.epochs):
        torch.manual_seed(o.seed + epoch)  # a resumed run draws the same
        batches = load(train_set, o.batch_size, seed=o.seed + epoch, **more)
        loss = train_epoch(
            model,
            batches,
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
        save_checkpoint(o.out, epoch + 1, **parts)
        if stopper.should_stop(accuracy, ema) and o.patience:
            break
    if o.patience:
        ema.load_state_dict(stopper.best_weights)
    if o.test:
        images, labels, names = load_folder(o.test, o.size)
        labels = torch.tensor([classes.index(n) for n in names])[labels]
        test = make_loader(ImageDataset(images, labels), 256, False, 0)
        print(f"test accuracy {evaluate_model(ema, test, device):.3f}")
    return ema.module


if __name__ == "__main__":
    main()
