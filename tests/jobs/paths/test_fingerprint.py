"""The fingerprint that shows that files under a data root changed, and how few of them are read for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_core.config import DataConfig
from gkd_core.data.check import find_layout
from jobs.paths import fingerprint
from jobs.paths.fingerprint import of_data_set, of_file, size_of


@pytest.fixture
def folder(tmp_path: Path, draw: Callable[..., Path]) -> Path:
    return draw(tmp_path / "discs")


@pytest.fixture
def data(folder: Path) -> DataConfig:
    return find_layout(DataConfig(path=str(folder)))


def touch(file: Path) -> None:
    os.utime(file, (1, 1))


def add(file: Path) -> None:
    file.with_name("more.png").write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


def replace(file: Path) -> None:
    file.with_name("new").write_bytes(file.read_bytes())
    file.with_name("new").rename(file)


@pytest.mark.parametrize("change", [touch, add, remove, replace])
def test_a_picture_that_changes_changes_it(
    folder: Path, data: DataConfig, change: Callable[[Path], None]
) -> None:
    before = of_data_set(data)
    assert of_data_set(data) == before
    change(folder / "images" / "val1.png")
    assert of_data_set(data) != before


@pytest.mark.parametrize("change", [touch, add, remove, replace])
def test_so_does_one_in_a_folder_that_is_linked(
    folder: Path, data: DataConfig, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/far.png").write_bytes(b"a picture")
    (folder / "images" / "far").symlink_to(tmp_path / "store")
    (folder / "images" / "round").symlink_to(folder)
    before = of_data_set(data)
    change(tmp_path / "store/far.png")
    assert of_data_set(data) != before


def test_of_many_pictures_some_are_looked_at_and_all_are_listed(
    folder: Path, data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "LOOKED_AT", 2)
    for number in range(100):
        (folder / "images" / f"{number:03}.png").write_bytes(b"")
    looked_at: list[str] = []
    stat = Path.stat

    def counted(path: Path, **how: bool) -> os.stat_result:
        looked_at.append(path.suffix)
        return stat(path, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", counted)
        before = of_data_set(data)
    assert looked_at.count(".png") in (1, 2, 3)
    touch(folder / "annotations" / "instances_val.json")
    assert of_data_set(data) != before
    before = of_data_set(data)
    (folder / "images" / "050.png").rename(folder / "images" / "x.png")
    assert of_data_set(data) != before


def test_a_second_file_beside_the_annotations_changes_nothing(folder: Path, data: DataConfig) -> None:
    before = of_data_set(data)
    (folder / "annotations" / "notes.txt").write_text("mine")
    assert of_data_set(data) == before


def test_a_test_split_counts_too(folder: Path, data: DataConfig) -> None:
    assert data.val is not None
    file = folder / "held-out.json"
    file.write_bytes(Path(data.val.annotations).read_bytes())
    with_test = data.model_copy(update={"test": data.val.model_copy(update={"annotations": str(file)})})
    before = of_data_set(with_test)
    assert size_of(with_test) == size_of(data) + file.stat().st_size
    touch(file)
    assert of_data_set(with_test) != before


def test_a_file_that_changes_changes_it(tmp_path: Path) -> None:
    (file := tmp_path / "model").write_bytes(b"weights")
    before = of_file(file)
    assert of_file(file) == before
    file.write_bytes(b"other weights")
    assert of_file(file) != before


def test_each_file_counts_once(folder: Path, data: DataConfig) -> None:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert size_of(data) == sum(sizes)
