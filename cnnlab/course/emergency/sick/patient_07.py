import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader


def read_folders():
    """Read the images as they lie on disk: one folder per digit, 0 to 9."""
    digits = load_digits()
    train, val = [], []
    for digit in range(10):
        files = torch.tensor(digits.images[digits.target == digit]).float()
        cut = int(0.75 * len(files))
        train += [(image, digit) for image in files[:cut]]
        val += [(image, digit) for image in files[cut:]]
    return train, val


net = lambda: nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(128, 10),
)  # fmt: skip


@torch.no_grad()
def predict(model, images):
    return model.eval()(images.unsqueeze(1) / 16).argmax(1)


def train(seed, epochs=6):
    torch.manual_seed(seed)
    train_samples, val_samples = read_folders()
    train_loader = DataLoader(train_samples, batch_size=32)
    model, loss_fn = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x.unsqueeze(1) / 16), y)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch} loss {loss.item():.4f}")
    hits = [predict(model, x) == y for x, y in DataLoader(val_samples, batch_size=500)]
    return model, torch.cat(hits).float().mean().item()


if __name__ == "__main__":
    print("val", train(0)[1])
