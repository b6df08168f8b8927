import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split


class DigitDataset(Dataset):  # digits moved a little, with a hole
    def __init__(self):
        digits = load_digits()
        self.images = torch.tensor(digits.images[:, None], dtype=torch.float32)
        self.labels = torch.tensor(digits.target)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        dy, dx, top, left = (*torch.randint(0, 3, (2,)), *torch.randint(0, 6, (2,)))
        padded = nn.functional.pad(self.images[index], (1, 1, 1, 1))
        image = padded[:, dy : dy + 8, dx : dx + 8].clone()
        image[:, top : top + 3, left : left + 3] = 0
        return image, self.labels[index]


def predict(model, images):
    with torch.no_grad():
        return model(images.unsqueeze(1) / 16).argmax(1)


def train(seed):
    torch.manual_seed(seed)
    dataset = DigitDataset()
    train_set, val_set = random_split(dataset, [900, len(dataset) - 900])
    model = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 48, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48 * 4, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(12):
        for images, labels in DataLoader(train_set, batch_size=50, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images / 16), labels).backward()
            optimizer.step()
    val_loader = DataLoader(val_set, batch_size=100)
    correct = sum((predict(model, x.squeeze(1)) == y).sum().item() for x, y in val_loader)
    return model, correct / len(val_set)


if __name__ == "__main__":
    print("Validation accuracy: {:.2%}".format(train(seed=0)[1]))
