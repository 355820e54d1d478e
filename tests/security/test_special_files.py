"""A FIFO, a socket or a folder in the place of a file: nothing waits for it, and the answer names it."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api.submission_limit import AT_ONCE
from gkd_core.process.named_files import NotToBeRead, open_named, reading_only
from jobs.settings import Settings
from jobs.specs.resolve import resolve

SECONDS = 60.0
"""Time after which an answer counts as missing."""

Spec = dict[str, Any]


def _yolo(root: Path, names: str = "data.yaml", **splits: str) -> Path:
    folder = root / "yolo"
    picture = (root / "discs" / "images" / "train1.png").read_bytes()
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        (folder / "images" / split / f"{split}.png").write_bytes(picture)
        (folder / "labels" / split / f"{split}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    said = {"train": "images/train", "val": "images/val"} | splits
    lines = [*(f"{split}: {place}" for split, place in said.items()), "names: [disc]"]
    (folder / names).write_text("\n".join(lines) if names == "data.yaml" else "disc\n")
    return folder


def _voc(root: Path) -> Path:
    folder = root / "voc"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    picture = (root / "discs" / "images" / "train1.png").read_bytes()
    for split in ("train", "val"):
        text = f"<annotation><object><name>disc</name>{box}</object></annotation>"
        (folder / "Annotations" / f"{split}.xml").write_text(text)
        (folder / "JPEGImages" / f"{split}.png").write_bytes(picture)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{split}\n")
    return folder


def _split(folder: str, split: str, **more: str) -> Spec:
    return {"images": f"{folder}/images/{split}", "annotations": f"{folder}/labels/{split}", **more}


def _coco_file(root: Path) -> tuple[Path, Spec]:
    pairs = {
        split: {"images": "discs/images", "annotations": f"discs/annotations/instances_{split}.json"}
        for split in ("train", "val")
    }
    return root / "discs/annotations/instances_train.json", {"data": pairs | {"format": "coco"}}


def _picture(root: Path) -> tuple[Path, Spec]:
    return root / "discs/images/val1.png", {"data": "discs"}


def _label(root: Path) -> tuple[Path, Spec]:
    return _yolo(root) / "labels/val/val.txt", {"data": "yolo"}


def _list(root: Path) -> tuple[Path, Spec]:
    folder = _yolo(root, train="train.txt")
    return folder / "train.txt", {"data": "yolo"}


def _data_yaml(root: Path) -> tuple[Path, Spec]:
    names = {"names": "yolo/data.yaml"}
    data = {split: _split("yolo", split, **names) for split in ("train", "val")}
    return _yolo(root) / "data.yaml", {"data": data | {"format": "yolo"}}


def _other_yaml(root: Path) -> tuple[Path, Spec]:
    (root / "yaml").mkdir()
    return root / "yaml" / "any.yaml", {"data": "yaml"}


def _classes(root: Path) -> tuple[Path, Spec]:
    folder = _yolo(root, "classes.txt")
    data = {split: _split("yolo", split, names="yolo/classes.txt") for split in ("train", "val")}
    return folder / "classes.txt", {"data": data | {"format": "yolo"}}


def _voc_list(root: Path) -> tuple[Path, Spec]:
    folder = {"images": "voc/JPEGImages", "annotations": "voc/Annotations"}
    data = {split: folder | {"names": f"voc/ImageSets/Main/{split}.txt"} for split in ("train", "val")}
    return _voc(root) / "ImageSets/Main/val.txt", {"data": data}


def _xml(root: Path) -> tuple[Path, Spec]:
    return _voc(root) / "Annotations/val.xml", {"data": "voc"}


def _weights(suffix: str) -> Callable[[Path], tuple[Path, Spec]]:
    return lambda root: (root / f"m.{suffix}", {"data": "discs", "model": {"weights": f"m.{suffix}"}})


ROLES = {
    "annotations of COCO": _coco_file,
    "a picture": _picture,
    "labels of YOLO": _label,
    "a list of YOLO": _list,
    "data.yaml": _data_yaml,
    "another YAML": _other_yaml,
    "classes.txt": _classes,
    "a list of VOC": _voc_list,
    "an XML of VOC": _xml,
    "weights as safetensors": _weights("safetensors"),
    "weights as pth": _weights("pth"),
}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:  # paths of sockets are limited in length
        listener.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


KINDS: dict[str, Callable[[Path], None]] = {"fifo": _fifo, "socket": _socket, "folder": Path.mkdir}


@pytest.fixture
def put_in_place() -> Iterator[Callable[[Path, str], None]]:
    """Yield a function that puts a special file in the place of another; readers that still wait are released."""
    placed: list[Path] = []

    def put(path: Path, kind: str) -> None:
        path.unlink(missing_ok=True)
        KINDS[kind](path)
        placed.append(path)

    yield put
    for path in placed:
        if path.is_fifo():
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def _answer(send: Callable[..., Any], path: str, spec: Spec) -> Any:
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(send(path, spec)), daemon=True)
    asking.start()
    asking.join(SECONDS)
    assert answers, "the answer never comes"
    return answers[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ROLES)
def test_no_submission_waits_for_a_special_file(
    service, send, root: Path, put_in_place, role: str, kind: str
):
    path, fields = ROLES[role](root)
    put_in_place(path, kind)
    answer = _answer(send, "/jobs/validate", {"kind": "train"} | fields)
    assert answer.status_code == 422, answer.text
    said = json.dumps(answer.json())
    assert path.name in said or path.stem in said or path.parent.name in said


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_opened(tmp_path: Path, kind: str):
    KINDS[kind](tmp_path / "it")
    with pytest.raises(OSError, match=r"directory|regular|address"):
        open_named(tmp_path / "it")


def test_a_regular_file_blocks_as_usual_and_is_not_inherited(tmp_path: Path):
    (tmp_path / "it").write_text("x")
    with open_named(tmp_path / "it") as file:
        assert (os.get_blocking(file.fileno()), os.get_inheritable(file.fileno())) == (True, False)


def test_what_is_opened_must_lie_where_reading_is_allowed(tmp_path: Path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "it").write_text("x")
    (inside / "link").symlink_to(outside / "it")
    (inside / "fine").symlink_to(inside / "it")
    with reading_only([inside]):
        open_named(inside / "fine").close()
        with pytest.raises(NotToBeRead, match="out of the data roots"):
            open_named(inside / "link")
    open_named(inside / "link").close()


def test_readers_of_data_open_nothing_in_another_way():
    """Search the source, so that later readers are checked, too."""
    package = Path(__file__).parents[2] / "gkd_core"
    opening = re.compile(r"read_bytes\(|read_text\(|\.open\(['\"]r|(?<![\w.])open\(|Image\.open\((?!file\b)")
    files = [*(package / "data").glob("*.py"), package / "detectors" / "model_card.py"]
    assert [file.name for file in files if opening.search(file.read_text())] == []


# ---- a disk that does not answer ---------------------------------------------------------------------------


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return settings with one second for the check of a submission."""
    return settings.model_copy(update={"look_seconds": 1.0})


def test_a_disk_that_hangs_holds_no_place_in_the_line(
    service, send, train_spec, monkeypatch: pytest.MonkeyPatch
):
    """Hang more submissions than there are slots; the next one is still checked, and none is queued."""
    answers, read = threading.Event(), resolve
    slow = {"name": "slow"}

    def hang(spec, *given, **named):
        if spec.name == "slow":
            answers.wait(100)
        return read(spec, *given, **named)

    monkeypatch.setattr("api.deps.resolve", hang)
    with ThreadPoolExecutor(AT_ONCE + 2) as pool:
        sent = [pool.submit(send, "/jobs", train_spec | slow) for _ in range(AT_ONCE + 2)]
        told = [each.result() for each in sent]
    assert {(each.status_code, each.json()["code"]) for each in told} == {(503, "look_timed_out")}
    assert "Retry-After" in told[0].headers
    assert send("/jobs", train_spec | {"name": "quick"}).status_code == 201
    answers.set()  # the disk is back: abandoned submissions are not queued after all
    left = [each for each in threading.enumerate() if each.name == "aside"]
    for thread in left:
        thread.join(30)
    assert [job.name for job in service.jobs()] == ["quick"]


def test_too_many_hanging_submissions_are_refused_at_once(
    service, send, train_spec, monkeypatch: pytest.MonkeyPatch
):
    answers = threading.Event()
    monkeypatch.setattr("api.submission_limit.MOST_LEFT_BEHIND", 1)
    monkeypatch.setattr("api.deps.resolve", lambda *_, **__: answers.wait(100))
    assert send("/jobs", train_spec).json()["code"] == "look_timed_out"
    assert "others" in send("/jobs", train_spec).json()["detail"]
    answers.set()


def test_what_is_being_written_is_waited_for(service, send, train_spec, monkeypatch: pytest.MonkeyPatch):
    """Wait for the write, so that the answer says what was queued."""
    submit = service.store.submission.submit

    def slowly(*given, **named):
        time.sleep(2)
        return submit(*given, **named)

    monkeypatch.setattr(service.app.state.services.store.submission, "submit", slowly)
    assert send("/jobs", train_spec).status_code == 201
