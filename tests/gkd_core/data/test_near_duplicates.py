"""Copies between splits are found when saved again, scaled or brightened; different pictures are not reported."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from gkd_core.data.near_duplicates import Pair, copies, pairs
from gkd_core.data.shapes import draw_picture

Change = Callable[[Image.Image], Image.Image]


def drawn(path: Path, seed: int, size: int = 160) -> Path:
    """Return a drawn scene."""
    draw_picture(size, np.random.default_rng(seed))[0].save(path)
    return path


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("train")
    return [drawn(folder / f"train{seed}.png", seed) for seed in range(12)]


def _shifted(image: Image.Image, pixels: int) -> Image.Image:
    return image.crop((pixels, 0, image.width, image.height))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("saved.jpg", lambda image: image),
        ("half.png", lambda image: image.resize((80, 80))),
        ("wide.png", lambda image: image.resize((200, 160))),
        ("dark.png", lambda image: ImageEnhance.Brightness(image).enhance(0.7)),
        ("grey.png", lambda image: image.convert("L")),
        ("shifted.png", lambda image: _shifted(image, 2)),
    ],
)
def test_a_changed_copy_looks_the_same(train: list[Path], tmp_path: Path, name: str, change: Change) -> None:
    with Image.open(train[3]) as image:
        change(image).save(tmp_path / name, quality=50)
    [pair] = pairs(train, [tmp_path / name])
    assert (pair.how, pair.train, pair.val) == ("looks the same", train[3], tmp_path / name)
    assert 0.97 <= pair.likeness <= 1.0001


@pytest.mark.parametrize(
    "change",
    [lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), lambda image: _shifted(image, 40)],
)
def test_mirrored_and_shifted_copies_are_not_found(train: list[Path], tmp_path: Path, change: Change) -> None:
    with Image.open(train[3]) as image:
        change(image).save(tmp_path / "x.png")
    assert pairs(train, [tmp_path / "x.png"]) == []


def test_other_scenes_are_not_the_same(train: list[Path], tmp_path: Path) -> None:
    assert pairs(train, [drawn(tmp_path / f"val{seed}.png", seed) for seed in range(100, 130)]) == []


def test_a_picture_is_told_once_with_the_one_it_is_most_like(train: list[Path], tmp_path: Path) -> None:
    """Compare frames of one camera, which are all alike: listing every pair would fill the memory."""
    with Image.open(train[3]) as image:
        for number, pixels in enumerate((2, 1, 3)):
            _shifted(image, pixels).save(tmp_path / f"t{number}.png")
        _shifted(image, 1).save(tmp_path / "val.jpg", quality=90)
    [pair] = pairs([*train, *(tmp_path / f"t{number}.png" for number in range(3))], [tmp_path / "val.jpg"])
    assert pair.train.name == "t1.png"


def test_each_pair_is_told_once_and_in_the_surest_way(train: list[Path], tmp_path: Path) -> None:
    shutil.copy(train[1], tmp_path / "copy.png")
    found = pairs(train, [train[0], tmp_path / "copy.png", train[0]])
    assert found == [
        Pair("same file", train[0], train[0], 1.0),
        Pair("same bytes", train[1], tmp_path / "copy.png", 1.0),
    ]


def test_flat_and_broken_pictures_are_like_nothing(tmp_path: Path, picture: Any) -> None:
    for name in ("black", "white", "grey"):
        Image.new("RGB", (64, 64), name).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"")
    (tmp_path / "broken2.png").write_bytes(b"\0")
    files = [tmp_path / f"{name}.png" for name in ("black", "white", "grey", "broken", "broken2")]
    assert [
        pair for pair in pairs(files[:1] + files[3:4], files[1:3] + files[4:]) if pair.how != "same file"
    ] == []


def test_nearly_black_pictures_are_like_nothing(tmp_path: Path) -> None:
    corner = np.linspace(0, 4, 64)[None, :, None] + np.zeros((64, 1, 3))  # the same dim light on all
    for name, place in (("a", 10), ("b", 40)):
        pixels = corner.copy()
        pixels[place, place] += 30  # a single star, in another place in each
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    assert pairs([tmp_path / "a.png"], [tmp_path / "b.png"]) == []


def test_copies_are_grouped_by_their_bytes(train: list[Path], tmp_path: Path) -> None:
    for number in (1, 2):
        shutil.copy(train[5], tmp_path / f"copy{number}.png")
    group = (train[5], tmp_path / "copy1.png", tmp_path / "copy2.png")
    assert copies([*train, *group[1:], train[5]]) == [group]


def test_blocks_of_pictures_give_what_one_does(
    train: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    val = [tmp_path / f"{number}.jpg" for number in (2, 7, 11)]
    for file in val:
        with Image.open(train[int(file.stem)]) as image:
            image.save(file)
    whole = pairs(train, val)
    monkeypatch.setattr("gkd_core.data.near_duplicates.AT_ONCE", 5)
    assert pairs(train, val) == whole
    assert [pair.train for pair in whole] == [train[2], train[7], train[11]]


def test_the_blood_smears_hold_one_pair_that_looks_the_same(shared_data: Path) -> None:
    folder = shared_data / "bccd" / "JPEGImages"
    lists = shared_data / "bccd" / "ImageSets" / "Main"
    train, val = (
        [folder / f"{stem}.jpg" for stem in (lists / f"{split}.txt").read_text().split()]
        for split in ("train", "val")
    )
    [pair] = pairs(train, val)
    assert (pair.train.stem, pair.val.stem) == ("BloodImage_00038", "BloodImage_00037")
