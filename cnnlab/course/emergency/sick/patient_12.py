# Train with a large effective batch on a small GPU: gradients of 8 micro-batches are summed up.
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


MICRO_BATCH, ACCUMULATE = 16, 8
LEARNING_RATE, EPOCHS = 0.1, 8  # tuned with batches of 128 on a large GPU


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 24, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(12), nn.BatchNorm2d(24)
        self.fc1, self.fc2 = nn.Linear(24 * 4, 48), nn.Linear(48, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@torch.no_grad()
def predict(model, images):
    return model.eval()(images[:, None] / 16).argmax(1)


def train(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float(), torch.tensor(digits.target)
    dataset = TensorDataset(images[:896], labels[:896])
    loader = DataLoader(dataset, MICRO_BATCH, shuffle=True, drop_last=True)
    model = Net().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    for epoch in range(EPOCHS):
        for step, (x, y) in enumerate(loader, start=1):
            loss = F.cross_entropy(model(x[:, None] / 16), y)
            loss.backward()
            if step % ACCUMULATE == 0:
                optimizer.step()
                optimizer.zero_grad()
    return model, (predict(model, images[896:]) == labels[896:]).float().mean().item()


if __name__ == "__main__":
    print(f"accuracy {train(seed=3)[1]:.3f}")
