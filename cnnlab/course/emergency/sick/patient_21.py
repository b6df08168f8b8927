import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class EarlyStopping:
    """Remember the best model and stop when `patience` epochs in a row are no better."""

    def __init__(self, patience=20):
        self.patience = patience
        self.best_score, self.best_state, self.best_epoch = 0.0, None, 0

    def __call__(self, score, model, epoch):
        if score > self.best_score:
            self.best_score, self.best_epoch = score, epoch
            self.best_state = model.state_dict()
        return epoch - self.best_epoch >= self.patience

    def restore(self, model):
        model.load_state_dict(self.best_state)


def predict(model, images):
    with torch.no_grad():
        return model(images.flatten(1) / 16).argmax(dim=1)


def train(seed, max_epochs=60):
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    # Half of the training labels come from a bad typist.
    y = labels[:600].clone()
    y[::2] = torch.randint(0, 10, (300,))

    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    early_stopping = EarlyStopping()
    for epoch in range(max_epochs):
        for i in torch.randperm(600).split(30):
            loss = F.cross_entropy(model(images[i].flatten(1) / 16), y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        score = (predict(model, images[600:]) == labels[600:]).float().mean().item()
        if early_stopping(score, model, epoch):
            break
    early_stopping.restore(model)
    restored = (predict(model, images[600:]) == labels[600:]).float().mean().item()
    print(f"accuracy of the restored model: {restored:.3f}")
    return model, early_stopping.best_score


if __name__ == "__main__":
    model, accuracy = train(seed=0)
    print(f"best validation accuracy: {accuracy:.3f}")
