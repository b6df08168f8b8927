# Learn from crowd-sourced labels, a quarter of them wrong, with an average of the weights.
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn


class WeightAverage:
    """Exponential moving average of a model's weights (Tarvainen and Valpola, 2017)."""

    def __init__(self, model, decay=0.98):
        self.decay = decay
        self.model = copy.deepcopy(model).eval()

    @torch.no_grad()
    def update(self, model):
        for average, p in zip(self.model.parameters(), model.parameters()):
            average.lerp_(p, 1 - self.decay)


def crowd(labels, wrong=0.25):
    """Return labels of which a part is replaced at random."""
    return torch.where(torch.rand(len(labels)) < wrong, labels[torch.randperm(len(labels))], labels)


def predict(model, images):
    model.eval()
    with torch.no_grad():
        return model(images.unsqueeze(1) / 16).argmax(dim=1)


def train(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    x, y = images[:900].unsqueeze(1) / 16, crowd(labels[:900])

    student = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    teacher = WeightAverage(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(10):
        student.train()
        for i in torch.randperm(900).split(15):
            optimizer.zero_grad()
            nn.functional.cross_entropy(student(x[i]), y[i]).backward()
            optimizer.step()
            teacher.update(student)
    last = (predict(student, images[900:]) == labels[900:]).float().mean()
    accuracy = (predict(teacher.model, images[900:]) == labels[900:]).float().mean()
    print(f"last weights {last:.3f}, averaged {accuracy:.3f}")
    return teacher.model, accuracy.item()


if __name__ == "__main__":
    train(seed=0)
