"""Published models and resume states."""

import errno
import resource
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from gkd_core.config import DetectorConfig
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.checkpoint import (
    load_model,
    load_state,
    publish_model,
    publish_tensors,
    save_state,
    sha256_of,
)
from gkd_core.detectors.model_card import ModelCard, read_card
from gkd_core.errors import InfrastructureError, SpecError

CONFIG = DetectorConfig(fpn={"channels": 16}, head={"depth": 1})
CARD = ModelCard.of(CONFIG, ("cat", "dog"), 96)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    publish_model(path, build_detector(CONFIG, 2, 96).state_dict(), CARD)
    return path


@pytest.mark.parametrize("architecture", ["retinanet", "faster_rcnn", "fcos"])
@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
def test_a_model_file_rebuilds_its_detector(tmp_path: Path, architecture: str, norm: str) -> None:
    config = CONFIG.model_copy(update={"architecture": architecture, "norm": norm})
    original = build_detector(config, 2, 96).eval()
    publish_model(tmp_path / "m.safetensors", original.state_dict(), ModelCard.of(config, ("cat", "dog"), 96))
    rebuilt, card = load_model(tmp_path / "m.safetensors")
    assert card.detector() == config
    assert not rebuilt.training
    for name, value in original.state_dict().items():
        assert torch.equal(value, rebuilt.state_dict()[name])


def test_the_same_weights_give_the_same_bytes(model_file: Path, tmp_path: Path) -> None:
    weights = load_model(model_file)[0].state_dict()
    publish_model(tmp_path / "again.safetensors", weights, CARD)
    assert sha256_of(tmp_path / "again.safetensors") == sha256_of(model_file)


def test_the_card_is_read_without_the_weights(model_file: Path) -> None:
    assert read_card(model_file).classes == ("cat", "dog")


@pytest.mark.parametrize("content", [b"", b"junk", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 64])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"other\.safetensors is not a model of GKD"):
        read_card(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        read_card(tmp_path / "none.safetensors")


def test_weights_of_another_width_are_refused_with_the_tensors_that_differ(tmp_path: Path) -> None:
    wide = DetectorConfig(fpn={"channels": 32}, head={"depth": 1})
    path = tmp_path / "model.safetensors"
    publish_model(path, build_detector(wide, 2, 96).state_dict(), CARD)
    with pytest.raises(SpecError, match=r"another shape: backbone\.fpn"):
        load_model(path)


def test_only_the_last_two_states_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_state(tmp_path, "student", step, {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student-000000002.pt", "student-000000003.pt"]
    assert load_state(tmp_path, "student", pytest.fail) == {"step": 3}


def test_a_torn_newest_state_costs_one_step_back_and_a_warning(tmp_path: Path) -> None:
    for step in (1, 2):
        save_state(tmp_path, "student", step, {"step": step, "tensor": torch.arange(1000)})
    newest = tmp_path / "student-000000002.pt"
    newest.write_bytes(newest.read_bytes()[:-500])
    warnings: list[str] = []
    state = load_state(tmp_path, "student", warnings.append)
    assert state is not None
    assert state["step"] == 1
    assert "student-000000002.pt cannot be read" in warnings[0]


def test_a_torn_state_is_removed_so_that_it_keeps_no_place(tmp_path: Path) -> None:
    for step in (8, 9):
        save_state(tmp_path, "student", step, {"step": step})
        (tmp_path / f"student-{step:09d}.pt").write_bytes(b"torn")
    warnings: list[str] = []
    assert load_state(tmp_path, "student", warnings.append) is None
    assert len(warnings) == 2
    save_state(tmp_path, "student", 1, {"step": 1})
    assert load_state(tmp_path, "student", pytest.fail) == {"step": 1}


@pytest.mark.parametrize("cut", range(0, 1500, 50))
def test_a_state_cut_short_anywhere_is_torn(tmp_path: Path, cut: int) -> None:
    save_state(tmp_path, "student", 1, {"step": 1, "tensor": torch.arange(10)})
    path = tmp_path / "student-000000001.pt"
    path.write_bytes(path.read_bytes()[:cut])
    assert load_state(tmp_path, "student", lambda message: None) is None


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_state_of_which_a_block_was_lost_is_torn_though_torch_reads_it(
    tmp_path: Path, share: float
) -> None:
    for step in (1, 2):
        save_state(tmp_path, "student", step, {"step": step, "tensor": torch.arange(1.0, 5000.0)})
    newest = tmp_path / "student-000000002.pt"
    with newest.open("r+b") as file:
        file.seek(int(newest.stat().st_size * share))
        file.write(bytes(512))
    assert torch.load(newest, weights_only=True)["step"] == 2
    warnings: list[str] = []
    assert load_state(tmp_path, "student", warnings.append)["step"] == 1
    assert "student-000000002.pt cannot be read" in warnings[0]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder, tensors: save_state(folder, "student", 1, tensors),
        lambda folder, tensors: publish_tensors(folder / "model.safetensors", tensors, {}),
    ],
)
def test_a_disk_that_takes_no_more_is_the_machines_fault_and_keeps_no_half_file(
    tmp_path: Path, write: Callable[[Path, dict[str, torch.Tensor]], None]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InfrastructureError, match="cannot be written"):
            write(tmp_path, {"tensor": torch.zeros(50_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.EIO, "Input/output error"), InfrastructureError),
        (OSError(errno.EMFILE, "Too many open files"), InfrastructureError),
        (PermissionError(errno.EACCES, "Permission denied"), InfrastructureError),
        (MemoryError(), MemoryError),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            RuntimeError,
        ),
    ],
)
def test_a_state_that_the_machine_does_not_give_is_neither_passed_over_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    for step in (1, 2):
        save_state(tmp_path, "student", step, {"step": step})
    with monkeypatch.context() as broken:
        broken.setattr(torch, "load", Mock(side_effect=error))
        with pytest.raises(raised):
            load_state(tmp_path, "student", pytest.fail)
    assert load_state(tmp_path, "student", pytest.fail) == {"step": 2}


def test_a_process_without_a_free_descriptor_does_not_begin_anew(tmp_path: Path) -> None:
    save_state(tmp_path, "student", 1, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(InfrastructureError, match="Too many open files"):
            load_state(tmp_path, "student", pytest.fail)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_runs_do_not_see_each_others_states(tmp_path: Path) -> None:
    save_state(tmp_path, "control", 5, {"step": 5})
    assert load_state(tmp_path, "student", pytest.fail) is None
