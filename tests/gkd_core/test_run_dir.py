"""The files that a run directory takes over from another one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gkd_core.run_dir import RunDir, write_atomically


def a_run_that_stopped(path: Path) -> RunDir:
    run = RunDir(path)
    run.checkpoints.mkdir(parents=True)
    for name in ("model-000000001.pt", "model-000000002.pt", ".model-000000003.pt.tmp"):
        (run.checkpoints / name).write_text(name)
    (run.path / "model.safetensors").write_text("weights")
    run.events.write_bytes(b'{"a": 1}\n{"b": 2}\n{"tor')
    run.log.write_text("its own story")
    return run


def test_a_run_takes_over_what_another_one_saved(tmp_path: Path) -> None:
    old, new = a_run_that_stopped(tmp_path / "old"), RunDir(tmp_path / "new")
    assert new.take_states(old) == len(b'{"a": 1}\n{"b": 2}\n')
    assert sorted(path.name for path in new.checkpoints.iterdir()) == [
        "model-000000001.pt",
        "model-000000002.pt",
    ]
    assert (new.path / "model.safetensors").read_text() == "weights"
    assert new.events.read_bytes() == b'{"a": 1}\n{"b": 2}\n'
    assert not new.log.exists()


def test_what_was_taken_over_stays_when_the_other_run_is_gone_or_goes_on(tmp_path: Path) -> None:
    old, new = a_run_that_stopped(tmp_path / "old"), RunDir(tmp_path / "new")
    new.take_states(old)
    write_atomically(new.path / "model.safetensors", b"better")
    assert (old.path / "model.safetensors").read_text() == "weights"
    shutil.rmtree(old.path)
    assert (new.checkpoints / "model-000000002.pt").read_text() == "model-000000002.pt"


def test_a_run_with_states_of_its_own_takes_nothing_but_knows_what_it_took(tmp_path: Path) -> None:
    old, new = a_run_that_stopped(tmp_path / "old"), RunDir(tmp_path / "new")
    taken = new.take_states(old)
    (new.checkpoints / "model-000000001.pt").unlink()
    with new.events.open("ab") as file:
        file.write(b'{"c": 3}\n')
    assert new.take_states(old) == taken
    assert [path.name for path in new.checkpoints.iterdir()] == ["model-000000002.pt"]
    assert new.events.read_bytes().endswith(b'{"c": 3}\n')


def test_of_a_run_without_states_nothing_is_taken(tmp_path: Path) -> None:
    old, new = a_run_that_stopped(tmp_path / "old"), RunDir(tmp_path / "new")
    old.drop_states()
    assert new.take_states(old) == 0
    assert new.take_states(RunDir(tmp_path / "nowhere")) == 0
    assert not new.events.exists()


def test_where_links_are_impossible_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("not on this disk")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    old, new = a_run_that_stopped(tmp_path / "old"), RunDir(tmp_path / "new")
    assert new.take_states(old) > 0
    assert (new.checkpoints / "model-000000002.pt").read_text() == "model-000000002.pt"
    assert (new.checkpoints / "model-000000002.pt").stat().st_nlink == 1
