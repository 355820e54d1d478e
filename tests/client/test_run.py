"""`gkd run`: the engine without the service."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from client.run import RunFailed, run
from gkd_core.errors import DataError, SpecError
from gkd_core.run_dir import STOPPED, RunDir


@pytest.fixture
def spec_file(data: Path, tmp_path: Path, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a spec with a path relative to the current folder."""
    monkeypatch.chdir(data)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    return path


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def told(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_ends_with_its_report(spec_file: Path, tmp_path: Path, console: Console, fake_engine: None):
    assert run(spec_file, tmp_path / "out", console) == 0
    assert "fcos resnet18" in told(console)
    assert (tmp_path / "out" / "model.safetensors").exists()
    config = RunDir(tmp_path / "out").read_config()
    assert config.device == "cpu"


def test_its_events_are_there_as_json(spec_file: Path, tmp_path: Path, console, fake_engine: None, capsys):
    assert run(spec_file, tmp_path / "out", console, as_json=True) == 0
    kinds = [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()]
    assert (kinds[0], kinds[-1]) == ("progress", "report")


def test_a_stopped_run_goes_on_where_it_was(
    spec_file: Path, data: Path, tmp_path: Path, start, console, fake_engine
):
    out = tmp_path / "out"
    command = ("run", str(spec_file), "--out", str(out))
    with start(*command, cwd=data, env={"FAKE_ENGINE": '{"epochs": 5, "seconds": 0.3}'}) as first:
        first.wait_for("epoch 2: published")
        assert first.end(signal.SIGINT) == STOPPED
        assert "goes on from the last checkpoint" in first.log.read_text()
    assert run(spec_file, out, console) == 0
    assert "epoch 1:" not in told(console)
    assert "attempt 1 starts at epoch 0" in (out / "log.txt").read_text()


def test_a_failure_is_its_message_and_hint(
    spec_file: Path, tmp_path: Path, console, fake_engine, monkeypatch
):
    monkeypatch.setenv("FAKE_ENGINE", '{"fail": 1}')
    with pytest.raises(RunFailed, match="a bug of epoch 1") as caught:
        run(spec_file, tmp_path / "out", console)
    assert caught.value.hint


def test_an_engine_that_was_killed_says_how_to_go_on(
    spec_file: Path, tmp_path: Path, console, fake_engine, monkeypatch
):
    monkeypatch.setenv("FAKE_ENGINE", '{"die": 1}')
    with pytest.raises(RunFailed, match="signal 9") as caught:
        run(spec_file, tmp_path / "out", console)
    assert f"gkd run {spec_file} --out" in caught.value.hint


def test_another_spec_does_not_continue_a_run(spec_file: Path, spec, tmp_path: Path, console, fake_engine):
    run(spec_file, tmp_path / "out", console)
    spec_file.write_text(json.dumps({**spec, "train": {"epochs": 9}}))
    with pytest.raises(SpecError, match="another spec"):
        run(spec_file, tmp_path / "out", console)


def test_a_run_does_not_go_on_with_annotations_that_were_edited(
    spec_file: Path, data: Path, tmp_path: Path, console, fake_engine, monkeypatch
):
    monkeypatch.setenv("FAKE_ENGINE", '{"die": 1}')
    with pytest.raises(RunFailed):
        run(spec_file, tmp_path / "out", console)
    [file] = (data / "shapes").rglob("instances_train.json")
    file.write_text(file.read_text().replace('"area":', '"seen": 1, "area":'))
    with pytest.raises(DataError, match="changed since this run began"):
        run(spec_file, tmp_path / "out", console)


def test_a_wrong_spec_makes_no_folder(spec_file: Path, spec, tmp_path: Path, console: Console):
    spec_file.write_text(json.dumps({**spec, "data": "nowhere", "model": {"weights": "absent"}}))
    with pytest.raises(SpecError) as caught:
        run(spec_file, tmp_path / "out", console)
    assert {problem.loc for problem in caught.value.problems} == {("data", "path"), ("model", "weights")}
    assert not (tmp_path / "out").exists()


def test_data_may_lie_anywhere_on_the_own_machine(
    spec_file: Path, data, spec, tmp_path, console, fake_engine
):
    spec_file.write_text(json.dumps({**spec, "data": str(data / "shapes")}))
    assert run(spec_file, tmp_path / "out", console) == 0


def test_a_teacher_of_the_service_is_not_known_without_it(spec_file: Path, tmp_path, console):
    spec_file.write_text(json.dumps({"kind": "distill", "data": "shapes", "teacher": {"weights": "job:x"}}))
    with pytest.raises(SpecError, match="without the service there is no job 'x'"):
        run(spec_file, tmp_path / "out", console)
