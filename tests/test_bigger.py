"""The cells tagged `bigger` of every chapter run, on stand-ins for the data and the weights.

They are meant for a GPU and real data, so no reader without both finds their mistakes, and neither
does a test that runs the chapters as they are.
"""

import matplotlib as mpl
import nbformat
import pytest
import stand_ins
import torch
import torchvision
from test_chapters import CHAPTERS, has, sections

import cnnlab
from cnnlab.limits import limits


SIDE = 48  # pixels, of images for networks that have learnt on 224
# How many training images these chapters need for each class; the others get ten.
PER_CLASS = {"09": 115, "11": 60}


def bigger_cells():
    """Yield the chapter, the code that the cell depends on, and its own code."""
    for path in CHAPTERS:
        cells = nbformat.read(path, as_version=4).cells
        for before, own in sections(cells):
            for i in own:
                if has(cells[i], "bigger"):
                    earlier = [j for j in [*before, *own] if j < i]
                    yield path, [cells[j].source for j in earlier], cells[i].source


BIGGER = list(bigger_cells())


def run(code, namespace):
    exec(code, namespace)  # noqa: S102 - as a kernel would


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Use small images, a quick compiler, an empty cache, and a folder with the studies."""
    load, pretrained = cnnlab.load, cnnlab.pretrained

    def load_small(name, **options):
        if "size" in options:
            options["size"] = min(options["size"], SIDE)
        return load(name, **options)

    def pretrained_small(*args, **options):
        model = pretrained(*args, **options)
        model.size = SIDE
        return model

    def compile_quickly(module):
        return compile_module(module, backend="aot_eager")

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(cnnlab, "load", load_small)
    monkeypatch.setattr(cnnlab, "pretrained", pretrained_small)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("studies", "train.py"):
        (tmp_path / name).symlink_to(CHAPTERS[0].parent / name)
    monkeypatch.syspath_prepend(str(tmp_path))  # a notebook finds both beside it
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    limits.reset()


def test_every_chapter_has_such_a_cell_which_says_when_it_is_left_out():
    numbered = [path for path in CHAPTERS if path.name[0].isdigit()]  # no appendices
    assert [path for path, _, _ in BIGGER] == numbered
    for path, _, code in BIGGER:
        assert 'if lab.profile == "gpu":' in code, path.name
        assert 'print("left out: set CNNLAB_PROFILE=gpu to run it")' in code, path.name


@pytest.mark.slow
@pytest.mark.parametrize(("path", "before", "code"), BIGGER, ids=[p.stem for p, _, _ in BIGGER])
def test_it_runs(path, before, code, small, monkeypatch, capsys, no_network):
    datasets = small / "cache" / "datasets"
    if '"cifar10"' in code:
        stand_ins.cifar10(datasets, monkeypatch, n_train=10 * PER_CLASS.get(path.name[:2], 10))
    for write in (stand_ins.pets, stand_ins.imagenette, stand_ins.eurosat):
        if f'"{write.__name__}"' in code:
            write(datasets)
    for name in torchvision.models.list_models(torchvision.models):
        if f'"{name}"' in code:
            stand_ins.weights(small / "torch" / "hub" / "checkpoints", name)
    namespace = {"__name__": "__main__"}
    with mpl.rc_context():
        monkeypatch.setenv("CNNLAB_PROFILE", "smoke")
        for source in before:
            run(source, namespace)
        monkeypatch.setenv("CNNLAB_PROFILE", "gpu")
        namespace["lab"] = cnnlab.setup(seed=0)
        capsys.readouterr()
        run(code, namespace)
    text = capsys.readouterr().out
    assert text.strip()
    assert "left out" not in text
    assert "Error" not in text  # a search goes on after one, and shows it in its table
    assert no_network == []
