# One network, two tasks: learn the digits 0 to 4, freeze the body, then add the digits 5 to 9.
import torch
from sklearn.datasets import load_digits
from torch import nn


class TwoTasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.low, self.high = nn.Linear(64, 5), nn.Linear(64, 5)


@torch.no_grad()
def predict(model, images, task="low"):
    """Return the digits of images (N, 8, 8): "low" are the digits 0 to 4, "high" 5 to 9."""
    digits = getattr(model, task)(model.body(images.flatten(1) / 16)).argmax(1)
    return digits + 5 if task == "high" else digits


def fit(model, head, optimizer, x, y, epochs):
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(32):
            for p in model.parameters():
                if p.grad is not None:
                    p.grad.zero_()
            nn.functional.cross_entropy(head(model.body(x[i].flatten(1) / 16)), y[i]).backward()
            optimizer.step()


def train(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    x, y, low = images[:900], labels[:900], labels[900:] < 5
    test_images, test_labels = images[900:][low], labels[900:][low]
    model = TwoTasks()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-3)
    fit(model, model.low, optimizer, x[y < 5], y[y < 5], epochs=10)
    before = (predict(model, test_images) == test_labels).float().mean().item()
    for p in [*model.body.parameters(), *model.low.parameters()]:
        p.requires_grad = False
    fit(model, model.high, optimizer, x[y >= 5], y[y >= 5] - 5, epochs=40)
    after = (predict(model, test_images) == test_labels).float().mean().item()
    print(f"digits 0 to 4: accuracy {before:.3f}, after learning 5 to 9 {after:.3f}")
    return model, before


if __name__ == "__main__":
    train(seed=0)
