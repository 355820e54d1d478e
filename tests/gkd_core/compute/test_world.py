"""Two processes with half a batch each against one with the whole batch: on a CPU, by gloo, on drawn pictures.

This file is also the program of the two: `python test_world.py DATA FOLDER`, with RANK, WORLD_SIZE in the
environment. The first of them saves its results in FOLDER/found.pt.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from gkd_core.compute.world import World, synchronise_norms
from gkd_core.config import DataConfig, DetectorConfig, DistillRun, TrainConfig, run_config
from gkd_core.data.loading import TrainLoader
from gkd_core.data.reading import load
from gkd_core.data.shapes import draw_shapes
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.checkpoint import publish_model
from gkd_core.detectors.model_card import ModelCard
from gkd_core.errors import SpecError
from gkd_core.events import Progress
from gkd_core.process.engine import serve_run
from gkd_core.process.launch import RENDEZVOUS
from gkd_core.run_dir import COMPLETE, RunDir
from gkd_core.train import _Job, carry_out
from gkd_core.training.batch_share import require_equal_shares
from gkd_core.training.sampling import KeyedSampler
from gkd_core.training.trainer import Training
from worker.engine import Engine, read_events

E = TypeVar("E")

FAMILIES = ("retinanet", "fcos", "faster_rcnn")
DETECTOR: dict[str, Any] = {
    "backbone_width": 0.25,
    "fpn": {"channels": 16},
    "head": {"depth": 1},
    "norm": "group",
}
STEPS = 5
RUNS = (*FAMILIES, "bank")
"""The runs that are compared: every family, and one whose prototypes come from a bank."""
RECIPE: dict[str, Any] = {
    "epochs": 3,  # of two steps
    "batch_size": 8,
    "accumulate": 2,
    "image_size": 64,  # pictures come padded to 32 or 64
    "workers": 0,
    "ema": None,
    "optimizer": {"name": "sgd", "lr": 0.01},  # AdamW makes full steps of gradients that are rounding errors
    "augment": {"mosaic": 0.2, "scale": (0.4, 1.0)},
}

CHANGES: dict[str, dict[str, Any]] = {
    "bank": {"distill": {"prototypes": {"per_class": 3, "source": "bank"}}},
}


def distill_run(family: str, data: Path, teacher: Path, processes: int, **changes: Any) -> DistillRun:
    spec = {
        "kind": "distill",
        "data": str(data),
        "teacher": {"weights": str(teacher)},
        "student": {"architecture": family, **DETECTOR},
        "distill": {"prototypes": {"per_class": 3}, **changes.pop("distill", {})},
        "train": {**RECIPE, **changes},
        "device": "cpu",
        "processes": processes,
    }
    run = run_config.validate_python(spec)
    assert isinstance(run, DistillRun)
    return run


def first_steps(run: DistillRun, folder: Path) -> dict[str, Any]:
    """Return the first steps of a student, the same resumed after the third, and the student's detections then."""
    job = _Job(run, folder, lambda: False)
    list(job.check_data())
    list(job.meet_teacher())
    training = new_training(job)
    losses, prototypes = walk(job, training, 3)
    training.save(job.states)
    later = walk(job, training, STEPS)
    resumed = new_training(job)
    job.world.gathered(None)  # the first process has saved
    assert resumed.restore(job.states, print)
    walk(job, resumed, STEPS)
    found = {
        "losses": losses + later[0],
        "prototypes": prototypes + later[1],
        "weights": weights_of(training),
        "weights of all processes": job.world.gathered(weights_of(training)),
        "resumed": weights_of(resumed),
        "detections": detections_of(job, training),
    }
    job.world.leave()
    return found


def new_training(job: _Job) -> Training:
    recipe, make = job.config.train, job.joined_with_teacher
    ((name, detector), *_) = job.trainings()
    steps = len(job.data.train.images) // recipe.batch_size
    training = Training(name, recipe, detector, job.classes, steps, job.device, make, job.world)
    if hasattr(training.detector, "roi_heads"):
        training.detector.roi_heads.fg_bg_sampler.batch_size_per_image = 10_000
    return training


def walk(job: _Job, training: Training, until: int) -> tuple[list[dict[str, float]], list[list[Tensor]]]:
    """Train; return the losses of each step, and the teacher's side of all prototypes after each renewal."""
    losses, prototypes = [], []
    place = {"rank": job.world.rank, "world": job.world.size}
    loader = TrainLoader(job.data.train.images, job.config.train, **place)
    while training.step < until:
        if training.step_in_epoch == 0:
            list(job.renew_prototypes(training, training.distiller))
            prototypes.append([level.teacher for level in training.distiller.prototypes])
        batch = next(loader.epoch(training.epoch, first_step=training.step_in_epoch))
        losses.append({name: float(value) for name, value in training.train_step(batch).items()})
        if training.step_in_epoch == training.steps_per_epoch:
            training.end_epoch()
    return losses, prototypes


def weights_of(training: Training) -> dict[str, Tensor]:
    """Return the weights of student and adapters."""
    return {name: tensor.clone() for name, tensor in training.distiller.state_dict().items()}


def detections_of(job: _Job, training: Training) -> dict[int, Any]:
    """Return how many objects the student finds on each validation picture, in the order of the split."""
    finding = job.detect(training.detector, job.progress(training))
    while True:
        try:
            next(finding)
        except StopIteration as end:
            return {image_id: len(found["labels"]) for image_id, found in end.value.items()}


# Faster R-CNN samples its best proposals and FCOS assigns objects their best places. Of an untrained detector,
# all are nearly as good; which are the best is then a matter of rounding, and differs between one thread and two as
# well. So here all of them count, in both.


def all_runs(data: Path, folder: Path, processes: int) -> dict[str, dict[str, Any]]:
    found = {}
    for name in RUNS:
        family = "retinanet" if name == "bank" else name
        changes = CHANGES.get(name, {})
        run = distill_run(family, data, folder / f"{family}.safetensors", processes, **changes)
        os.environ[RENDEZVOUS] = str(folder / f"meeting-{name}")
        with mock.patch("gkd_core.detectors.fcos.PLACES", 10_000):
            found[name] = first_steps(run, folder / f"{name}-{processes}")
    return found


# ---- the test

Found = dict[str, dict[str, Any]]

TEACHER = {"backbone_width": 0.25, "fpn": {"channels": 24}, "head": {"depth": 1}, "norm": "group"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """Return the results of one process, and of the first of two."""
    folder = tmp_path_factory.mktemp("two")
    data = folder / "data"
    draw_shapes(data, train=17, val=11, size=96, seed=0)
    classes = load(DataConfig(path=str(data))).classes
    for family in FAMILIES:
        make_teacher(family, classes, folder / f"{family}.safetensors")
    two = [start(rank, data, folder) for rank in (0, 1)]
    alone = all_runs(data, folder, 1)
    for process in two:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output.decode()
    return alone, torch.load(folder / "found.pt")


def make_teacher(family: str, classes: tuple[str, ...], path: Path) -> None:
    """Publish an untrained teacher, which suffices here."""
    torch.manual_seed(1)
    config = DetectorConfig.model_validate({"architecture": family, **TEACHER})
    detector = build_detector(config, len(classes), RECIPE["image_size"])
    publish_model(path, detector.state_dict(), ModelCard.of(config, classes, RECIPE["image_size"]))


def start(rank: int, *arguments: Path) -> subprocess.Popen[bytes]:
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    line = [sys.executable, __file__, *map(str, arguments)]
    root = str(Path(__file__).parents[3])
    env = {**os.environ, **place, "PYTHONPATH": root}
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("run", RUNS)
def test_the_losses_of_the_first_steps_are_those_of_one_process(found: tuple[Found, Found], run: str) -> None:
    alone, two = (part[run]["losses"] for part in found)
    assert len(alone) == len(two) == 5
    for one, other in zip(alone, two, strict=True):
        assert one.keys() == other.keys()
        assert other == pytest.approx(one, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("run", RUNS)
def test_no_loss_of_distillation_is_zero(found: tuple[Found, Found], run: str) -> None:
    for losses in found[1][run]["losses"]:
        distilling = {name: value for name, value in losses.items() if name.startswith("distill_")}
        assert len(distilling) == 4
        assert all(value > 0 and math.isfinite(value) for value in distilling.values())


@pytest.mark.parametrize("run", RUNS)
def test_the_prototypes_are_those_of_one_process(found: tuple[Found, Found], run: str) -> None:
    alone, two = (part[run]["prototypes"] for part in found)
    assert len(alone) == len(two) == 3
    for one, other in zip(alone, two, strict=True):
        for level, same in zip(one, other, strict=True):
            torch.testing.assert_close(same, level, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("run", RUNS)
def test_all_processes_hold_the_same_bits(found: tuple[Found, Found], run: str) -> None:
    first, second = found[1][run]["weights of all processes"]
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_that_resume_end_with_the_bits_of_two_that_did_not_stop(
    found: tuple[Found, Found], run: str
) -> None:
    weights, resumed = found[1][run]["weights"], found[1][run]["resumed"]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


@pytest.mark.parametrize("run", RUNS)
def test_every_picture_is_evaluated_once_and_in_order(found: tuple[Found, Found], run: str) -> None:
    alone, two = (list(part[run]["detections"]) for part in found)
    assert two == alone


# ---- the whole, as a worker starts it ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, RunDir]:
    """Return the run directories of one process, and of two that the worker's engine started."""
    folder = tmp_path_factory.mktemp("whole")
    data, teacher = folder / "data", folder / "teacher.safetensors"
    draw_shapes(data, train=8, val=3, size=96, seed=0)
    make_teacher("retinanet", load(DataConfig(path=str(data))).classes, teacher)
    wanted = {"epochs": 5, "evaluate_every": 5, "image_size": 64}  # epochs of one step
    directories = RunDir(folder / "one"), RunDir(folder / "two")
    for processes, directory in enumerate(directories, start=1):
        directory.prepare(distill_run("retinanet", data, teacher, processes, **wanted), attempt=1)
    with Engine.start(directories[1], 1, device="cpu") as engine:
        assert serve_run(directories[0], 1, carry_out) == COMPLETE
        while engine.poll() is None:
            time.sleep(0.1)
        assert engine.poll() == COMPLETE, directories[1].log.read_text()
    return directories


def told(directory: RunDir, kind: type[E]) -> list[E]:
    return [event for event, _ in read_events(directory.events, 0) if isinstance(event, kind)]


def test_a_job_on_two_processes_tells_the_losses_of_the_same_job_on_one(
    whole_runs: tuple[RunDir, RunDir],
) -> None:
    one, two = ([e.losses for e in told(run, Progress) if e.saved] for run in whole_runs)
    assert len(one) == len(two) == 10  # student and control
    for alone, both in zip(one, two, strict=True):
        assert both == pytest.approx(alone, rel=1e-5, abs=1e-5)
    assert all(losses["distill_global"] > 0 for losses in two[:5])


def test_only_the_first_of_two_processes_tells_and_writes(whole_runs: tuple[RunDir, RunDir]) -> None:
    kinds = [
        [event.kind for event in told(run, BaseModel) if not isinstance(event, Progress)]
        for run in whole_runs
    ]
    assert kinds[0] == kinds[1]
    files = [sorted(path.name for path in run.path.iterdir()) for run in whole_runs]
    assert [name for name in files[1] if name != "log.txt"] == files[0]


def test_both_choose_the_same_prototypes_and_train_the_same_model(whole_runs: tuple[RunDir, RunDir]) -> None:
    chosen = [json.loads((run.path / "student-prototypes.json").read_bytes())["levels"] for run in whole_runs]
    for level in chosen[0]:
        places = [[(p["image_id"], p["box"]) for p in run[level]] for run in chosen]
        assert places[0] == places[1]
    one, two = (load_file(run.path / "student.safetensors") for run in whole_runs)
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_learn_one_batch_norm(tmp_path: Path) -> None:
    data, teacher = tmp_path / "data", tmp_path / "teacher.safetensors"
    draw_shapes(data, train=8, val=3, size=96, seed=0)
    make_teacher("retinanet", load(DataConfig(path=str(data))).classes, teacher)
    losses = []
    for processes in (1, 2):
        run = distill_run("retinanet", data, teacher, processes, epochs=5, evaluate_every=5)
        student = run.student.model_copy(update={"norm": "batch"})
        directory = RunDir(tmp_path / str(processes))
        directory.prepare(run.model_copy(update={"student": student, "device": "cuda"}), attempt=1)
        with Engine.start(directory, 1, device="cuda") as engine:
            while engine.poll() is None:
                time.sleep(0.1)
            assert engine.poll() == COMPLETE, directory.log.read_text()
        losses.append([event.losses for event in told(directory, Progress) if event.saved])
    for one, two in zip(*losses, strict=True):
        assert two == pytest.approx(one, rel=1e-3)


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "recipe", "hint"),
    [
        (100, {"batch_size": 6, "accumulate": 2}, "multiple of 4"),  # three pictures at a time
        (7, {"batch_size": 8}, "multiple of 2 that is at most 7"),
    ],
)
def test_shares_that_are_not_equal_are_refused(images: int, recipe: dict[str, int], hint: str) -> None:
    with pytest.raises(SpecError) as error:
        require_equal_shares(images, TrainConfig.model_validate(recipe), 2)
    (problem,) = error.value.problems
    assert problem.loc == ("train", "batch_size")
    assert hint in problem.hint
    require_equal_shares(images, TrainConfig.model_validate(recipe), 1)


def test_batch_norm_over_processes_is_refused_on_a_cpu() -> None:
    two = World(torch.device("cpu"), rank=0, size=2)
    with pytest.raises(SpecError, match="batch norm"):
        synchronise_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), two)
    frozen = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))
    assert synchronise_norms(frozen, two) is frozen


def test_a_process_that_was_started_without_the_others_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SpecError, match="2 processes"):
        World.join(2, torch.device("cpu"))


def test_fewer_gpus_than_processes_are_a_mistake_of_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SpecError, match="4 GPUs are asked for, and torch sees 2"):
        World.join(4, torch.device("cuda"))


# ---- small things ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 8, 21])
def test_batches_are_dealt_out_whole_and_in_turn(count: int) -> None:
    shares = [World(torch.device("cpu"), rank, 3).deal(count, 4) for rank in range(3)]
    assert sorted(position for share in shares for position in share.positions) == list(range(count))
    turns = [-(-len(share.positions) // 4) + share.idle for share in shares]
    assert len(set(turns)) == 1  # all ask together whether to stop
    for rank, share in enumerate(shares):
        assert all(position // 4 % 3 == rank for position in share.positions)


def test_what_is_drawn_for_a_picture_depends_on_its_place_in_the_whole_batch() -> None:
    labels = [(torch.arange(90) % 3 - 1).float() for _ in range(4)]  # ignored, negative, positive
    sampler = KeyedSampler(BalancedPositiveNegativeSampler(20, 0.5), 0)

    def drawn(places: list[int]) -> list[torch.Tensor]:
        sampler.keys = [(7, 3, place) for place in places]
        return sampler([labels[place] for place in places])[0]

    before = torch.get_rng_state()
    whole = drawn([0, 1, 2, 3])
    assert torch.equal(sampler.rows, torch.tensor(4 * 20))  # a tensor: a number would wait for a GPU
    assert torch.equal(torch.get_rng_state(), before)
    halves = [*drawn([0, 2]), *drawn([1, 3])]
    assert all(torch.equal(a, b) for a, b in zip([whole[i] for i in (0, 2, 1, 3)], halves, strict=True))
    assert not torch.equal(whole[0], whole[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    told = all_runs(Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["WORLD_SIZE"]))
    if os.environ["RANK"] == "0":
        torch.save(told, Path(sys.argv[2]) / "found.pt")
