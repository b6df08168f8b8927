import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import cnnlab


def load_dashcam(seed, n=720):
    """Return photographs (n, 32, 32, 3), uint8, from cv2.imread, and their labels."""
    photos = cnnlab.load("pocket", seed=seed, n_train=n, n_valid=12, n_test=12, level="easy").train
    images = np.stack([image.flip(0).permute(1, 2, 0).numpy() for image, _ in photos])
    return (images * 255).round().astype(np.uint8), np.array([label for _, label in photos])


def to_tensor(image):
    return torch.from_numpy(np.float32(image) / 255).permute(2, 0, 1)


@torch.no_grad()
def predict(model, images):
    """Classify what our app opened with PIL: (N, 32, 32, 3) of uint8."""
    x = torch.as_tensor(images).float().div(255).permute(0, 3, 1, 2)
    return model.eval()(x).argmax(1)


def train(seed):
    torch.manual_seed(seed)
    samples = [(to_tensor(image), label) for image, label in zip(*load_dashcam(seed))]
    train_loader = DataLoader(samples[:600], batch_size=30, shuffle=True)
    val_loader = DataLoader(samples[600:], batch_size=60)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(32 * 9, 12),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(10):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    model.eval()
    correct = sum((model(x).argmax(1) == y).sum().item() for x, y in val_loader)
    return model, correct / len(val_loader.dataset)


if __name__ == "__main__":
    print(f"validation: {train(seed=0)[1]:.3f}")
