# Learn from crowd-sourced labels, a quarter of them wrong, with an average of the weights.
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn


@torch.no_grad()
def update_average(teacher, student, decay=0.98):
    """Move the teacher's weights towards the student's (Tarvainen and Valpola, 2017)."""
    for average, p in zip(teacher.parameters(), student.parameters()):
        average.lerp_(p, 1 - decay)


@torch.no_grad()
def predict(model, images):
    return model.eval()(images.unsqueeze(1) / 16).argmax(dim=1)


def train(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    x, wrong = images[:900].unsqueeze(1) / 16, torch.rand(900) < 0.25
    y = torch.where(wrong, labels[torch.randperm(900)], labels[:900])  # what the crowd says

    student = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    teacher = copy.deepcopy(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(10):
        student.train()
        for i in torch.randperm(900).split(15):
            optimizer.zero_grad()
            nn.functional.cross_entropy(student(x[i]), y[i]).backward()
            optimizer.step()
            update_average(teacher, student)
    last = (predict(student, images[900:]) == labels[900:]).float().mean()
    accuracy = (predict(teacher, images[900:]) == labels[900:]).float().mean()
    print(f"last weights {last:.3f}, averaged {accuracy:.3f}")
    return teacher, accuracy.item()


if __name__ == "__main__":
    train(seed=0)
