import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import cnnlab


def load_dashcam(seed, n=720):
    """Return photographs (n, 32, 32, 3), uint8, from cv2.imread, and their labels."""
    photos = cnnlab.load("pocket", seed=seed, n_train=n, n_valid=12, n_test=12, level="easy").train
    images = np.stack([image.flip(0).permute(1, 2, 0).numpy() for image, _ in photos])
    return (images * 255).round().astype(np.uint8), np.array([label for _, label in photos])


class DashcamDataset(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = np.ascontiguousarray(self.images[i], dtype=np.float32)
        return torch.from_numpy(image / 255).permute(2, 0, 1), self.labels[i]


def predict(model, images):
    """Classify what our app opened with PIL: (N, 32, 32, 3) of uint8."""
    model.eval()
    with torch.no_grad():
        return model(torch.as_tensor(images).float().div(255).permute(0, 3, 1, 2)).argmax(1)


def train(seed):
    torch.manual_seed(seed)
    images, labels = load_dashcam(seed)
    train_loader = DataLoader(DashcamDataset(images[:600], labels[:600]), 30, shuffle=True)
    val_loader = DataLoader(DashcamDataset(images[600:], labels[600:]), 60)

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
    with torch.no_grad():
        correct = sum((model(x).argmax(1) == y).sum().item() for x, y in val_loader)
    return model, correct / len(val_loader.dataset)


if __name__ == "__main__":
    print(f"validation: {train(seed=0)[1]:.3f}")
