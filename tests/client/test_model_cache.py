"""`job:<id>` and `model:<id>` as files of this machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.client import Client, ClientError, DamagedDownload
from client.model_cache import fetch_model
from jobs.resources import ResourceKind

CLASSES = ("disc", "ring")


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """Return a small model of GKD that detects many objects."""
    import torch

    from gkd_core.config import DetectorConfig
    from gkd_core.detectors.build import build_detector
    from gkd_core.detectors.checkpoint import publish_model
    from gkd_core.detectors.model_card import ModelCard

    form = {"backbone_width": 0.25, "fpn": {"channels": 16}, "head": {"depth": 1}}
    config = DetectorConfig.model_validate(form)
    model = build_detector(config, len(CLASSES), 64).eval()
    torch.nn.init.constant_(model.head.classification_head.cls_logits.bias, 1.0)
    path = tmp_path / "detector.safetensors"
    publish_model(path, model.state_dict(), ModelCard.of(config, CLASSES, 64))
    return path


def test_the_model_of_a_job_is_fetched_once_and_whole(client: Client, spec: dict[str, Any], tmp_path: Path):
    job = client.wait(client.submit({**spec, "name": "to be fetched"}).id, timeout=60)
    announced = client.report(job.id).models["model"].sha256
    first = fetch_model(client, f"job:{job.id}", tmp_path)
    assert sha256_of(first) == announced
    written = first.stat().st_mtime_ns
    assert fetch_model(client, "job:to be fetched", tmp_path) == first
    assert first.stat().st_mtime_ns == written, "it is here already"
    first.write_bytes(b"a flipped bit")
    assert sha256_of(fetch_model(client, f"job:{job.id[:8]}", tmp_path)) == announced


def test_the_student_of_a_distill_job_is_fetched(client: Client, spec: dict[str, Any], tmp_path: Path):
    teacher = client.submit(spec)
    job = client.submit({"kind": "distill", "data": "shapes", "teacher": {"weights": f"job:{teacher.id}"}})
    client.wait(job.id, timeout=60)
    files = {file.name: file.sha256 for file in client.artifacts(job.id)}
    wanted = files.get("student.safetensors", files.get("model.safetensors"))
    assert sha256_of(fetch_model(client, f"job:{job.id}", tmp_path)) == wanted


def test_a_job_without_a_model_says_why(client: Client, spec: dict[str, Any], tmp_path: Path):
    waiting = client.submit({**spec, "resources": {"gpus": 1}})
    with pytest.raises(ClientError, match="has published no model: it is of kind train, queued"):
        fetch_model(client, f"job:{waiting.id}", tmp_path)
    client.cancel(waiting.id)
    with pytest.raises(ClientError, match="there is no job 'nobody'"):
        fetch_model(client, "job:nobody", tmp_path)
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_not_those_announced_are_not_kept(
    client: Client, detector: Path, tmp_path: Path, home: Path
):
    made = client.upload(ResourceKind.MODEL, detector, name="flipped")
    client.wait_for_check(ResourceKind.MODEL, made.id)
    (published,) = (path for path in home.rglob("*") if path.is_file() and path.name == made.sha256)
    content = published.read_bytes()
    published.chmod(0o644)
    published.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises((DamagedDownload, ClientError)):
        fetch_model(client, f"model:{made.id}", tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    client.delete_resource(ResourceKind.MODEL, made.id)


def test_pictures_are_looked_at_by_an_uploaded_model(
    client: Client, detector: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
):
    made = client.upload(ResourceKind.MODEL, detector, name="finds much")
    assert client.wait_for_check(ResourceKind.MODEL, made.id).state == "ready"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures, out = data / "shapes" / "images" / "val", tmp_path / "out"
    arguments = ["predict", "model:finds much", str(pictures), "--out", str(out), "--format", "coco"]
    result = CliRunner().invoke(app, [*arguments, "--url", client.url])
    assert result.exit_code == 0, (result.output, capfd.readouterr().err)
    assert json.loads((out / "predictions.json").read_text())
    assert [sha256_of(path) for path in (tmp_path / "cache" / "gkd" / "models").iterdir()] == [made.sha256]


def test_a_model_under_a_data_root_is_read_where_it_lies(
    client: Client, detector: Path, data: Path, tmp_path: Path
):
    there = data / "registered.safetensors"
    there.write_bytes(detector.read_bytes())
    made = client.register(ResourceKind.MODEL, "registered", str(there))
    client.wait_for_check(ResourceKind.MODEL, made.id)
    assert fetch_model(client, f"model:{made.id}", tmp_path / "cache") == there
    with pytest.raises(ClientError, match="lies under a data root"):
        client.download_model(made.id, tmp_path / "x")
    there.unlink()
    with pytest.raises(ClientError, match="where the service runs, not here"):
        fetch_model(client, f"model:{made.id}", tmp_path / "cache")
