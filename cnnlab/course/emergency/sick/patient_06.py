import torch
from sklearn.datasets import load_digits
from torch import nn


BATCH_SIZE = 64
EPOCHS = 8
LR = 0.05


class DigitNet(nn.Module):
    """A small convolutional network that returns the probability of each digit."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(128, num_classes), nn.Softmax(dim=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images.unsqueeze(1) / 16))


@torch.no_grad()
def predict(model, images: torch.Tensor) -> torch.Tensor:
    return model.eval()(images).argmax(dim=1)


def train(seed: int):
    torch.manual_seed(seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    model = DigitNet()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    for _ in range(EPOCHS):
        model.train()
        for batch in torch.randperm(1000).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = criterion(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
        print(f"loss {loss.item():.3f}")
    return model, (predict(model, x[1000:]) == y[1000:]).float().mean().item()


if __name__ == "__main__":
    print("accuracy", train(seed=0)[1])
