import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    def __init__(self, model, train_loader, val_loader, lr):
        self.model, self.train_loader, self.val_loader = model, train_loader, val_loader
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)

    def fit(self, epochs):
        self.model.train()
        self.history = [self.validate()]  # before training, to see that everything runs
        for _ in range(epochs):
            for batch in self.train_loader:
                self.training_step(batch)
            self.history.append(self.validate())

    def training_step(self, batch):
        x, y = batch
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x / 16), y).backward()
        self.optimizer.step()

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        hits = [self.model(x / 16).argmax(1) == y for x, y in self.val_loader]
        return torch.cat(hits).float().mean().item()


def block(c_in, c_out):
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


def predict(model, images):
    model.eval()
    with torch.no_grad():
        return model(images[:, None] / 16).argmax(1)


def train(seed, epochs=6):
    torch.manual_seed(seed)
    digits = load_digits()
    x = torch.tensor(digits.images[:, None], dtype=torch.float32)
    y = torch.tensor(digits.target)
    blocks = [block(1, 16), nn.MaxPool2d(2), *(block(16, 16) for _ in range(6)), nn.MaxPool2d(2)]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 10))
    train_loader = DataLoader(TensorDataset(x[:900], y[:900]), batch_size=30, shuffle=True)
    val_loader = DataLoader(TensorDataset(x[900:], y[900:]), batch_size=200)
    trainer = Trainer(model, train_loader, val_loader, lr=0.05)
    trainer.fit(epochs)
    return model, trainer.history[-1]


if __name__ == "__main__":
    print("accuracy:", round(train(seed=0)[1], 3))
