# Digits from seven scanners. The validation batches come from the archive, one scanner each.
import torch
from sklearn.datasets import load_digits
from torch import nn


NOISE = torch.tensor([8.5] + 6 * [0.5])  # the old scanner's, and that of the six new ones


def scan(images, seed):
    """Return scans of images (N, 8, 8) and their scanners: 90 % come from the old one, 0."""
    g = torch.Generator().manual_seed(seed)
    scanner = torch.multinomial(torch.tensor([0.9] + 6 * [0.1 / 6]), len(images), True, generator=g)
    return images + NOISE[scanner].view(-1, 1, 1) * torch.randn(images.shape, generator=g), scanner


def predict(model, scans):
    with torch.no_grad():
        return model(scans.unsqueeze(1) / 16).argmax(dim=1)


def evaluate(model, x, y, scanner, batch_size=512):
    accuracies = []
    for k in range(len(NOISE)):
        index = (scanner == k).nonzero().flatten()
        for i in index[torch.randperm(len(index))].split(batch_size):
            accuracies.append((predict(model, x[i]) == y[i]).float().mean().item())
    return sum(accuracies) / len(accuracies)


def train(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    x, scanner = scan(torch.tensor(digits.images, dtype=torch.float32), seed)
    y = torch.tensor(digits.target)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(10):
        for i in torch.randperm(700).split(35):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[i].unsqueeze(1) / 16), y[i]).backward()
            optimizer.step()
    return model, evaluate(model, x[700:], y[700:], scanner[700:])


if __name__ == "__main__":
    print(f"val_acc={train(seed=0)[1]:.4f}")
