import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import to_pil_image

import cnnlab


def load_arrays(seed, n=480):
    """Return n photographs of traffic signs, (n, 32, 32, 3) uint8, and their labels."""
    photos = cnnlab.load("pocket", seed=seed, n_train=n, n_valid=12, n_test=12, level="easy").train
    images = np.stack([np.asarray(to_pil_image(image)) for image, _ in photos])
    return images, np.array([label for _, label in photos])


def to_batch(images):
    """Return uint8 images (n, 32, 32, 3) as the floats (n, 3, 32, 32) that a network wants."""
    x = torch.as_tensor(images).float().div(255)
    return x.view(len(x), 3, 32, 32)


@torch.no_grad()
def predict(model, images):
    return model.eval()(to_batch(images)).argmax(1)


def train(seed, epochs=30):
    torch.manual_seed(seed)
    images, labels = load_arrays(seed)
    x, y = to_batch(images), torch.as_tensor(labels)

    # Letters and symbols taught this network to see; only its last layer is new.
    model = cnnlab.pretrained("glyphnet", num_classes=12).eval()
    model.head = nn.Identity()
    with torch.no_grad():
        features = model(x)
    model.head = nn.Linear(features.shape[1], 12)

    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-2)
    for _ in range(epochs):
        for idx in torch.randperm(360).split(40):
            optimizer.zero_grad()
            F.cross_entropy(model.head(features[idx]), y[idx]).backward()
            optimizer.step()
    return model, (predict(model, images[360:]) == y[360:]).float().mean().item()


if __name__ == "__main__":
    print("val acc: %.3f" % train(seed=1)[1])
