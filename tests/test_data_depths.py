"""Every mode and depth that Pillow opens is read with its full range, or named as unreadable."""

import struct
import zlib

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from cnnlab.data import FileSet, folder, from_folder
from cnnlab.errors import DataError


RNG = np.random.default_rng(0)


def write(root, values, suffix=".tiff", dtype=np.uint16):
    """Save one image per array, in two classes."""
    for i, value in enumerate(values):
        path = root / "ab"[i % 2] / f"{i}{suffix}"
        path.parent.mkdir(exist_ok=True)
        array = np.asarray(value)
        if suffix == ".pgm":
            path.write_bytes(b"P5 8 6 65535\n" + array.astype(">u2").tobytes())
        else:
            array = array if dtype == np.float32 else array.round()
            Image.fromarray(array.astype(dtype)).save(path)


def noise(largest, n=10):
    """Return n arrays from 0 to the largest value, one of them with both ends."""
    arrays = [RNG.random((6, 8)) * largest for _ in range(n)]
    arrays[0][0, :2] = 0, largest
    return arrays


def pixels(bundle):
    """Return all images in the order of the folder, whatever the split."""
    sets = bundle.train, bundle.valid
    return torch.cat([s.pixels(torch.arange(len(s))) for s in sets])


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("suffix", [".tiff", ".png", ".pgm"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_integers_of_any_depth_keep_their_levels(tmp_path, monkeypatch, suffix, bits, on_disk):
    write(tmp_path, noise(2**bits - 1), suffix)
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 10 if on_disk else 2**30)
    levels = pixels(from_folder(tmp_path))
    assert (levels.min(), levels.max()) == (0, 255)
    assert len(levels.unique()) > 180


@pytest.mark.parametrize("white", [1, 255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_floats_and_32_bit_integers_keep_their_levels(tmp_path, white, dtype, capsys):
    write(tmp_path, noise(white), dtype=dtype)
    levels = pixels(from_folder(tmp_path))
    assert (levels.min(), levels.max()) == (0, 255)
    assert len(levels.unique()) > (180 if dtype == np.float32 or white > 1 else 1)
    usual = 1 if dtype == np.float32 else 65535
    assert (f"{white} is white" in capsys.readouterr().out) == (white != usual)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(("dtype", "largest"), [(np.uint16, 4095), (np.float32, 200)])
def test_brightness_is_comparable_between_images(tmp_path, monkeypatch, dtype, largest, on_disk):
    flat = [np.full((6, 8), largest * (i + 1) // 10 + i / 100) for i in range(10)]
    flat[9] = np.full((6, 8), largest)
    write(tmp_path, flat, dtype=dtype)
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 10 if on_disk else 2**30)
    bundle = from_folder(tmp_path)
    assert isinstance(bundle.train, FileSet) == on_disk
    levels = pixels(bundle)[:, 0, 0, 0].sort().values
    white = 4095 if largest == 4095 else 255
    expected = torch.tensor([largest * (i + 1) / 10 * 255 / white for i in range(10)])
    assert (levels - expected).abs().max() < 2
    small = bundle.subset(per_class=1).train.resized(4)
    assert small.pixels(torch.arange(2)).max() <= 255


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (-0.5, np.float32), (1e6, np.float32), (np.nan, np.float32), (np.inf, np.float32),
        (-1, np.int32), (70_000, np.int32),
    ],
)  # fmt: skip
def test_values_without_a_known_range_are_named(tmp_path, values, dtype):
    arrays = noise(200)
    arrays[3][0, 0] = values
    write(tmp_path, arrays, dtype=dtype)
    with pytest.raises(DataError, match=r"1 of 10 images(.|\n)*3\.tiff: its pixel values run from"):
        from_folder(tmp_path)
    (file,) = from_folder(tmp_path, on_error="skip").left_out
    assert file.path.name == "3.tiff"


def test_a_single_file_has_the_full_range_of_its_type(tmp_path):
    write(tmp_path, [np.full((6, 8), 4095), np.full((6, 8), 4095)])
    assert folder.decode(tmp_path / "a/0.tiff", None).unique().tolist() == [15]
    assert folder.decode(tmp_path / "a/0.tiff", None, folder.Whites(4095)).unique() == 255
    with pytest.raises(DataError, match=r"0\.tiff: its largest pixel value is 4095, but 1023"):
        folder.decode(tmp_path / "a/0.tiff", None, folder.Whites(1023))


def test_a_declared_depth_is_believed(tmp_path):
    for i in range(10):
        path = tmp_path / "ab"[i % 2] / f"{i}.pgm"
        path.parent.mkdir(exist_ok=True)
        values = RNG.integers(0, 400, (6, 8)).astype(">u2")
        path.write_bytes(b"P5 8 6 4095\n" + values.tobytes())
    assert 15 < pixels(from_folder(tmp_path)).max() < 30


def test_white_may_be_zero_in_a_deep_tiff(tmp_path):
    arrays = [array.round() for array in noise(65535)]
    write(tmp_path, arrays)
    plain = pixels(from_folder(tmp_path))
    for i, array in enumerate(arrays):
        path = tmp_path / "ab"[i % 2] / f"{i}.tiff"
        Image.fromarray(array.astype(np.uint16)).save(path, tiffinfo={262: 0})
        content = bytearray(path.read_bytes())
        at = content.index(struct.pack("<HHI", 262, 3, 1))
        content[at + 8 : at + 10] = b"\0\0"
        path.write_bytes(content)
    assert torch.equal(pixels(from_folder(tmp_path)), 255 - plain)


def png16(array, colour_type):
    """Return a PNG of 16 bits per channel, which Pillow can't write."""
    height, width = array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (2, 4), (4, 6)])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_dark_16_bit_colours_are_named(tmp_path, channels, colour_type, bits):
    for i in range(10):
        array = RNG.integers(0, 2**bits, (6, 8, channels))
        if channels != 3:
            array[..., -1] = 65535  # opaque
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[i % 2] / f"{i}.png").write_bytes(png16(array, colour_type))
    if bits == 16:
        assert len(pixels(from_folder(tmp_path)).unique()) > 180
    else:
        with pytest.raises(DataError, match=r"10 of 10 images(.|\n)*only the lower 12 bits"):
            from_folder(tmp_path)


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"]


@pytest.mark.parametrize("mode", [*MODES, "LAB"])
def test_every_mode_of_8_bits_is_read_or_named(tmp_path, mode):
    if mode == "YCbCr" and PIL.__version__.startswith("11."):
        pytest.skip("Pillow 11 can't read the TIFF in YCbCr that it writes")
    n_bytes = 6 * len(Image.new(mode, (8, 6)).tobytes()) // 6
    for i in range(10):
        image = Image.frombytes(mode, (8, 6), RNG.bytes(n_bytes))
        if mode == "P":
            image.putpalette([*range(256)] * 3)
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        image.save(tmp_path / "ab"[i % 2] / f"{i}.tiff")
    if mode == "LAB":
        with pytest.raises(DataError, match=r"10 of 10 images(.|\n)*colours are in LAB"):
            from_folder(tmp_path)
    else:
        levels = pixels(from_folder(tmp_path))
        assert levels.max() > 200
        assert levels.min() < 60


@pytest.mark.parametrize("mode", ["RGBa", "La", "HSV", "I;16", "I;16B", "I;16L", "F", "I"])
def test_every_mode_in_memory_is_converted(mode):
    image = Image.new(mode, (4, 4))
    assert folder.to_rgb(image, 2).mode == "RGB"
