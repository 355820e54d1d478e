"""`gkd datasets` and `gkd models` against a real `gkd serve`: from a file of this machine to a job that uses it."""

from __future__ import annotations

import json
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from client.cli import app
from gkd_core.config import DetectorConfig
from gkd_core.detectors.model_card import ModelCard


@pytest.fixture
def gkd(url: str, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs a command against the server."""
    monkeypatch.setenv("GKD_URL", url)

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def archive(data: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "shapes.zip", "w") as packed:
        for path in sorted((data / "shapes").rglob("*")):
            packed.write(path, path.relative_to(data))
    return tmp_path / "shapes.zip"


def added(gkd, *arguments: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(gkd(*arguments, "--json").stdout)
    return made


def test_an_uploaded_data_set_is_trained_on_wherever_a_worker_unpacks_it(
    gkd, archive: Path, home: Path, tmp_path: Path
):
    made = added(gkd, "datasets", "add", str(archive), "--upload", "--name", "drawn shapes")
    assert (made["state"], made["report"]["train"]["images"]) == ("ready", 4)
    assert f"dataset:{made['id']}" in gkd("datasets", "list", "--state", "ready").stdout
    assert "drawn shapes" in gkd("datasets", "show", made["id"]).stdout
    for path in (home / "datasets" / made["sha256"]).rglob("*"):  # as if the worker were on another machine
        path.unlink() if path.is_file() else None
    (home / "datasets" / made["sha256"]).rename(tmp_path / "aside")
    spec = {"kind": "train", "data": f"dataset:{made['id']}", "train": {"epochs": 3, "image_size": 64}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    job = added(gkd, "submit", str(tmp_path / "spec.json"))
    assert "succeeded" in gkd("watch", job["id"]).stdout.splitlines()[-1]
    config = json.loads((home / "runs" / job["id"] / "config.json").read_text())
    images = Path(config["data"]["train"]["images"])
    assert images.is_relative_to(home / "datasets" / made["sha256"])
    assert len(list(images.iterdir())) >= 4
    gkd("datasets", "delete", made["id"])
    assert "there is no data set" in gkd("datasets", "show", made["id"], code=1).stderr


def test_what_an_open_job_needs_is_not_deleted(gkd, data: Path, tmp_path: Path):
    made = added(gkd, "datasets", "add", "shapes", "--no-wait")
    assert (made["path"], made["uploaded"]) == (str(data / "shapes"), False)
    while json.loads(gkd("datasets", "show", made["id"], "--json").stdout)["state"] == "checking":
        pass
    spec = {
        "kind": "train",
        "data": f"dataset:{made['id']}",
        "train": {"epochs": 1},
        "resources": {"gpus": 8},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"train": {"epochs": 1, "batch_size": 8}}))
    job = added(gkd, "submit", str(tmp_path / "spec.json"))
    assert f"job {job['id']} needs it" in gkd("datasets", "delete", made["id"], code=1).stderr
    gkd("cancel", job["id"])
    assert added(gkd, "datasets", "delete", made["id"]) == {"deleted": made["id"]}


def test_what_is_refused_is_told_with_exit_code_1(gkd, tmp_path: Path):
    with tarfile.open(tmp_path / "evil.tar", "w") as packed:
        packed.addfile(tarfile.TarInfo("../evil"))
    told = gkd("datasets", "add", str(tmp_path / "evil.tar"), "--upload", code=1)
    assert "refused" in told.stdout
    assert "'../evil' leads out of the archive" in told.stdout
    assert "leaves the data roots" in gkd("datasets", "add", "/etc", code=1).stderr
    assert "No such file" in gkd("models", "add", str(tmp_path / "gone"), "--upload", code=1).stderr
    assert "is no id of a dataset" in gkd("datasets", "show", "..", code=1).stderr


def test_an_uploaded_model_is_scored(gkd, home: Path, tmp_path: Path):
    card = ModelCard.of(DetectorConfig(), ("circle", "square", "triangle"), 64)
    entries = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header = json.dumps({"__metadata__": {"gkd": card.model_dump_json()}, **entries}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    made = added(gkd, "models", "add", str(tmp_path / "model.safetensors"), "--upload")
    assert made["report"]["card"]["architecture"] == "fcos"
    assert "model.safetensors" in gkd("models", "list").stdout
    assert "classes circle, square, triangle" in gkd("models", "show", made["id"]).stdout
    spec = {"kind": "evaluate", "data": "shapes", "model": {"weights": f"model:{made['id']}"}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    job = added(gkd, "submit", str(tmp_path / "spec.json"))
    assert "succeeded" in gkd("watch", job["id"]).stdout.splitlines()[-1]
    config = json.loads((home / "runs" / job["id"] / "config.json").read_text())
    assert Path(config["model"]["weights"]).read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    gkd("models", "delete", made["id"])
