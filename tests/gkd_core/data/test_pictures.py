"""Decoding: any ordinary picture becomes (H, W, 3) uint8 as displayed; anything else an error with its name."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gkd_core.data.folders import SUFFIXES, is_picture_name
from gkd_core.data.pictures import (
    FORMATS,
    ORIENTATION_TAG,
    PictureError,
    inspect,
    read_header,
    read_image,
    read_picture,
)

QUADRANTS = np.array([[10, 80], [160, 240]], dtype=np.uint8).repeat(32, 0).repeat(48, 1)
"""(64, 96), a different grey in each quarter."""


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "CMYK", "1"])
def test_every_colour_mode_comes_out_as_rgb(mode: str, tmp_path: Path) -> None:
    grey = QUADRANTS if mode != "1" else np.where(QUADRANTS > 127, 255, 0).astype(np.uint8)
    file = tmp_path / "picture.tiff"
    image = Image.fromarray(grey).convert("RGB")
    (image.quantize(16) if mode == "P" else image.convert(mode)).save(file)
    pixels = read_picture(file)
    assert pixels.shape == (64, 96, 3)
    assert np.abs(pixels.astype(int) - grey[..., None]).max() <= 2


def test_every_suffix_of_a_known_format_counts_in_either_case() -> None:
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")}
    known.remove(".pfm")  # 32-bit floating point numbers
    assert known == SUFFIXES
    assert all(
        is_picture_name(f"a{suffix}") and is_picture_name(f"a.b{suffix.upper()}") for suffix in SUFFIXES
    )


@pytest.mark.parametrize("name", ["a.txt", "jpg", ".jpg", "._a.jpg", "a.jpg.part", "a.svg", "a.pdf", "a.eps"])
def test_what_is_no_picture_by_its_name(name: str) -> None:
    assert not is_picture_name(name)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(QUADRANTS.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert (read_picture(tmp_path / "deep.png")[..., 0] == QUADRANTS).all()
    assert inspect(tmp_path / "deep.png") == ()


def test_twelve_bits_in_sixteen_use_the_whole_range_and_are_remarked_on(tmp_path: Path) -> None:
    Image.fromarray(QUADRANTS.astype(np.uint16) * 16).save(tmp_path / "camera.png")
    assert np.abs(read_picture(tmp_path / "camera.png")[..., 0].astype(int) - QUADRANTS).max() <= 1
    assert "12" in inspect(tmp_path / "camera.png")[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_picture_and_header_alike(orientation: int, tmp_path: Path) -> None:
    stored = {
        1: QUADRANTS,
        2: QUADRANTS[:, ::-1],
        3: QUADRANTS[::-1, ::-1],
        4: QUADRANTS[::-1],
        5: QUADRANTS.T,
        6: np.rot90(QUADRANTS, 1),
        7: QUADRANTS[::-1, ::-1].T,
        8: np.rot90(QUADRANTS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "phone.png", exif=exif)
    assert read_header(tmp_path / "phone.png") == (96, 64)
    assert (read_picture(tmp_path / "phone.png")[..., 0] == QUADRANTS).all()


def test_the_content_decides_and_not_the_extension(tmp_path: Path) -> None:
    Image.fromarray(QUADRANTS).save(tmp_path / "is_png.png")
    (tmp_path / "is_png.png").rename(tmp_path / "named.jpg")
    assert (read_picture(tmp_path / "named.jpg")[..., 0] == QUADRANTS).all()


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "gif"])
def test_a_file_that_is_cut_short_is_refused_by_name(extension: str, tmp_path: Path) -> None:
    file = tmp_path / f"cut.{extension}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    for read in (read_picture, inspect):
        with pytest.raises(PictureError, match=rf"cut\.{extension}"):
            read(file)


def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    Image.new("1", (10_000, 8_001)).save(file)
    with pytest.raises(PictureError, match="10000 x 8001 is more than"):
        read_header(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"<html>", "not a picture in a known format"), (None, "no such file")],
)
def test_what_is_no_picture_is_called_so(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(PictureError, match=message):
        read_header(tmp_path / "x.jpg")


def test_floating_point_pictures_are_refused_rather_than_turned_black(tmp_path: Path) -> None:
    Image.fromarray(QUADRANTS.astype(np.float32) / 255).save(tmp_path / "float.tiff")
    with pytest.raises(PictureError, match="floating point"):
        read_header(tmp_path / "float.tiff")


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_a_large_picture_is_shrunk_but_never_below_what_is_needed(extension: str, tmp_path: Path) -> None:
    file = tmp_path / f"camera.{extension}"
    large = Image.fromarray(QUADRANTS).resize((961, 640), Image.Resampling.NEAREST)
    large.save(file)
    image = read_image(file, at_least=200)
    assert 200 <= max(image.size) < 400
    assert abs(image.width / image.height - 961 / 640) < 0.01
    assert abs(np.asarray(image).mean() - np.asarray(large).mean()) < 3


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("read", [read_header, read_picture, inspect])
def test_a_disk_that_fails_is_no_flaw_of_the_picture(
    code: int, read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sound.png"
    Image.fromarray(QUADRANTS).save(file)

    def fail(*args: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("gkd_core.data.pictures.Image.open", fail)
    with pytest.raises(OSError, match=r"sound\.png") as raised:
        read(file)
    assert raised.value.errno == code
