# Mixed precision with a gradient scaler, after the PyTorch recipe, plus gradient clipping.
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.amp import GradScaler, autocast
from torch.utils.data import DataLoader, TensorDataset


DEVICE = "cpu"
hparams = {"lr": 0.1, "momentum": 0.9, "max_norm": 1.0, "epochs": 7}


def build_model(width=24):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * width, 10),
    )  # fmt: skip


def predict(model, images):
    """Return the digits on images (N, 8, 8) with pixels from 0 to 16."""
    with torch.no_grad(), autocast(DEVICE, dtype=torch.bfloat16):
        return model(images[:, None] / 16).argmax(dim=1)


def train(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images[:960], labels[:960]), batch_size=40, shuffle=True)
    model, loss_fn = build_model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), hparams["lr"], hparams["momentum"])
    scaler = GradScaler(DEVICE)
    for epoch in range(hparams["epochs"]):
        for x, y in loader:
            optimizer.zero_grad()
            with autocast(DEVICE, dtype=torch.bfloat16):
                loss = loss_fn(model(x[:, None] / 16), y)
            scaler.scale(loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), hparams["max_norm"])
            scaler.step(optimizer)
            scaler.update()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    return model, (predict(model, images[960:]) == labels[960:]).float().mean().item()


if __name__ == "__main__":
    print(f"accuracy: {train(seed=0)[1]:.3f}")
