"""Small data sets in the formats that torchvision reads, so that the real loading code runs."""

import hashlib
import pickle

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision import datasets


def colours(n, n_classes, seed=0):
    """Return labels in turns, (n,), and a random colour near that of the class, (n, 3)."""
    labels = np.arange(n) % n_classes
    of_class = np.random.default_rng(0).integers(40, 216, (n_classes, 3))
    return labels, of_class[labels] + np.random.default_rng(seed).integers(-15, 16, (n, 3))


def noisy(colour, height, width, seed=0):
    """Return an image of one colour, darker at the top, with noise, uint8 (height, width, 3)."""
    noise = np.random.default_rng(seed).integers(-10, 11, (height, width, 3))
    gradient = np.linspace(-10, 10, height)[:, None, None]
    return np.clip(colour + gradient + noise, 0, 255).astype(np.uint8)


def cifar10(root, patch, n_train=100, n_test=20):
    """Write all files of CIFAR-10; torchvision compares them with the digests that we set here."""
    kind = datasets.CIFAR10
    folder = root / kind.base_folder
    folder.mkdir(parents=True)

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(n, seed):
        labels, means = colours(n, 10, seed)
        images = np.stack([noisy(mean, 32, 32, i) for i, mean in enumerate(means)])
        # (n, H, W, 3) -> (n, 3 * H * W), as CIFAR stores them
        flat = images.transpose(0, 3, 1, 2).reshape(n, -1)
        return {"data": flat, "labels": labels.tolist(), "batch_label": "", "filenames": []}

    names = {"label_names": [f"thing {k}" for k in range(10)]}
    patch.setattr(kind, "meta", kind.meta | {"md5": write("batches.meta", names)})
    trains = [name for name, _ in kind.train_list]
    parts = [[name, write(name, batch(n_train // 5, 1))] for name in trains]
    patch.setattr(kind, "train_list", parts)
    patch.setattr(kind, "test_list", [["test_batch", write("test_batch", batch(n_test, 2))]])


def pets(root, n_breeds=2, n_trainval=10, n_test=10):
    """Write Oxford-IIIT Pet with so many photographs of each breed, of 60 x 50 pixels."""
    base = root / "oxford-iiit-pet"
    for name in ("images", "annotations"):
        (base / name).mkdir(parents=True)
    lists = {"trainval": n_trainval, "test": n_test}
    for part, n in lists.items():
        labels, means = colours(n * n_breeds, n_breeds)
        lines = []
        for i, (label, mean) in enumerate(zip(labels, means, strict=True)):
            name = f"breed_{chr(97 + label)}_{part}{i}"
            Image.fromarray(noisy(mean, 50, 60, i)).save(base / "images" / f"{name}.jpg")
            # name, breed, cat or dog, breed within cats or dogs
            lines.append(f"{name} {label + 1} 1 1")
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines))


def imagenette(root, archive="160px", n_train=10, n_val=4):
    """Write Imagenette with so many photographs of each class, of 60 x 50 pixels."""
    url, _ = datasets.Imagenette._ARCHIVES[archive]
    base = root / url.rpartition("/")[2].removesuffix(".tgz")
    for part, n in {"train": n_train, "val": n_val}.items():
        for k, wordnet_id in enumerate(datasets.Imagenette._WNID_TO_CLASS):
            folder = base / part / wordnet_id
            folder.mkdir(parents=True)
            for i in range(n):
                image = noisy(np.full(3, 20 * k + 20), 50, 60, i)
                Image.fromarray(image).save(folder / f"{wordnet_id}_{i}.JPEG")


def eurosat(root, n=10):
    """Write EuroSAT with n images of each class, of 64 x 64 pixels."""
    names = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
             "Pasture", "PermanentCrop", "Residential", "River", "SeaLake")  # fmt: skip
    for k, name in enumerate(names):
        folder = root / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        for i in range(1, n + 1):
            Image.fromarray(noisy(np.full(3, 20 * k + 20), 64, 64, i)).save(
                folder / f"{name}_{i}.jpg"
            )


def weights(hub, name):
    """Write random weights for a network of torchvision to where torch keeps its downloads."""
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    hub.mkdir(parents=True, exist_ok=True)
    model = torchvision.models.get_model(name, weights=None)
    torch.save(model.state_dict(), hub / url.rpartition("/")[2])
