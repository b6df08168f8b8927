import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(32 * 2 * 2, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.dropout(torch.flatten(x, 1), 0.5)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, 0.5)
        return F.log_softmax(self.fc2(x), dim=1)


@torch.no_grad()
def predict(model, images):
    return model.eval()(images.unsqueeze(1) / 16).argmax(dim=1)


def train_epoch(model, optimizer, data, target, batch_size=30):
    model.train()
    for i in torch.randperm(len(data)).split(batch_size):
        optimizer.zero_grad()
        F.nll_loss(model(data[i]), target[i]).backward()
        optimizer.step()


def train(seed, epochs=10):
    torch.manual_seed(seed)
    digits = load_digits()
    images, target = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    model = Net()
    optimizer = optim.Adam(model.parameters(), lr=0.003)
    for epoch in range(1, epochs + 1):
        train_epoch(model, optimizer, images[:900].unsqueeze(1) / 16, target[:900])
        correct = (predict(model, images[900:]) == target[900:]).sum().item()
        total = len(target) - 900
        print(f"epoch {epoch}: test set: {correct}/{total} ({100 * correct / total:.0f} %)")
    return model, correct / total


if __name__ == "__main__":
    train(seed=1)
