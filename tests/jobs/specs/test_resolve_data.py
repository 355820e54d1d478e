"""The data of a spec: named by a path or by an id, with every problem at its field."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DataConfig, Split
from gkd_core.errors import Problem, SpecError
from jobs.paths.data_roots import DataRoots
from jobs.resources import CheckedResource, ResourceKind, ResourceState
from jobs.specs.resolve_data import DataResolution, Findings
from jobs.uploads.submission_check import Here, Looked, Wanted


class Seen(Here):
    """An inspection that finds one problem and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[DataConfig] = []

    def data(self, placed: DataConfig, places: DataRoots, wanted: Wanted) -> Looked:
        self.given.append(placed)
        return Looked(problems=(Problem(loc=("data",), message=f"{placed.path}: odd", hint=""),))


def uploaded(**changes: Any) -> CheckedResource:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    fields: dict[str, Any] = {
        "id": "d1", "kind": ResourceKind.DATASET, "name": "cells", "state": ResourceState.READY, "reason": "",
        "uploaded": True, "path": None, "layout": None, "size": 1, "sha256": "0", "created_at": now,
        "checked_at": now, "report": None,
    }  # fmt: skip
    return CheckedResource(**(fields | changes))


def resolution(root: Path, dataset: CheckedResource | None = None, folder: Path | None = None) -> Any:
    def unpacked(_: CheckedResource) -> Path:
        if folder is None:
            raise FileNotFoundError("gone")
        return folder

    return DataResolution(DataRoots([root]), lambda *_: dataset, unpacked, Seen(), Findings())


def test_each_path_that_is_not_there_is_a_problem_of_its_field(tmp_path: Path) -> None:
    one = resolution(tmp_path)
    split = Split(images="nowhere", annotations="absent.json")
    assert one.check(DataConfig(train=split, val=split), Wanted()) is None
    assert [".".join(map(str, problem.loc)) for problem in one.found.problems] == [
        "data.train.images",
        "data.train.annotations",
        "data.val.images",
        "data.val.annotations",
    ]
    assert one.look.given == [], "what is not there is not looked at"


def test_paths_are_absolute_before_the_data_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    one = resolution(tmp_path)
    one.check(DataConfig(path="cells"), Wanted())
    assert [placed.path for placed in one.look.given] == [str(tmp_path / "cells")]


def test_an_upload_is_used_and_named_by_its_id_in_its_problems(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    one = resolution(tmp_path, uploaded(), tmp_path / "here")
    one.check(DataConfig(path="dataset:d1"), Wanted())
    assert one.found.uses == ["d1"]
    assert [problem.message for problem in one.found.problems] == ["dataset:d1: odd"]


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        (None, "there is no data set 'd1'"),
        (uploaded(state=ResourceState.REFUSED, reason="empty"), "was refused: empty"),
        (uploaded(state=ResourceState.CHECKING), "is still being checked"),
        (uploaded(), "its files are not at hand: gone"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_a_problem_of_the_path(
    tmp_path: Path, dataset: CheckedResource | None, why: str
) -> None:
    one = resolution(tmp_path, dataset)
    assert one.check(DataConfig(path="dataset:d1"), Wanted()) is None
    (problem,) = one.found.problems
    assert problem.loc == ("data", "path")
    assert why in problem.message


def test_a_disk_that_fails_after_the_check_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: DataConfig) -> str:
        raise OSError("the disk does not answer")

    monkeypatch.setattr("jobs.specs.resolve_data.of_annotations", fail)
    split = Split(images=str(tmp_path), annotations=str(tmp_path / "train.json"))
    with pytest.raises(SpecError, match="cannot be read now: the disk does not answer"):
        resolution(tmp_path).fingerprint(DataConfig(train=split, val=split))


def test_an_upload_needs_no_fingerprint(tmp_path: Path) -> None:
    split = Split(images="dataset:d1/images", annotations="dataset:d1/train.json")
    assert resolution(tmp_path).fingerprint(DataConfig(train=split, val=split)) is None
