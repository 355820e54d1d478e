"""Links in folders of pictures and labels: followed, each folder once, and reported when skipped."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_core.config import DataConfig
from gkd_core.data.check import check
from gkd_core.data.reading import load
from gkd_core.data.records import DataSet
from gkd_core.errors import DataError

LINE = "0 0.3 0.4 0.25 0.4"


class Linked:
    """A YOLO data set `ds` whose train has `own/a.png`, beside a `store` with `s1.png` and `s2.png`."""

    def __init__(self, folder: Path, picture: Callable[..., None]) -> None:
        self.folder, self.picture = folder, picture
        self.train, self.labels = folder / "ds/images/train", folder / "ds/labels/train"
        self.store = folder / "store"
        for name in ("ds/images/train/own/a", "ds/images/val/v"):
            self.add(folder / f"{name}.png", folder / f"{name.replace('images', 'labels')}.txt")
        for name in ("s1", "s2"):
            self.add(self.store / f"images/{name}.png", self.store / f"labels/{name}.txt")
        (folder / "ds/data.yaml").write_text("train: images/train\nval: images/val\nnames: [square]\n")

    def add(self, picture: Path, labels: Path) -> None:
        for file in (picture, labels):
            file.parent.mkdir(parents=True, exist_ok=True)
        self.picture(picture, 96, 64, seed=len(str(picture)))
        labels.write_text(LINE)

    def link(self, name: str = "far") -> None:
        (self.train / name).symlink_to(self.store / "images")
        (self.labels / name).symlink_to(self.store / "labels")

    def load(self) -> DataSet:
        return load(DataConfig(path=str(self.folder / "ds")))


@pytest.fixture
def linked(tmp_path: Path, picture: Callable[..., None]) -> Linked:
    return Linked(tmp_path, picture)


def told(data: DataSet) -> str:
    return " | ".join(warning.message for warning in data.warnings)


def found(data: DataSet) -> list[tuple[str, int]]:
    return [(record.path.name, len(record.boxes)) for record in data.train.images]


@pytest.mark.parametrize("relative", [False, True])
def test_folders_that_are_linked_are_read_with_their_labels(linked: Linked, relative: bool) -> None:
    for place, kind in ((linked.train, "images"), (linked.labels, "labels")):
        target = linked.store / kind
        (place / "far").symlink_to(os.path.relpath(target, place) if relative else target)
    data = linked.load()
    assert found(data) == [("s1.png", 1), ("s2.png", 1), ("a.png", 1)]
    assert data.warnings == ()
    report = check(DataConfig(path=str(linked.folder / "ds")))
    assert (report.train.images, report.train.boxes) == (3, 3)


def test_single_pictures_and_labels_may_be_links(linked: Linked) -> None:
    (linked.train / "own/s1.png").symlink_to(linked.store / "images/s1.png")
    (linked.labels / "own/s1.txt").symlink_to(linked.store / "labels/s1.txt")
    assert found(linked.load()) == [("a.png", 1), ("s1.png", 1)]


def test_links_through_links_are_followed(linked: Linked) -> None:
    linked.link("far")
    (linked.folder / "way").symlink_to(linked.store)
    for place, kind in ((linked.train, "images"), (linked.labels, "labels")):
        (place / "far").unlink()
        (place / "far").symlink_to(linked.folder / "way" / kind)
    assert len(found(linked.load())) == 3


@pytest.mark.parametrize("target", [".", "..", "../..", "own", "../val", "../../../ds"])
def test_a_link_back_ends_and_is_named_and_counted(linked: Linked, target: str) -> None:
    (linked.train / "own/back").symlink_to(os.path.normpath(linked.train / target))
    data = linked.load()
    if target == "../val":  # not circular: another folder, whose pictures have no labels here
        assert found(data) == [("a.png", 1), ("v.png", 0)]
    else:
        assert found(data) == [("a.png", 1)]
        assert "link leads back into the folder that it lies in; not followed (1: train/own/back)" in told(
            data
        )


def test_a_circle_outside_the_folder_ends(linked: Linked) -> None:
    (linked.store / "images/round").symlink_to(linked.store / "images")
    linked.link()
    data = linked.load()
    assert len(found(data)) == 3
    assert "link leads to a folder that another link leads to; followed once (1: train/far/round)" in told(
        data
    )


def test_two_links_to_one_folder_are_followed_once_and_said(linked: Linked) -> None:
    linked.link("far")
    linked.link("far2")
    data = linked.load()
    assert len(found(data)) == 3
    assert told(data).count("followed once (1: train/far2)") == 2


@pytest.mark.parametrize("target", ["gone", "itself", "itself.png"])
def test_links_that_lead_nowhere_are_named_and_counted(linked: Linked, target: str) -> None:
    name = target if target.startswith("itself") else "lost"
    (linked.train / name).symlink_to(linked.train / target)
    data = linked.load()
    assert found(data) == [("a.png", 1)]
    assert f"link leads nowhere (1: train/{name})" in told(data)


def test_labels_behind_a_link_that_leads_nowhere_are_no_empty_pictures(linked: Linked) -> None:
    (linked.labels / "own/a.txt").unlink()
    (linked.labels / "own/a.txt").symlink_to(linked.store / "gone.txt")
    linked.link()
    data = linked.load()
    assert found(data) == [("s1.png", 1), ("s2.png", 1)]
    assert "picture left out: its labels cannot be read" in told(data)


def test_a_folder_of_labels_behind_a_link_that_leads_nowhere_is_named(linked: Linked) -> None:
    linked.link()
    (linked.labels / "far").unlink()
    (linked.labels / "far").symlink_to(linked.store / "gone")
    assert "link leads nowhere (1: far)" in told(linked.load())


def test_a_link_that_became_a_text_is_named(linked: Linked) -> None:
    (linked.train / "far").write_text("../../../store/images")
    (linked.train / "README").write_text("Pictures of the first of May/June.")
    data = linked.load()
    assert found(data) == [("a.png", 1)]
    assert "file holds a path, as a link does that was copied or checked out as text" in told(data)
    assert "(1: train/far)" in told(data)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_closed_folder_is_named(linked: Linked) -> None:
    (linked.train / "closed").mkdir(mode=0)
    assert "folder may not be read (1: train/closed)" in told(linked.load())


def test_a_list_through_a_link_is_read(linked: Linked) -> None:
    linked.link()
    (linked.folder / "ds/train.txt").write_text("images/train/own/a.png\nimages/train/far/s1.png\n")
    (linked.folder / "ds/data.yaml").write_text("train: train.txt\nval: images/val\nnames: [square]\n")
    assert found(linked.load()) == [("a.png", 1), ("s1.png", 1)]


def test_a_picture_of_a_list_behind_a_dead_link_is_told_as_one(linked: Linked) -> None:
    (linked.train / "own/b.png").symlink_to(linked.store / "gone.png")
    (linked.folder / "ds/train.txt").write_text("images/train/own/a.png\nimages/train/own/b.png\n")
    (linked.folder / "ds/data.yaml").write_text("train: train.txt\nval: images/val\nnames: [square]\n")
    with pytest.raises(DataError, match="1 of 2 pictures") as caught:
        linked.load()
    assert "is a link that leads nowhere" in caught.value.problems[0].hint
