"""From a spec to a config that can run, or to all reasons why it cannot."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from gkd_core.config import (
    RESPONSE_WEIGHT,
    DetectorConfig,
    DistillRun,
    EvaluateRun,
    TrainRun,
    run_config,
)
from gkd_core.data.reading import load
from gkd_core.detectors.model_card import ModelCard
from gkd_core.errors import Problem, SpecError
from jobs.job import Job, queue_for
from jobs.specs.resolve import resolve
from jobs.specs.spec import Resolved, job_spec
from jobs.store.store import Store, UnknownJob

CLASSES = ("cat", "dog")


def draw_cells(folder: Path, classes: tuple[str, ...] = CLASSES) -> None:
    """Write a COCO data set of four pictures."""
    (folder / "images").mkdir(parents=True)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    for split, numbers in {"train": (1, 2), "val": (3, 4)}.items():
        images, boxes = [], []
        for number in numbers:
            file_name = f"{number}.png"
            Image.new("RGB", (40, 30), (number, 0, 0)).save(folder / "images" / file_name)
            images.append({"id": number, "file_name": file_name, "width": 40, "height": 30})
            box = {"image_id": number, "area": 200, "iscrowd": 0}
            boxes += [
                box | {"id": 10 * number + c["id"], "category_id": c["id"], "bbox": [5 * c["id"], 5, 20, 10]}
                for c in categories
            ]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))


def write_model(path: Path, config: DetectorConfig, classes: tuple[str, ...] = CLASSES) -> None:
    """Write a model file without weights: only its card is read."""
    card = ModelCard.of(config, classes, image_size=64)
    header = json.dumps({"__metadata__": {"gkd": card.model_dump_json()}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a data root with a data set `cells` and a model `teacher.safetensors` of its classes."""
    root = tmp_path / "root"
    draw_cells(root / "cells")
    write_model(root / "teacher.safetensors", DetectorConfig(backbone="resnet50"))
    return root


def no_jobs(job_id: str) -> Job | None:
    return None


def resolved(root: Path, find_job: Any = no_jobs, **fields: Any) -> Resolved:
    spec = job_spec.validate_python({"kind": "train", "data": "cells"} | fields)
    return resolve(spec, roots=[root], find_job=find_job)


def problems(root: Path, find_job: Any = no_jobs, **fields: Any) -> dict[str, Problem]:
    """Return the problems of a spec, by field."""
    with pytest.raises(SpecError) as error:
        resolved(root, find_job, **fields)
    return {".".join(map(str, problem.loc)): problem for problem in error.value.problems}


def distill(weights: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "distill", "teacher": {"weights": weights}} | fields


def shrink(root: Path, boxes: int) -> None:
    """Give the first boxes of train a width of a third of a pixel at an image size of 64."""
    file = root / "cells" / "train.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"][:boxes]:
        annotation["bbox"] = [5, 5, 0.2, 20]
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["train", "distill"])
def test_a_job_whose_objects_all_vanish_is_refused(root: Path, kind: str) -> None:
    shrink(root, 4)
    spec = {"kind": "train"} if kind == "train" else distill("teacher.safetensors")
    found = problems(root, **spec, train={"image_size": 64})["train.image_size"]
    assert "at train.image_size 64 all 4 objects of train are thinner than a pixel" in found.message
    assert "from train.image_size 224 on" in found.hint


def test_a_job_of_whose_objects_many_vanish_is_warned(root: Path) -> None:
    shrink(root, 1)
    told = resolved(root, train={"image_size": 64}).warnings
    assert any("1 of 4 objects of train are thinner than a pixel (cat 1 of 2)" in message for message in told)
    assert not any("thinner" in message for message in resolved(root, train={"image_size": 1024}).warnings)


def test_what_is_only_scored_is_not_refused_for_small_objects(root: Path) -> None:
    shrink(root, 4)
    resolved(root, kind="evaluate", model={"weights": "teacher.safetensors"})


def test_a_resolved_spec_is_all_that_the_engine_needs(root: Path) -> None:
    answer = resolved(root, train={"epochs": 2})
    assert isinstance(answer.config, TrainRun)
    data = answer.config.data
    assert (data.format, data.path, data.classes) == ("coco", None, CLASSES)
    assert data.train is not None
    assert Path(data.train.images) == root / "cells" / "images"
    assert Path(data.train.annotations) == root / "cells" / "train.json"
    assert answer.config.train.epochs == 2
    assert answer.report is not None
    assert answer.report.train.images == 2
    assert TypeAdapter(Resolved).validate_json(answer.model_dump_json()) == answer


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (1, "cuda")])
def test_the_resources_decide_the_device(root: Path, gpus: int, device: str) -> None:
    assert resolved(root, resources={"gpus": gpus}).config.device == device


@pytest.mark.parametrize(
    ("gpus", "processes", "queue"),
    [
        (0, 1, "cpu"),
        (1, 1, "gpu"),
        (2, 2, "gpu2"),
        (3, 3, "gpu4"),
        (4, 4, "gpu4"),
        (5, 5, "gpu8"),
        (8, 8, "gpu8"),
    ],
)
def test_every_gpu_gets_a_process_and_the_job_a_queue_with_enough(
    root: Path, gpus: int, processes: int, queue: str
) -> None:
    config = resolved(root, resources={"gpus": gpus}, train={"batch_size": 120}).config
    assert isinstance(config, TrainRun)
    assert config.processes == processes
    assert queue_for(gpus) == queue


def test_what_cannot_be_shared_out_evenly_is_refused(root: Path) -> None:
    found = problems(root, resources={"gpus": 3}, train={"batch_size": 8, "accumulate": 2})
    assert found["train.batch_size"].message == "4 pictures at a time cannot be shared out evenly to 3 GPUs"
    assert "multiple of 6" in found["train.batch_size"].hint


def test_a_teacher_in_a_file_is_found(root: Path) -> None:
    answer = resolved(root, **distill("teacher.safetensors"))
    assert isinstance(answer.config, DistillRun)
    assert answer.config.teacher.weights == str(root / "teacher.safetensors")
    assert answer.waits_for == ()


def test_every_problem_is_told_at_once(root: Path) -> None:
    data = {"train": {"images": "cells/pictures", "annotations": "/etc/passwd"}}
    data["val"] = {"images": "cells/images", "annotations": "cells/../cells/val.json"}
    found = problems(root, data=data, **distill("nothing.safetensors"))
    assert set(found) == {
        "data.train.images",
        "data.train.annotations",
        "data.val.annotations",
        "teacher.weights",
    }
    assert "there is no 'cells/pictures'" in found["data.train.images"].message
    assert "leaves the data roots" in found["data.train.annotations"].message
    assert all(problem.hint for problem in found.values())


def test_flaws_of_the_data_set_are_flaws_of_the_spec(root: Path) -> None:
    (root / "cells" / "images" / "2.png").unlink()
    (problem,) = problems(root).values()
    assert problem.loc[0] == "data"
    assert "2.png" in problem.message


def test_a_disk_that_fails_while_the_data_is_looked_at_is_told_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **options: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("gkd_core.data.pictures.Image.open", fail)
    (problem,) = problems(root).values()
    assert problem.loc == ("data",)
    assert "Input/output error" in problem.message
    assert ".png" in problem.message


def test_a_folder_that_leads_out_by_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "cells" / "images").rename(tmp_path / "elsewhere")
    (root / "cells" / "images").symlink_to(tmp_path / "elsewhere")
    assert "leads out of the data roots" in problems(root)["data"].message


@pytest.mark.parametrize(
    "said", ["path: {outside}\ntrain: .", "train: {outside}", "train: {outside}/list.txt"]
)
def test_what_a_data_yaml_names_outside_the_roots_is_never_read(
    root: Path, tmp_path: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    (outside / "val").mkdir(parents=True)
    (outside / "list.txt").write_text("private.png")
    Image.new("RGB", (8, 8)).save(outside / "private.png")
    (root / "yolo" / "val").mkdir(parents=True)
    text = said.format(outside=outside) + "\nval: val\nnames: [cat, dog]"
    (root / "yolo" / "data.yaml").write_text(text)
    monkeypatch.setattr(
        "jobs.uploads.submission_check.check_layout", lambda *_, **__: pytest.fail("it was read")
    )
    assert "leads out of the data roots" in problems(root, data="yolo")["data"].message


def test_a_yolo_data_set_is_resolved_with_its_classes_renamed(root: Path) -> None:
    for split in ("train", "val"):
        (root / "yolo" / split / "images").mkdir(parents=True)
        (root / "yolo" / split / "labels").mkdir()
        Image.new("RGB", (40, 30)).save(root / "yolo" / split / "images" / "a.png")
        (root / "yolo" / split / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.2 0.2\n")
    (root / "yolo" / "data.yaml").write_text("train: ../train/images\nval: ../val/images\nnames: [cat, dog]")
    data = resolved(
        root, data={"path": "yolo/data.yaml", "rename": {"cat": "chat"}, "only": ["chat"]}
    ).config.data
    assert (data.format, data.classes, data.rename, data.only) == (
        "yolo",
        ("chat",),
        {"cat": "chat"},
        ("chat",),
    )
    assert data.train is not None
    assert Path(data.train.images) == root / "yolo" / "train" / "images"


def test_on_the_own_machine_paths_start_at_the_current_folder_and_may_leave_it(
    root: Path, tmp_path: Path
) -> None:
    spec = job_spec.validate_python({"kind": "train", "data": "../root/cells"})
    (tmp_path / "here").mkdir()
    answer = resolve(spec, roots=[tmp_path / "here"], find_job=no_jobs, confined=False)
    assert answer.config.data.train is not None
    assert Path(answer.config.data.train.images) == root / "cells" / "images"


# ---- weights ---------------------------------------------------------------------------------------------


def test_a_teacher_with_other_classes_is_refused_by_name(root: Path) -> None:
    write_model(root / "birds.safetensors", DetectorConfig(), ("cat", "crow"))
    problem = problems(root, **distill("birds.safetensors"))["teacher.weights"]
    assert problem.message.endswith("does not know dog; it knows cat, crow")


def test_the_order_of_classes_does_not_matter(root: Path) -> None:
    write_model(root / "turned.safetensors", DetectorConfig(), CLASSES[::-1])
    assert resolved(root, **distill("turned.safetensors")).config


def test_a_teacher_that_is_not_what_the_spec_says_is_refused(root: Path) -> None:
    teacher = {"weights": "teacher.safetensors", "architecture": "retinanet", "backbone": "resnet50"}
    found = problems(root, kind="distill", teacher=teacher)
    assert set(found) == {"teacher.architecture"}
    assert "has architecture fcos, the spec says retinanet" in found["teacher.architecture"].message


def weight_of(answer: Resolved) -> float | str:
    assert isinstance(answer.config, DistillRun)
    return answer.config.distill.response.weight


def test_scores_of_two_architectures_are_not_compared(root: Path) -> None:
    student = {"architecture": "faster_rcnn"}
    wanted = {"response": {"weight": 1}}
    found = problems(root, **distill("teacher.safetensors", student=student, distill=wanted))
    assert set(found) == {"distill.response.weight"}
    assert "faster_rcnn student and a fcos teacher" in found["distill.response.weight"].message


def test_the_weight_of_the_response_loss_is_said_in_the_resolved_spec(root: Path) -> None:
    alike = resolved(root, **distill("teacher.safetensors", train={"batch_size": 2}))
    assert (weight_of(alike), alike.warnings) == (RESPONSE_WEIGHT, ())
    unlike = resolved(root, **distill("teacher.safetensors", student={"architecture": "faster_rcnn"}))
    assert weight_of(unlike) == 0
    assert (
        "distill.response.weight is 0: the scores of a faster_rcnn student and a fcos" in unlike.warnings[0]
    )
    asked = {"response": {"weight": 3}}
    assert weight_of(resolved(root, **distill("teacher.safetensors", distill=asked))) == 3


def test_retinanets_of_other_anchors_are_not_compared(root: Path) -> None:
    write_model(root / "retina.safetensors", DetectorConfig(architecture="retinanet"))  # trained at 64 pixels
    student = {"student": {"architecture": "retinanet"}}
    same = resolved(root, **distill("retina.safetensors", **student, train={"image_size": 320}))
    assert weight_of(same) == RESPONSE_WEIGHT  # no anchor is smaller than two strides
    other = resolved(root, **distill("retina.safetensors", **student, train={"image_size": 640}))
    assert weight_of(other) == 0
    assert "the finest anchors of teacher and student differ: 16 and 25.6 pixels" in other.warnings[0]


def test_a_teacher_may_see_pictures_of_two_or_four_times_the_size(root: Path) -> None:
    teacher = {"weights": "teacher.safetensors"}
    spec = {"kind": "distill", "train": {"image_size": 320, "batch_size": 2}}
    larger = resolved(root, **spec, teacher={**teacher, "image_size": 640})
    assert larger.config.teacher.image_size == 640
    assert weight_of(larger) == 0
    assert "the teacher sees pictures 2 times as large" in larger.warnings[0]
    assert weight_of(resolved(root, **spec, teacher={**teacher, "image_size": 320})) == RESPONSE_WEIGHT
    for size in (480, 160, 960):
        with pytest.raises(ValidationError, match="take 640 or 1280") as refused:
            resolved(root, **spec, teacher={**teacher, "image_size": size})
        assert refused.value.errors()[0]["loc"][-2:] == ("teacher", "image_size")


def test_what_a_student_cannot_inherit_is_refused_before_it_trains(root: Path) -> None:
    fits = resolved(root, **distill("teacher.safetensors", student={"inherit": ["fpn", "head"]}))
    assert fits.config.student.inherit == ("fpn", "head")
    student = {"inherit": ["fpn", "head"], "architecture": "retinanet", "fpn": {"channels": 128}}
    spec = job_spec.validate_python({"data": "cells", **distill("teacher.safetensors", student=student)})
    with pytest.raises(SpecError) as refused:
        resolve(spec, roots=[root], find_job=no_jobs)
    assert [(problem.loc, problem.message) for problem in refused.value.problems] == [
        (
            ("student", "inherit"),
            "nothing of the teacher's fpn fits the student: its fpn.channels is 128, the teacher's is 256",
        ),
        (
            ("student", "inherit"),
            "nothing of the teacher's head fits the student: its architecture is retinanet, the teacher's is fcos",
        ),
    ]


def test_a_student_starts_only_from_weights_of_its_own_form(root: Path) -> None:
    model = {"weights": "teacher.safetensors", "backbone": "resnet18", "fpn": {"channels": 128}}
    found = problems(root, model=model)
    assert set(found) == {"model.backbone", "model.fpn"}
    assert "resnet50" in found["model.backbone"].message


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, struct.pack("<Q", 2) + b"{}"])
def test_a_file_that_is_no_model_of_gkd_is_refused(root: Path, content: bytes) -> None:
    (root / "odd.safetensors").write_bytes(content)
    assert "is not a model of GKD" in problems(root, **distill("odd.safetensors"))["teacher.weights"].message


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("cells", "is no file"),
        ("../teacher", "leaves the data roots"),
        ("job:nothing", "there is no job 'nothing'"),
    ],
)
def test_weights_that_are_not_there_are_refused(root: Path, weights: str, message: str) -> None:
    assert message in problems(root, **distill(weights))["teacher.weights"].message


# ---- the other kinds -------------------------------------------------------------------------------------


def of_kind(kind: str, weights: str = "teacher.safetensors", **fields: Any) -> dict[str, Any]:
    parts = ("teacher", "student") if kind == "prototypes" else ("model",)
    return {"kind": kind} | {part: {"weights": weights} for part in parts} | fields


OTHERS = ("evaluate", "prototypes", "export")


@pytest.mark.parametrize("kind", OTHERS)
def test_the_other_kinds_come_to_a_config_too(root: Path, kind: str) -> None:
    answer = resolved(root, **of_kind(kind))
    assert answer.config.kind == kind
    assert answer.config.device == "cpu"
    models = [
        getattr(answer.config, part)
        for part in ("model", "teacher", "student")
        if hasattr(answer.config, part)
    ]
    assert {model.weights for model in models} == {str(root / "teacher.safetensors")}
    assert Resolved.model_validate_json(answer.model_dump_json(by_alias=True)) == answer


@pytest.mark.parametrize(("kind", "most"), [("evaluate", 1), ("prototypes", 1), ("export", 0)])
def test_only_training_uses_several_gpus(root: Path, kind: str, most: int) -> None:
    found = problems(root, **of_kind(kind, resources={"gpus": most + 1}))
    assert found["resources.gpus"].hint == f"Set it to {most}."
    assert resolved(root, **of_kind(kind, resources={"gpus": most}))


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_that_is_not_there_is_named_by_its_field(root: Path, kind: str) -> None:
    found = problems(root, **of_kind(kind, "absent.safetensors"))
    assert set(found) == (
        {"teacher.weights", "student.weights"} if kind == "prototypes" else {"model.weights"}
    )


def test_a_model_may_lack_a_class_of_the_data_and_it_is_said(root: Path) -> None:
    write_model(root / "cats.safetensors", DetectorConfig(), ("cat",))
    answer = resolved(root, **of_kind("evaluate", "cats.safetensors"))
    assert answer.warnings == ("the model does not know dog, whose AP counts as 0",)


def test_a_model_that_knows_no_class_of_the_data_is_not_scored(root: Path) -> None:
    write_model(root / "birds.safetensors", DetectorConfig(), ("crow",))
    found = problems(root, **of_kind("evaluate", "birds.safetensors"))
    assert "knows none of the classes cat, dog; it knows crow" in found["model.weights"].message
    assert resolved(root, **of_kind("export", "birds.safetensors"))  # needs the pictures, not the classes


def test_a_model_is_scored_on_the_split_that_is_asked_for(root: Path) -> None:
    (root / "cells" / "test.json").write_bytes((root / "cells" / "val.json").read_bytes())
    answer = resolved(root, **of_kind("evaluate", evaluate={"split": "test"}))
    assert isinstance(answer.config, EvaluateRun)
    assert answer.config.evaluate.split == "test"
    assert answer.config.data.test is not None
    plain = resolved(root, **of_kind("evaluate"))
    assert isinstance(plain.config, EvaluateRun)
    assert plain.config.evaluate.split == "val"


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("spelt_out", [True, False])
def test_one_split_alone_is_enough_to_score_on_and_not_to_train(
    root: Path, split: str, spelt_out: bool
) -> None:
    for name in ("train", "val"):
        (root / "cells" / f"{name}.json").rename(root / "cells" / f"{name}-old")
    (root / "cells" / "val-old").rename(root / "cells" / f"{split}.json")
    alone = {split: {"images": "cells/images", "annotations": f"cells/{split}.json"}}
    data = alone if spelt_out else "cells"
    for wanted in ({}, {"split": split}):
        answer = resolved(root, **of_kind("evaluate", data=data, evaluate=wanted))
        assert isinstance(answer.config, EvaluateRun)
        assert answer.config.evaluate.split == split
        assert list(answer.config.data.splits) == [split]
        assert answer.config.data.classes == CLASSES
    found = problems(root, data=data)
    if spelt_out:
        assert set(found) == {f"data.{name}" for name in ("train", "val") if name != split}
        assert all("evaluate" in problem.hint for problem in found.values())


@pytest.mark.parametrize(("batch_size", "told"), [(2, 0), (3, 1)])
def test_steps_that_ask_for_more_pictures_than_there_are_are_said(
    root: Path, batch_size: int, told: int
) -> None:
    for kind in ({}, distill("teacher.safetensors")):
        answer = resolved(root, train={"batch_size": batch_size}, **kind)
        warnings = [text for text in answer.warnings if "train.batch_size" in text]
        assert len(warnings) == told
        assert all("batch_size is 3, and there are only 2 pictures" in text for text in warnings)
        assert all("one step over all 2" in text for text in warnings)


def test_a_split_that_was_asked_for_is_not_exchanged_for_another(root: Path) -> None:
    (root / "cells" / "train.json").unlink()
    (root / "cells" / "val.json").rename(root / "cells" / "test.json")
    assert problems(root, **of_kind("evaluate", evaluate={"split": "val"}))


def test_a_test_split_that_was_only_found_stops_no_training(root: Path) -> None:
    (root / "cells" / "test.json").write_text("{}")
    answer = resolved(root)
    assert answer.config.data.test is None
    assert "the test split is left out" in answer.warnings[0]
    asked = {
        name: {"images": "cells/images", "annotations": f"cells/{name}.json"}
        for name in ("train", "val", "test")
    }
    assert {problem.loc[:2] for problem in problems(root, data=asked).values()} == {("data", "test")}


def test_a_plain_teacher_of_other_anchors_leaves_the_response_loss_out_and_says_so(root: Path) -> None:
    (root / "plain.pth").write_bytes(b"PK")
    said = {
        "architecture": "retinanet",
        "backbone": "resnet50",
        "layout": "torchvision",
        "classes": ["cat", "dog"],
    }
    recipe = {"image_size": 320, "batch_size": 2}
    spec = distill("plain.pth", student={"architecture": "retinanet"}, train=recipe)
    answer = resolved(root, **spec | {"teacher": {"weights": "plain.pth", **said}})
    assert (weight_of(answer), len(answer.warnings)) == (0, 1)
    assert "the finest anchors of teacher and student differ: 32 and 16 pixels" in answer.warnings[0]


def test_a_plain_model_of_free_widths_is_refused(root: Path) -> None:
    (root / "plain.pth").write_bytes(b"PK")
    said = {"architecture": "fcos", "backbone": "resnet18", "layout": "gkd", "classes": ["cat", "dog"]}
    found = problems(root, **of_kind("evaluate", model={"weights": "plain.pth", **said}))
    assert set(found) == {"model.layout"}


def test_a_plain_state_dict_declares_its_classes(root: Path) -> None:
    (root / "plain.pth").write_bytes(b"PK")
    declared = {"architecture": "fcos", "backbone": "resnet50", "layout": "torchvision", "classes": ["dog"]}
    answer = resolved(root, **of_kind("evaluate", model={"weights": "plain.pth", **declared}))
    assert answer.warnings == ("the model does not know cat, whose AP counts as 0",)


class TestWeightsOfAJob:
    """`job:<id>` in weights."""

    @pytest.fixture
    def store(self, sqlite_url: str) -> Iterator[Store]:
        with closing(Store(sqlite_url)) as store:
            yield store

    @pytest.fixture
    def find_job(self, store: Store) -> Any:
        def find(job_id: str) -> Job | None:
            try:
                return store.reading.get(job_id)
            except UnknownJob:
                return None

        return find

    @pytest.fixture
    def teacher(self, store: Store, root: Path) -> Job:
        """Return a queued job that trains a ResNet-50."""
        spec = {"kind": "train", "data": "cells", "model": {"backbone": "resnet50"}}
        answer = resolved(root, **spec)
        return store.submission.submit(job_spec.validate_python(spec), answer)[0]

    def test_a_job_may_wait_for_one_that_is_not_done(self, root: Path, teacher: Job, find_job: Any) -> None:
        answer = resolved(root, find_job, **distill(f"job:{teacher.id}"))
        assert isinstance(answer.config, DistillRun)
        assert answer.waits_for == (teacher.id,)
        assert answer.config.teacher.weights == f"job:{teacher.id}"

    def test_what_it_will_make_must_be_what_the_spec_says(
        self, root: Path, teacher: Job, find_job: Any
    ) -> None:
        weights = f"job:{teacher.id}"
        spec = {"teacher": {"weights": weights, "backbone": "resnet101"}, "student": {"weights": weights}}
        found = problems(root, find_job, kind="distill", **spec)
        assert set(found) == {"teacher.backbone", "student.backbone"}

    def test_its_classes_must_be_those_of_the_data(self, root: Path, teacher: Job, find_job: Any) -> None:
        draw_cells(root / "birds", ("crow", "dog"))
        found = problems(root, find_job, **distill(f"job:{teacher.id}", data="birds"))
        assert "does not know crow; it knows cat, dog" in found["teacher.weights"].message

    def test_a_job_that_failed_teaches_nobody(
        self, root: Path, store: Store, teacher: Job, find_job: Any, make_failure: Any
    ) -> None:
        claim = store.commands.claim(teacher.id, "ada")
        assert claim is not None
        store.commands.fail(claim.ticket, make_failure())
        found = problems(root, find_job, **distill(f"job:{teacher.id}"))
        assert f"job {teacher.id} is failed and made no model" in found["teacher.weights"].message

    @pytest.mark.parametrize("kind", OTHERS)
    def test_every_kind_may_wait_for_a_model(
        self, root: Path, teacher: Job, find_job: Any, kind: str
    ) -> None:
        answer = resolved(root, find_job, **of_kind(kind, f"job:{teacher.id}"))
        assert answer.waits_for == (teacher.id,)

    @pytest.mark.parametrize("kind", OTHERS)
    def test_a_job_that_makes_no_model_teaches_nobody(
        self, root: Path, store: Store, find_job: Any, kind: str
    ) -> None:
        spec = {"data": "cells", **of_kind(kind)}
        job, _ = store.submission.submit(job_spec.validate_python(spec), resolved(root, **spec))
        found = problems(root, find_job, **distill(f"job:{job.id}"))
        assert f"job {job.id} is of kind {kind}, which makes no model" in found["teacher.weights"].message


def test_a_share_of_the_only_split_reaches_the_engine_as_it_was_checked(root: Path) -> None:
    (root / "cells" / "val.json").unlink()
    assert "data.val_share" in problems(root)["data.path"].hint
    found = resolved(root, data={"path": "cells", "val_share": 0.5, "val_seed": 4})
    assert found.report is not None
    assert (found.report.train.images, found.report.val.images) == (1, 1)
    assert any("set aside by `val_share` 0.5 (seed 4)" in warning for warning in found.warnings)
    config = run_config.validate_json(found.config.model_dump_json())
    assert config.data.train == config.data.val
    read = load(config.data)
    assert read.train.images[0].path != read.val.images[0].path
    again = load(found.report.resolved)
    assert read.val.images[0].path == again.val.images[0].path


def test_pictures_that_are_not_divided_are_all_scored_on(root: Path) -> None:
    (root / "cells" / "val.json").unlink()
    (root / "cells" / "train.json").rename(root / "cells" / "instances_default.json")
    answer = resolved(root, **of_kind("evaluate"))
    assert isinstance(answer.config, EvaluateRun)
    assert (answer.config.evaluate.split, list(answer.config.data.splits)) == ("train", ["train"])
    assert answer.report is not None
    assert answer.report.splits["train"].images == 2
    refused = problems(root, **of_kind("evaluate", evaluate={"split": "val"}))
    assert "data.val_share" in refused["data.path"].hint


def test_a_share_of_train_is_no_test_split(root: Path) -> None:
    (root / "cells" / "val.json").unlink()
    divided = {"path": "cells", "val_share": 0.5}
    answer = resolved(root, **of_kind("evaluate", data=divided))
    assert isinstance(answer.config, EvaluateRun)
    assert answer.config.evaluate.split == "val"
    found = problems(root, **of_kind("evaluate", data=divided, evaluate={"split": "test"}))
    assert "no test split, only train" in found["data.path"].message
