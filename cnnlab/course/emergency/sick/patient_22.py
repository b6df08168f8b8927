import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@torch.no_grad()
def validate(model, loader):
    model.eval()
    hits = [model(x / 16).argmax(1) == y for x, y in loader]
    return torch.cat(hits).float().mean().item()


def fit(model, train_loader, val_loader, epochs, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    history = [validate(model, val_loader)]  # before training, to see that everything runs
    for _ in range(epochs):
        for x, y in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x / 16), y).backward()
            optimizer.step()
        history.append(validate(model, val_loader))
    return history


def block(c_in, c_out):
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


@torch.no_grad()
def predict(model, images):
    return model.eval()(images[:, None] / 16).argmax(1)


def train(seed, epochs=6):
    torch.manual_seed(seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images[:, None]).float(), torch.tensor(digits.target)
    blocks = [block(1, 16), nn.MaxPool2d(2), *(block(16, 16) for _ in range(6)), nn.MaxPool2d(2)]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 10))
    train_loader = DataLoader(TensorDataset(x[:900], y[:900]), batch_size=30, shuffle=True)
    val_loader = DataLoader(TensorDataset(x[900:], y[900:]), batch_size=200)
    return model, fit(model, train_loader, val_loader, epochs, lr=0.05)[-1]


if __name__ == "__main__":
    print("accuracy:", round(train(seed=0)[1], 3))
