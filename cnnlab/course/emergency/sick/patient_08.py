# Transfer: learn the digits 0 to 4, then a new head for the digits 5 to 9.
import torch
from sklearn.datasets import load_digits
from torch import nn


class Classifier(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(128, num_classes)

    def forward(self, x):
        return self.head(self.backbone(x.unsqueeze(1) / 16))


def predict(model, images):
    with torch.no_grad():
        return model(images).argmax(1) + 5


def fit(model, optimizer, x, y, epochs):
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(25):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[i]), y[i]).backward()
            optimizer.step()


def train(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    model = Classifier(num_classes=5)
    groups = [{"params": part.parameters(), "lr": 0.02} for part in (model.backbone, model.head)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    fit(model, optimizer, images[labels < 5], labels[labels < 5], epochs=5)
    model.head = nn.Linear(128, 5)
    optimizer.param_groups[0]["lr"] = 0.0005  # only a little for the layers that know something
    x, y = images[labels >= 5], labels[labels >= 5]
    fit(model, optimizer, x[:300], y[:300] - 5, epochs=10)
    return model, (predict(model, x[300:]) == y[300:]).float().mean().item()


if __name__ == "__main__":
    print(f"accuracy on the digits 5 to 9: {train(0)[1]:.3f}")
