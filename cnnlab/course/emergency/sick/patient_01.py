import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc = nn.Linear(32 * 2 * 2, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


def predict(model, images):
    """Return the classes of images (N, 8, 8) with values from 0 to 16."""
    model.eval()
    with torch.no_grad():
        return model(images.unsqueeze(1) / 16).argmax(dim=1)


def train(seed, epochs=6):
    torch.manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    train_set = TensorDataset(images[:900], labels[:900])
    loader = DataLoader(train_set, batch_size=30, shuffle=True)

    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            loss = F.cross_entropy(model(x.unsqueeze(1) / 16), y)
            loss.backward()
            optimizer.step()
        accuracy = (predict(model, images[900:]) == labels[900:]).float().mean().item()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, accuracy {accuracy:.3f}")
    return model, accuracy


if __name__ == "__main__":
    train(seed=0)
