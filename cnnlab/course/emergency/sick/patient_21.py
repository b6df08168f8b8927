import torch
from sklearn.datasets import load_digits
from torch import nn


# Remember the best model, and stop when `patience` epochs in a row are no better.
class EarlyStopping:
    def __init__(self, patience=20):
        self.patience, self.best_score, self.best_epoch = patience, 0.0, 0

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
    images, labels = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    y = labels[:600].clone()
    y[::2] = torch.randint(0, 10, (300,))  # every other label comes from a bad typist
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    early_stopping = EarlyStopping()
    for epoch in range(max_epochs):
        for i in torch.randperm(600).split(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[i].flatten(1) / 16), y[i]).backward()
            optimizer.step()
        score = (predict(model, images[600:]) == labels[600:]).float().mean().item()
        if early_stopping(score, model, epoch):
            break
    early_stopping.restore(model)
    restored = (predict(model, images[600:]) == labels[600:]).float().mean().item()
    print(f"accuracy of the restored model: {restored:.3f}")
    return model, early_stopping.best_score


if __name__ == "__main__":
    print(f"best validation accuracy: {train(seed=0)[1]:.3f}")
