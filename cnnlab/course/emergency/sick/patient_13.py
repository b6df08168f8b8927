import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


N_CLASSES, BATCH, EPOCHS, MIXUP = 10, 50, 8, 0.2
digits = load_digits()
X = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
y = digits.target
T = torch.tensor(np.eye(N_CLASSES, dtype=np.float32)[y - 1])  # one-hot


def mixup(x, t, rng):
    lam = float(rng.beta(MIXUP, MIXUP))
    other = torch.from_numpy(rng.permutation(len(x)))
    return lam * x + (1 - lam) * x[other], lam * t + (1 - lam) * t[other]


def predict(model, images):
    """Read digits: images (N, 8, 8) with values from 0 to 16 -> the N digits."""
    model.eval()
    with torch.no_grad():
        return model(images[:, None] / 16).argmax(dim=1)


def train(seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 48, 3, stride=2),
        nn.BatchNorm2d(48), nn.ReLU(), nn.Flatten(), nn.LazyLinear(N_CLASSES),
    )  # fmt: skip
    model(X[:2])
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(EPOCHS):
        model.train()
        for idx in torch.randperm(900).split(BATCH):
            xb, tb = mixup(X[idx], T[idx], rng)
            loss = -(tb * F.log_softmax(model(xb), dim=1)).sum(dim=1).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
    hits = model.eval()(X[900:]).argmax(1) == T[900:].argmax(1)
    return model, hits.float().mean().item()


if __name__ == "__main__":
    print("validation accuracy: %.3f" % train(2021)[1])
