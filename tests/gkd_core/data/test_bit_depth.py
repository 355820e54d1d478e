"""Pictures of 16 and 32 bits: one white value for a whole data set, in grey as in colour."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gkd_core.config import DetectorConfig
from gkd_core.data.bit_depth import WHITES, white_for
from gkd_core.data.loading import eval_batches
from gkd_core.data.pictures import look_into, read_picture
from gkd_core.data.reading import load
from gkd_core.data.records import DataSet
from gkd_core.detectors.model_card import ModelCard

RAMP = np.linspace(0.1, 0.9, 96 * 64).reshape(64, 96)
"""A grey ramp, as shares of white."""


def write_png16(path: Path, values: np.ndarray) -> None:
    """Write a PNG of 16 bits: (H, W) grey, or (H, W, 2 to 4); Pillow writes grey only."""
    values = values.reshape(*values.shape[:2], -1)
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def grey(white: float, dtype: type = np.uint16) -> np.ndarray:
    return np.rint(RAMP * white).astype(dtype)


def colour(white: float) -> np.ndarray:
    """Return the ramp in three channels of equal brightness."""
    return np.repeat(grey(white)[..., None], 3, axis=2)


def means(data: DataSet) -> list[float]:
    """Return the mean brightness of every picture as a model gets it."""
    return [
        float(sample.image.float().mean())
        for split in (data.train, data.val)
        for batch in eval_batches(split.images, 64, 2)
        for sample in batch
    ]


def fill(coco: Any, white: float) -> None:
    for name in ("t1", "t2", "v1", "v2"):
        write_png16(coco.images / f"{name}.png", grey(white))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_depth_that_is_used_becomes_the_whole_range(coco: Any, bits: int) -> None:
    fill(coco, 2**bits - 1)
    data = load(coco.config(), decode=True)
    assert data.white == 2**bits - 1
    assert means(data) == pytest.approx([127.5] * 4, abs=2)
    told = [warning.message for warning in data.warnings]
    assert any(f"{2**bits - 1} is taken as white in all" in text for text in told) == (bits != 16)


def test_one_hot_pixel_changes_nothing(coco: Any) -> None:
    fill(coco, 4095)
    hot = grey(4095)
    hot[10, 10] = 65535
    write_png16(coco.images / "t2.png", hot)
    data = load(coco.config(), decode=True)
    assert data.white == 4095
    assert max(means(data)) - min(means(data)) < 1


def test_dark_pictures_stay_dark_beside_bright_ones(coco: Any) -> None:
    fill(coco, 4095)
    write_png16(coco.images / "t2.png", grey(900))
    bright, dark, *_ = means(load(coco.config()))
    assert dark == pytest.approx(bright * 900 / 4095, abs=1)


@pytest.mark.parametrize("white", [255, 4095, 65535])
@pytest.mark.parametrize("alpha", [False, True])
def test_colour_is_scaled_as_grey_is(tmp_path: Path, white: int, alpha: bool) -> None:
    write_png16(tmp_path / "grey.png", grey(white))
    channels = np.concatenate([colour(white), np.full((64, 96, 1), 65535)], axis=2)
    write_png16(tmp_path / "colour.png", channels if alpha else channels[..., :3])
    same = [read_picture(tmp_path / f"{name}.png") for name in ("grey", "colour")]
    assert (same[0] == same[1]).all()
    assert np.abs(same[0][..., 0] - RAMP * 255).max() <= 1.01


def test_colour_and_grey_in_one_data_set_are_alike(coco: Any) -> None:
    fill(coco, 4095)
    write_png16(coco.images / "t2.png", colour(4095))
    data = load(coco.config())
    assert data.white == 4095
    assert max(means(data)) - min(means(data)) < 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_colour_of_16_bits_in_tiff_keeps_both_bytes(tmp_path: Path, order: str) -> None:
    """Write a plain TIFF by hand: Pillow writes no colour of 16 bits."""
    pixels = colour(4095).astype(f"{order}u2").tobytes()
    tags = [(256, 3, 96), (257, 3, 64), (258, 3, 16), (259, 3, 1), (262, 3, 2), (273, 4, 8)]
    tags += [(277, 3, 3), (278, 3, 64), (279, 4, len(pixels)), (284, 3, 1)]
    begin = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8 + len(pixels))
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value))
        for tag, kind, value in tags
    )
    bits = struct.pack(f"{order}HHI", 258, 3, 3) + struct.pack(
        f"{order}I", 8 + len(pixels) + 2 + 12 * len(tags) + 4
    )
    entries = entries[:24] + bits + entries[36:]
    end = struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + struct.pack(f"{order}HHH", 16, 16, 16)
    (tmp_path / "a.tif").write_bytes(begin + pixels + end)
    assert np.abs(read_picture(tmp_path / "a.tif")[..., 0] - RAMP * 255).max() <= 1.01


@pytest.mark.parametrize(("most", "white"), [(928_000, 2**20 - 1), (5_000_000, 2**24 - 1), (200, 255)])
def test_32_bits_can_be_seen(coco: Any, most: int, white: int) -> None:
    for name in ("t1", "t2", "v1", "v2"):
        Image.fromarray(grey(most, np.int32)).save(coco.images / f"{name}.tif")
    for content in (coco.train, coco.val):
        for image in content["images"]:
            image["file_name"] = image["file_name"].replace(".png", ".tif")
    data = load(coco.config(), decode=True)
    assert data.white == white
    assert means(data) == pytest.approx([127.5 * most / white] * 4, abs=2)


def test_what_a_file_declares_counts(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 96 64 1000\n" + grey(1000).astype(">u2").tobytes())
    assert np.abs(read_picture(tmp_path / "a.pgm")[..., 0] - RAMP * 255).max() <= 1.01


def test_the_scale_of_val_is_that_of_train(coco: Any) -> None:
    fill(coco, 4095)
    for name in ("v1", "v2"):
        write_png16(coco.images / f"{name}.png", grey(65535))
    data = load(coco.config())
    assert {record.white for split in (data.train, data.val) for record in split.images} == {4095}


def test_a_scale_that_is_given_holds(coco: Any) -> None:
    fill(coco, 4095)
    assert means(load(coco.config(), white=65535)) == pytest.approx([127.5 / 16] * 4, abs=1)


def test_every_reading_gives_the_same_scale(coco: Any) -> None:
    fill(coco, 4095)
    (coco.images / "t2.png").write_bytes((coco.images / "t2.png").read_bytes()[:-30])
    first = load(coco.config(), decode=True)
    again = load(coco.config(), broken=first.train.left_out)
    assert (first.white, len(first.train.images)) == (again.white, len(again.train.images)) == (4095, 1)


def test_pictures_of_8_bits_have_no_scale(coco: Any) -> None:
    assert load(coco.config(), decode=True).white is None


@pytest.mark.parametrize("decode", [True, False])
def test_pictures_that_show_nothing_are_named(coco: Any, decode: bool) -> None:
    fill(coco, 65535)
    write_png16(coco.images / "t2.png", np.full((64, 96), 30_000) + np.arange(96) * 10)
    told = [warning.message for warning in load(coco.config(), decode=decode).warnings]
    assert any("nearly constant, of one colour (1: t2.png)" in text for text in told)


@pytest.mark.parametrize("pixel", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
def test_pictures_of_8_bits_that_show_nothing_are_named_when_decoded(
    coco: Any, pixel: tuple[int, int, int]
) -> None:
    Image.new("RGB", (96, 64), pixel).save(coco.images / "t1.png")
    told = [warning.message for warning in load(coco.config(), decode=True).warnings]
    assert any("nearly constant, of one colour (1: t1.png)" in text for text in told)


def test_a_small_object_on_black_shows_something(tmp_path: Path) -> None:
    image = Image.new("RGB", (96, 64))
    image.paste((255, 0, 0), (10, 10, 16, 16))
    image.save(tmp_path / "a.png")
    assert not look_into(tmp_path / "a.png").flat


def test_white_is_the_smallest_usual_depth() -> None:
    assert [white_for([most]) for most in (0, 255, 256, 4095, 4096, 2**31)] == [
        255,
        255,
        1023,
        4095,
        16383,
        WHITES[-1],
    ]


def test_the_card_tells_the_scale_and_says_nothing_of_8_bits() -> None:
    config = DetectorConfig(backbone="resnet18")
    deep, plain = (ModelCard.of(config, ("a",), 64, white) for white in (4095, None))
    assert ModelCard.model_validate_json(deep.written()) == deep
    assert "white" not in plain.written()
    assert ModelCard.model_validate_json(plain.written()).white is None
    assert deep.detector() == plain.detector()
