"""Train the same network with a bare loop, with cnnlab and with other libraries.

Each `train_...` function takes a network, its data, a number of epochs and a hook that it calls at
the start of each epoch. It trains the network in place and shows progress, loss and accuracy in the
usual way of its library.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnlab
from benchmarks.regimes import MemoryLoader
from benchmarks.report import installed


LEARNING_RATE, MOMENTUM = 0.05, 0.9
Hook = Callable[..., None]


def sgd(net: nn.Module) -> torch.optim.SGD:
    """Return the optimizer that every contestant uses, on a GPU its fused form."""
    parameters = list(net.parameters())
    fused = parameters[0].is_cuda or None
    return torch.optim.SGD(parameters, LEARNING_RATE, MOMENTUM, fused=fused)


def bare_epoch(net: nn.Module, optimizer: torch.optim.Optimizer, data: MemoryLoader) -> None:
    """Train for one epoch with only the lines that no training loop can do without."""
    for images, labels in data:
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def train_bare_loop(net: nn.Module, data: MemoryLoader, epochs: int, hook: Hook) -> None:
    """Train with the bare loop, the reference."""
    optimizer = sgd(net.train())
    for _ in range(epochs):
        hook()
        bare_epoch(net, optimizer, data)


def train_tutorial_loop(net: nn.Module, data: MemoryLoader, epochs: int, hook: Hook) -> None:
    """Train with the loop of a typical tutorial, with a progress bar, the loss and the accuracy."""
    _tutorial_loop(net, sgd(net), data, epochs, hook, Tensor.backward)


def _tutorial_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: MemoryLoader,
    epochs: int,
    hook: Hook,
    backward: Callable[[Tensor], None],
) -> None:
    for _ in range(epochs):
        hook()
        tutorial_epoch(model, optimizer, data, backward)


def tutorial_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: MemoryLoader,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> None:
    """Train for one epoch with a progress bar, the loss and the accuracy, as many tutorials do."""
    from tqdm.auto import tqdm

    model.train()
    total = correct = 0.0
    for images, labels in (bar := tqdm(data)):
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        backward(loss)
        optimizer.step()
        total += loss.item()
        correct += (logits.argmax(1) == labels).sum().item()
    bar.set_postfix(loss=total / len(data), acc=correct / len(data.images))


def train_cnnlab(net: nn.Module, data: MemoryLoader, epochs: int, hook: Hook) -> None:
    """Train with cnnlab and its progress bar."""

    class AtEpochStart(cnnlab.Callback):
        def on_epoch_start(self, trainer: cnnlab.Trainer) -> None:
            hook()

    dataset, device = torch.utils.data.TensorDataset(data.images, data.labels), data.images.device
    batches = cnnlab.loader(dataset, data.batch_size, shuffle=True)
    trainer = cnnlab.Trainer(
        net, sgd(net), callbacks=[AtEpochStart()], device=device, progress=True
    )
    trainer.fit(batches, epochs=epochs)


def train_lightning(net: nn.Module, data: MemoryLoader, epochs: int, hook: Hook) -> None:
    """Train with Lightning, without its logger and checkpoints, which would write files."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, _: int) -> Tensor:
            images, labels = batch
            logits = self.net(images)
            loss = F.cross_entropy(logits, labels)
            self.log("loss", loss, prog_bar=True)
            accuracy = (logits.argmax(1) == labels).float().mean()
            self.log("acc", accuracy, prog_bar=True, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self.net)

    class AtEpochStart(lightning.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            hook()

    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if data.images.is_cuda else "cpu",
        devices=1,
        callbacks=[AtEpochStart()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), data)


def train_fastai(net: nn.Module, data: MemoryLoader, epochs: int, hook: Hook) -> None:
    """Train with fastai's Learner and torch's optimizer.

    The Learner needs a validation set, which here is one image.
    """
    from fastai.basics import Callback, DataLoaders, Learner, OptimWrapper, accuracy
    from fastai.callback.progress import ProgressCallback  # noqa: F401 - registers the bar

    class AtEpochStart(Callback):
        order = -100

        def before_epoch(self) -> None:
            hook()

    class Loader:
        device, n_inp = torch.device("cpu"), 1

        def __init__(self, batches: Any, n: int) -> None:
            self.batches, self.dataset = batches, range(n)

        def __len__(self) -> int:
            return len(self.batches)

        def __iter__(self) -> Iterator[Any]:
            return iter(self.batches)

        def to(self, device: Any) -> "Loader":
            return self

    one = [(data.images[:1], data.labels[:1])]
    loaders = DataLoaders(
        Loader(data, len(data.images)), Loader(one, 1), device=torch.device("cpu")
    )
    optimizer = partial(OptimWrapper, opt=torch.optim.SGD, momentum=MOMENTUM)
    learner = Learner(
        loaders,
        net,
        loss_func=F.cross_entropy,
        opt_func=optimizer,
        lr=LEARNING_RATE,
        metrics=accuracy,
        cbs=[AtEpochStart()],
        train_bn=True,
    )
    learner.fit(epochs)


def train_accelerate(net: nn.Module, data: MemoryLoader, epochs: int, hook: Hook) -> None:
    """Train with Accelerate in the tutorial's loop; it has no metrics or progress bar."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(net, sgd(net))
    _tutorial_loop(model, optimizer, data, epochs, hook, accelerator.backward)


def train_skorch(net: nn.Module, data: MemoryLoader, epochs: int, hook: Hook) -> None:
    """Train with skorch's classifier, its progress bar and its table of epochs."""
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback, EpochScoring, ProgressBar

    class AtEpochStart(Callback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            hook()

    accuracy = EpochScoring("accuracy", name="acc", lower_is_better=False, on_train=True)
    classifier = NeuralNetClassifier(
        net,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=MOMENTUM,
        lr=LEARNING_RATE,
        batch_size=data.batch_size,
        max_epochs=epochs,
        iterator_train=lambda *_, **__: data,
        train_split=None,
        callbacks=[("start", AtEpochStart()), ("accuracy", accuracy), ("bar", ProgressBar())],
    )
    classifier.fit(data.images, data.labels)


def train_ignite(net: nn.Module, data: MemoryLoader, epochs: int, hook: Hook) -> None:
    """Train with Ignite, its metrics and its progress bar."""
    from ignite.engine import Events, create_supervised_trainer
    from ignite.handlers import ProgressBar
    from ignite.metrics import Accuracy, RunningAverage

    engine = create_supervised_trainer(
        net,
        sgd(net),
        F.cross_entropy,
        device="cpu",
        output_transform=lambda x, y, logits, loss: (loss.item(), logits, y),
    )
    engine.add_event_handler(Events.EPOCH_STARTED, hook)
    RunningAverage(output_transform=lambda out: out[0]).attach(engine, "loss")
    Accuracy(output_transform=lambda out: out[1:]).attach(engine, "acc")
    ProgressBar(persist=True).attach(engine, ["loss"])
    engine.run(data, max_epochs=epochs)


def train_keras(net: nn.Module, data: MemoryLoader, epochs: int, hook: Hook) -> None:
    """Train with Keras on torch, with the same network inside; Keras layers would be slower."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    class Batches(keras.utils.PyDataset):
        indices = data.indices(0)

        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
            return data.images[self.indices[number]], data.labels[self.indices[number]]

    class AtEpochStart(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            batches.indices = data.indices(epoch)
            hook()

    batches = Batches()
    model = keras.Sequential([keras.layers.TorchModuleWrapper(net)])
    model.compile(
        optimizer=keras.optimizers.SGD(LEARNING_RATE, MOMENTUM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(batches, epochs=epochs, callbacks=[AtEpochStart()], shuffle=False)


PEERS = {  # name -> (module, training function)
    "Lightning": ("lightning", train_lightning),
    "fastai": ("fastai", train_fastai),
    "Accelerate": ("accelerate", train_accelerate),
    "skorch": ("skorch", train_skorch),
    "Ignite": ("ignite", train_ignite),
    "Keras on torch": ("keras", train_keras),
}


def contestants() -> dict[str, Callable[..., None]]:
    """Return the contestants: the bare loop, cnnlab, and the other libraries that are installed."""
    available = installed([module for module, _ in PEERS.values()], of="trainer")
    own = {
        "bare loop, again": train_bare_loop,
        "**cnnlab**": train_cnnlab,
        "loop of a tutorial": train_tutorial_loop,
    }
    return own | {name: train for name, (module, train) in PEERS.items() if module in available}
