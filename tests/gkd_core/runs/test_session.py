"""What every kind of run shares: the pictures that are used are decoded once before the work."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DataConfig, EvaluateRun, TeacherConfig
from gkd_core.data import picture_inspection
from gkd_core.data.pictures import Look
from gkd_core.events import Event
from gkd_core.runs.evaluate import _Evaluation
from gkd_core.runs.export import _Export
from gkd_core.runs.prototypes import _Selection
from gkd_core.runs.session import Session

Decoded = list[Path]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    """Return the list of pictures that are decoded from now on."""
    seen: Decoded = []
    look_into = picture_inspection.look_into

    def look_and_tell(path: Path, white: int | None) -> Look:
        seen.append(path)
        return look_into(path, white)

    monkeypatch.setattr(picture_inspection, "look_into", look_and_tell)
    return seen


@pytest.fixture
def checked(shapes: Path, tmp_path: Path) -> Callable[..., tuple[Session, list[Event]]]:
    """Return a function that begins an attempt of one run and checks its data.

    It returns the session and the events.
    """
    data, folder = tmp_path / "shapes", tmp_path / "run"
    shutil.copytree(shapes, data)
    folder.mkdir()

    def check(kind: type[Session] = Session, **fields: Any) -> tuple[Session, list[Event]]:
        config = EvaluateRun(
            data=DataConfig(path=str(data), **fields), model=TeacherConfig(weights="none"), device="cpu"
        )
        session = type("Part", (Session,), {"decodes": kind.decodes})(
            config, folder, lambda: False, image_size=64, batch_size=2, workers=0
        )
        return session, list(session.check_data())

    return check


def cut_short(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("kind", "train", "val"), [(Session, 14, 4), (_Evaluation, 0, 4), (_Export, 0, 4), (_Selection, 14, 0)]
)
def test_only_pictures_that_a_kind_of_run_uses_are_decoded(
    checked: Callable[..., Any], decoded: Decoded, kind: type[Session], train: int, val: int
) -> None:
    session, _ = checked(kind)
    paths = [{image.path for image in split.images} for split in (session.data.train, session.data.val)]
    assert [len(split & set(decoded)) for split in paths] == [train, val]
    assert len(decoded) == train + val


def test_another_attempt_decodes_nothing_and_leaves_the_same_pictures_out(
    checked: Callable[..., Any], decoded: Decoded
) -> None:
    first, _ = checked()
    broken = first.data.train.images[5].path
    cut_short(broken)
    (first.folder / "decoded.json").unlink()
    second, told = checked()
    assert broken.name in told[0].message
    decoded.clear()
    third, _ = checked()
    assert not decoded
    assert len(third.data.train.images) == 13
    assert [image.path for image in third.data.train.images] == [
        image.path for image in second.data.train.images
    ]


def test_other_data_are_decoded_anew(checked: Callable[..., Any], decoded: Decoded) -> None:
    checked()
    decoded.clear()
    checked(only=("circle", "square"))
    assert len(decoded) == 18
