# One network, two tasks: learn the digits 0 to 4, freeze the body, then add the digits 5 to 9.
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy


class TwoTasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.low, self.high = nn.Linear(64, 5), nn.Linear(64, 5)


def predict(model, images, task="low"):
    """Return the digits of images (N, 8, 8): "low" are the digits 0 to 4, "high" 5 to 9."""
    with torch.no_grad():
        scores = getattr(model, task)(model.body(images.flatten(1) / 16))
    return scores.argmax(1) + (5 if task == "high" else 0)


def score(model, images, labels):
    return (predict(model, images) == labels).float().mean().item()


def fit(model, head, optimizer, x, y, epochs):
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(32):
            for p in model.parameters():
                if p.grad is not None:
                    p.grad.zero_()
            cross_entropy(head(model.body(x[i])), y[i]).backward()
            optimizer.step()


def train(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    low, held_out = labels < 5, torch.arange(len(labels)) >= 900
    old_test = images[low & held_out], labels[low & held_out]
    x = images.flatten(1) / 16

    model = TwoTasks()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-3)
    fit(model, model.low, optimizer, x[low & ~held_out], labels[low & ~held_out], epochs=10)
    accuracy = score(model, *old_test)
    print(f"digits 0 to 4: accuracy {accuracy:.3f}")

    for p in [*model.body.parameters(), *model.low.parameters()]:
        p.requires_grad = False
    fit(model, model.high, optimizer, x[~low & ~held_out], labels[~low & ~held_out] - 5, epochs=40)
    print(f"digits 0 to 4, after learning 5 to 9: accuracy {score(model, *old_test):.3f}")
    return model, accuracy


if __name__ == "__main__":
    train(seed=0)
