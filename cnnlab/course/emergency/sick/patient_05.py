# Read a pressure gauge from a photograph: 0 bar is left, 10 bar is right.
import torch
from torch import nn


def draw_gauges(seed, n=600):
    """Return n gauges, (n, 1, 16, 16), and their pressures in bar, (n,)."""
    g = torch.Generator().manual_seed(seed)
    pressure = 10 * torch.rand(n, generator=g)
    angle = (torch.pi * (1 - pressure / 10)).view(n, 1, 1)
    y, x = torch.meshgrid(torch.linspace(1, -0.2, 16), torch.linspace(-1, 1, 16), indexing="ij")
    along = x * angle.cos() + y * angle.sin()
    across = x * angle.sin() - y * angle.cos()
    needle = torch.exp(-((across / 0.1) ** 2)) * (along > 0)
    return (needle + 0.2 * torch.randn(n, 16, 16, generator=g)).unsqueeze(1), pressure


def predict(model, images):
    with torch.no_grad():
        return model(images).flatten()


def train(seed):
    torch.manual_seed(seed)
    x, pressure = draw_gauges(seed, 800)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 16, 64), nn.ReLU(), nn.Linear(64, 1),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(15):
        for i in torch.randperm(600).split(32):
            loss = ((model(x[i]) - pressure[i]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        error = (model(x[600:]) - pressure[600:]).abs().mean()
    return model, error.item()


if __name__ == "__main__":
    model, error = train(seed=0)
    print(f"mean absolute error: {error:.2f} bar")
    images, pressure = draw_gauges(seed=1, n=5)
    print("shown", pressure, "read", predict(model, images))
