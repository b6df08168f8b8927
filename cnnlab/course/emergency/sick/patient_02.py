import numpy as np
import torch
from torch import nn

import cnnlab


def load_frames(seed, n_signs=240, n_frames=8):
    """Return a video frame per row: every sign was filmed from a car, in 8 frames in a row."""
    signs = cnnlab.load("pocket", seed=seed, n_train=n_signs, n_valid=12, n_test=12, level="medium")
    rng = np.random.default_rng(seed)
    frames, labels = [], []
    for image, label in signs.train:
        for _ in range(n_frames):
            shift = rng.integers(-1, 2, size=2).tolist()
            frames.append(torch.roll(image, shift, dims=(1, 2)) * rng.uniform(0.8, 1.2))
            labels.append(label)
    return torch.stack(frames).float(), torch.tensor(labels)


@torch.no_grad()
def predict(model, images):
    return model.eval()(images).argmax(1)


def train(seed):
    torch.manual_seed(seed)
    x, y = load_frames(seed)
    order = torch.randperm(len(x))
    train_idx, val_idx = order[: len(x) // 2], order[len(x) // 2 :]

    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 6 * 6, 12),
    )  # fmt: skip
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(8):
        model.train()
        for idx in train_idx[torch.randperm(len(train_idx))].split(32):
            opt.zero_grad()
            nn.functional.cross_entropy(model(x[idx]), y[idx]).backward()
            opt.step()
    val_acc = (predict(model, x[val_idx]) == y[val_idx]).float().mean().item()
    return model, val_acc


if __name__ == "__main__":
    print(f"validation accuracy: {train(seed=0)[1]:.1%}")
