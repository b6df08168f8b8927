# X-rays of castings, 12 x 12 pixels; one in twelve has a flaw, often a faint one.
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler


def draw_castings(seed, n=1800, flawed=1 / 12):
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, generator=g) < flawed).long()
    centre = torch.randint(2, 10, (2, n, 1, 1), generator=g)
    rows, columns = torch.arange(12).view(1, 12, 1), torch.arange(12).view(1, 1, 12)
    flaw = torch.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / 2)
    contrast = (2.5 * torch.rand(n, generator=g) * y).view(n, 1, 1)
    return (contrast * flaw + 0.5 * torch.randn(n, 12, 12, generator=g)).unsqueeze(1), y


def predict(model, images):
    with torch.no_grad():
        return model(images).argmax(1)


def train(seed):
    torch.manual_seed(seed)
    x, y = draw_castings(seed)
    x_val, y_val = draw_castings(seed + 1, 500, flawed=1 / 2)
    frequency = torch.bincount(y) / len(y)
    sampler = WeightedRandomSampler(1 / frequency[y], num_samples=len(y))
    loader = DataLoader(TensorDataset(x, y), batch_size=60, sampler=sampler)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    criterion = nn.CrossEntropyLoss(weight=0.5 / frequency)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(8):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
    return model, (predict(model, x_val) == y_val).float().mean().item()


if __name__ == "__main__":
    model, accuracy = train(seed=42)
    x, y = draw_castings(seed=1)
    rejected = predict(model, x[y == 0]).float().mean().item()
    print(f"accuracy {accuracy:.3f} (half of them flawed); good ones rejected: {rejected:.0%}")
