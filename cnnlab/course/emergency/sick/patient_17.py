import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


BATCH_SIZE, EPOCHS, SHIFT, NOISE = 25, 40, 1, 3.0


def distort(images, rng):
    """Move each image (N, 8, 8) by up to a pixel and add noise."""
    moved = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    dy, dx = rng.integers(0, 2 * SHIFT + 1, size=(2, len(images)))
    moved = [image[y : y + 8, x : x + 8] for image, y, x in zip(moved, dy, dx)]
    return np.stack(moved) + NOISE * rng.standard_normal(images.shape)


def batches(images, labels, seed):
    rng = np.random.default_rng(seed)
    for index in rng.permutation(len(images)).reshape(-1, BATCH_SIZE):
        yield torch.tensor(distort(images[index], rng)).float(), torch.tensor(labels[index])


def predict(model, images):
    with torch.no_grad():
        return model(images.unsqueeze(1).float() / 16).argmax(1)


def train(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    model = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(EPOCHS):
        for x, y in batches(digits.images[:200], digits.target[:200], seed):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x.unsqueeze(1) / 16), y)
            loss.backward()
            optimizer.step()
    print(f"loss after epoch {epoch + 1}: {loss.item():.4f}")
    distorted = torch.tensor(distort(digits.images[200:], np.random.default_rng(seed + 1)))
    hits = predict(model, distorted) == torch.tensor(digits.target[200:])
    return model, hits.float().mean().item()


if __name__ == "__main__":
    print(f"accuracy on distorted digits: {train(0)[1]:.3f}")
