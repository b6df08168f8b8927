import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset


config = {"epochs": 8, "batch_size": 32, "max_lr": 0.1, "momentum": 0.9, "seed": 42}


def predict(model, images):
    with torch.no_grad():
        return model(images / 16).argmax(-1)


def train_one_epoch(model, loader, optimizer):
    total = 0.0
    for x, y in loader:
        loss = F.cross_entropy(model(x / 16), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def train(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(x[:960], y[:960]), config["batch_size"], shuffle=True)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=config["momentum"])
    total_steps = config["epochs"] * len(loader)
    scheduler = OneCycleLR(optimizer, config["max_lr"], total_steps, cycle_momentum=False)
    for epoch in range(config["epochs"]):
        loss = train_one_epoch(model, loader, optimizer)
        scheduler.step()
        print(f"[{epoch + 1}/{config['epochs']}] loss={loss:.4f}")
    accuracy = (predict(model, x[960:]) == y[960:]).float().mean().item()
    return model, accuracy


if __name__ == "__main__":
    print("final accuracy", train(config["seed"])[1])
