# A small network that shows its activations while it trains.
import torch
from sklearn.datasets import load_digits
from torch import nn


class DigitNet(nn.Module):
    def __init__(self, channels=(4, 8, 8)):
        super().__init__()
        sizes = zip((1, *channels), channels)
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in sizes)
        self.head = nn.Linear(channels[-1], 10)

    def forward(self, x):
        self.activations = []
        for layer in self.layers:
            x = torch.relu(layer(x))
            self.activations.append(x.detach())
        features = self.activations[-1].amax(dim=(2, 3))
        return self.head(features)

    def dead(self):
        """Return the fraction of channels per layer that are zero everywhere."""
        return [(a.amax(dim=(0, 2, 3)) == 0).float().mean().item() for a in self.activations]


def predict(model, images):
    with torch.no_grad():
        return model(images[:, None] / 16).argmax(dim=1)


def train(seed, epochs=20, lr=0.01):
    torch.manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    model = DigitNet()
    loss_fn, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=lr)
    for epoch in range(epochs):
        for batch in torch.randperm(900).split(30):
            loss = loss_fn(model(images[batch, None] / 16), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % 5 == 0:
            print(f"loss {loss.item():.3f}, dead channels {model.dead()}")
    return model, (predict(model, images[900:]) == labels[900:]).float().mean().item()


if __name__ == "__main__":
    print(f"accuracy {train(seed=0)[1]:.3f}")
