"""From JSON to something that can run, or to every reason why it cannot."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from gkd_core.config import DetectorConfig, DistillRun, TrainRun
from gkd_core.errors import Problem, SpecError
from gkd_core.model_card import ModelCard
from jobs.job import Job
from jobs.spec import Kind, Resolved, job_spec, resolve
from jobs.store import Store, UnknownJob

CLASSES = ("cat", "dog")


def draw_cells(folder: Path, classes: tuple[str, ...] = CLASSES) -> None:
    """A COCO data set of four pictures."""
    (folder / "images").mkdir(parents=True)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    for split, numbers in {"train": (1, 2), "val": (3, 4)}.items():
        images, boxes = [], []
        for number in numbers:
            file_name = f"{number}.png"
            Image.new("RGB", (40, 30), (number, 0, 0)).save(folder / "images" / file_name)
            images.append({"id": number, "file_name": file_name, "width": 40, "height": 30})
            box = {"image_id": number, "bbox": [5, 5, 20, 10], "area": 200, "iscrowd": 0}
            boxes += [box | {"id": 10 * number + c["id"], "category_id": c["id"]} for c in categories]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))


def write_model(path: Path, config: DetectorConfig, classes: tuple[str, ...] = CLASSES) -> None:
    """A model file without weights: what is looked at is its card."""
    card = ModelCard.of(config, classes, image_size=64)
    header = json.dumps({"__metadata__": {"gkd": card.model_dump_json()}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a data set `cells` and a model `teacher.safetensors` of its classes."""
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
    """What is wrong, by field."""
    with pytest.raises(SpecError) as error:
        resolved(root, find_job, **fields)
    return {".".join(map(str, problem.loc)): problem for problem in error.value.problems}


def distill(weights: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "distill", "teacher": {"weights": weights}} | fields


# ---- well formed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"nmae": "cells"}, ("train", "nmae")),
        ({"train": {"epoch": 3}}, ("train", "train", "epoch")),
        ({"device": "cuda"}, ("train", "device")),
        ({"resources": {"gpus": 2}}, ("train", "resources", "gpus")),
        ({"priority": 10}, ("train", "priority")),
        ({"name": "line\nbreak"}, ("train", "name")),
        ({"tags": {"a b": "c"}}, ("train", "tags", "a b", "[key]")),
        ({"tags": {"a": "\0"}}, ("train", "tags", "a")),
        ({"train": {"optimizer": {"lr": float("nan")}}}, ("train", "train", "optimizer", "lr")),
        ({"train": {"optimizer": {"lr": float("inf")}}}, ("train", "train", "optimizer", "lr")),
        ({"train": {"epochs": 10**30}}, ("train", "train", "epochs")),
        ({"train": {"batch_size": 10**9}}, ("train", "train", "batch_size")),
        ({"train": {"seed": 2**63}}, ("train", "train", "seed")),
        ({"train": {"augment": {"scale": [1.4, 0.6]}}}, ("train", "train", "augment")),
        ({"train": {"augment": {"scale": [0, 1]}}}, ("train", "train", "augment", "scale", 0)),
    ],
)
def test_what_is_misspelt_or_out_of_range_names_its_field(
    fields: dict[str, Any], loc: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as error:
        job_spec.validate_python({"kind": "train", "data": "cells"} | fields)
    assert [problem["loc"] for problem in error.value.errors()] == [loc]


@pytest.mark.parametrize("workers", [-1, 257, "all"])
def test_threads_are_a_small_number_or_auto(workers: object) -> None:
    with pytest.raises(ValidationError, match="workers"):
        job_spec.validate_python({"kind": "train", "data": "cells", "train": {"workers": workers}})


def test_nan_in_json_is_refused() -> None:
    text = '{"kind": "train", "data": "cells", "train": {"optimizer": {"lr": NaN}}}'
    with pytest.raises(ValidationError, match="finite"):
        job_spec.validate_json(text)


@pytest.mark.parametrize("kind", [None, "evaluate", "Train"])
def test_a_kind_that_does_not_exist_is_refused(kind: str | None) -> None:
    with pytest.raises(ValidationError, match="kind"):
        job_spec.validate_python({"data": "cells"} | ({"kind": kind} if kind else {}))


def test_kinds_are_those_of_the_specs() -> None:
    assert set(get_args(Kind)) == set(job_spec.json_schema()["discriminator"]["mapping"])


def test_every_field_of_the_schema_says_what_it_is() -> None:
    undescribed = [
        f"{name}.{field}"
        for name, definition in job_spec.json_schema()["$defs"].items()
        for field, value in definition["properties"].items()
        if not value.get("description")
    ]
    assert undescribed == []


def test_the_examples_of_the_schema_are_specs() -> None:
    definitions = job_spec.json_schema()["$defs"]
    examples = [example for name in ("TrainSpec", "DistillSpec") for example in definitions[name]["examples"]]
    assert [job_spec.validate_python(example).kind for example in examples] == ["train", "distill"]


# ---- resolved --------------------------------------------------------------------------------------------


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


def test_scores_of_two_architectures_are_not_compared(root: Path) -> None:
    student = {"architecture": "faster_rcnn"}
    found = problems(root, **distill("teacher.safetensors", student=student))
    assert set(found) == {"distill.response.weight"}
    assert "faster_rcnn student and a fcos teacher" in found["distill.response.weight"].message
    without = {"response": {"weight": 0}}
    resolved(root, **distill("teacher.safetensors", student=student, distill=without))


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
                return store.get(job_id)
            except UnknownJob:
                return None

        return find

    @pytest.fixture
    def teacher(self, store: Store, root: Path) -> Job:
        """A queued job that trains a ResNet-50."""
        spec = {"kind": "train", "data": "cells", "model": {"backbone": "resnet50"}}
        answer = resolved(root, **spec)
        return store.submit(job_spec.validate_python(spec), answer)[0]

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
        claim = store.claim(teacher.id, "ada")
        assert claim is not None
        store.fail(claim.ticket, make_failure())
        found = problems(root, find_job, **distill(f"job:{teacher.id}"))
        assert f"job {teacher.id} is failed and made no model" in found["teacher.weights"].message
