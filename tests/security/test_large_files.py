"""Large files that a submission names are parsed in a limited process; other requests are answered meanwhile."""

from __future__ import annotations

import json
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DataConfig, DetectorConfig
from gkd_core.detectors.model_card import LONGEST_HEADER, ModelCard, header_bytes
from jobs.settings import Settings
from jobs.uploads import submission_check

MIB = 1024**2


@pytest.fixture
def large(root: Path) -> Path:
    """Return the data set's annotations, enlarged beyond the size that is parsed in the API's process."""
    file = root / "discs" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["info"] = {"history": ["drawn"] * (submission_check.LARGE_BYTES // 8)}
    file.write_text(json.dumps(content))
    assert file.stat().st_size > submission_check.LARGE_BYTES
    return file


def test_what_is_large_is_parsed_in_another_process(
    service, send, train_spec, large: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gkd_core.data.coco.read_named", lambda file: pytest.fail(f"{file} was read here"))
    answer = send("/jobs/validate", train_spec)
    assert answer.status_code == 200, answer.text
    assert answer.json()["report"]["train"]["images"] == 3


def test_it_finds_the_same_as_this_process(service, send, train_spec, root: Path, monkeypatch):
    here = send("/jobs/validate", train_spec).json()
    monkeypatch.setattr(submission_check, "LARGE_BYTES", 1)
    assert send("/jobs/validate", train_spec).json() == here
    (root / "discs/images/train1.png").unlink()
    apart = send("/jobs/validate", train_spec).json()
    monkeypatch.undo()
    assert apart["errors"] == send("/jobs/validate", train_spec).json()["errors"]


def test_others_are_answered_while_a_large_file_is_looked_into(
    service, send, train_spec, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Hold the process until another request has its answer."""
    go_on = tmp_path / "go-on"
    wait = f"while not os.path.exists({str(go_on)!r}): time.sleep(.05)"
    code = f"import os, time, jobs.uploads.check_process\n{wait}\njobs.uploads.check_process.main()"
    monkeypatch.setattr(submission_check, "COMMAND", ("-c", code, "submission"))
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send, "/jobs", train_spec)
        time.sleep(0.5)
        assert service.http.get("/jobs").status_code == 200
        assert not sent.done()
        go_on.touch()
        assert sent.result(60).status_code == 201


def test_an_honest_large_file_silences_nobody(service, send, train_spec, root: Path):
    """Send a hundred thousand boxes, which the interpreter would parse in one go."""
    file = root / "discs" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    box = content["annotations"][0]
    content["annotations"] = [
        box | {"id": n, "bbox": [n % 40, n % 30, 3 + n % 13, 3 + n % 11]} for n in range(100_000)
    ]
    file.write_text(json.dumps(content))
    over, longest = threading.Event(), [0.0]

    def ask() -> None:
        while not over.wait(0.02):
            begun = time.monotonic()
            assert service.http.get("/healthz").status_code == 200
            longest[0] = max(longest[0], time.monotonic() - begun)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        answer = send("/jobs/validate", train_spec)
        over.set()
        asking.result(60)
    assert answer.status_code in (200, 422), answer.text
    assert longest[0] < 20, "the API was silent"


def test_more_memory_than_allowed_is_a_refusal(service, send, train_spec, large: Path, monkeypatch):
    greedy = "import jobs.uploads.check_process as own; own.Here.data = lambda *_: bytearray(8 * 2**30); own.main()"
    monkeypatch.setattr(submission_check, "COMMAND", ("-c", greedy, "submission"))
    answer = send("/jobs", train_spec)
    assert answer.status_code == 422
    assert "memory" in answer.json()["detail"]


class TestTooSlow:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"look_seconds": 2.0})

    def test_a_process_that_never_ends_is_ended(self, service, send, train_spec, large: Path, monkeypatch):
        monkeypatch.setattr(submission_check, "COMMAND", ("-c", "import time; time.sleep(600)"))
        answer = send("/jobs", train_spec)
        assert answer.status_code in (422, 503)
        assert "took longer than 2 s" in answer.text


def _weights(path: Path, header: dict[str, Any]) -> Path:
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, **header}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0\0\0\0")
    return path


def _card() -> str:
    return ModelCard.of(DetectorConfig(), ("disc", "ring"), 64).model_dump_json()


@pytest.mark.parametrize("mebibytes", [17, 67])
def test_a_header_beyond_the_bound_is_refused_unread(service, send, train_spec, root: Path, mebibytes: int):
    _weights(root / "m.safetensors", {"__metadata__": {"gkd": _card(), "more": "x" * mebibytes * MIB}})
    answer = send("/jobs", train_spec | {"model": {"weights": "m.safetensors"}})
    assert answer.status_code == 422
    assert f"at most {LONGEST_HEADER} are read" in answer.json()["detail"]


def test_a_large_header_is_parsed_in_another_process(
    service, send, train_spec, root: Path, monkeypatch: pytest.MonkeyPatch
):
    path = _weights(root / "m.safetensors", {"__metadata__": {"gkd": _card(), "more": "x" * 2 * MIB}})
    assert header_bytes(path) > submission_check.LARGE_HEADER
    for read in ("carries_card", "read_card"):
        monkeypatch.setattr(
            f"jobs.specs.weight_sources.{read}", lambda file: pytest.fail(f"{file} was read here")
        )
        monkeypatch.setattr(
            f"jobs.uploads.model_files.{read}", lambda file: pytest.fail(f"{file} was read here")
        )
    answer = send("/jobs/validate", train_spec | {"model": {"weights": "m.safetensors"}})
    assert answer.status_code == 200, answer.text


def test_a_large_header_that_is_no_model_is_refused(service, send, train_spec, root: Path):
    path = root / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 2 * MIB) + b"{" + b"[" * (2 * MIB))
    answer = send("/jobs", train_spec | {"model": {"weights": "m.safetensors"}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["model", "weights"]


def test_many_files_are_looked_into_apart(root: Path, monkeypatch: pytest.MonkeyPatch):
    data = DataConfig(path=str(root / "discs"))
    assert not submission_check.is_large(data)
    monkeypatch.setattr(submission_check, "MANY_FILES", 3)
    assert submission_check.is_large(data)
