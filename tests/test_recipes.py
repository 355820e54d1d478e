"""Every recipe is a spec that the service accepts, with data in the layout that recipes/README.md names."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gkd_core.config import DetectorConfig
from gkd_core.detectors.model_card import ModelCard
from jobs.specs.resolve import resolve
from jobs.specs.spec import job_spec

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.json"))
CLASSES = ("cat", "dog")
BOX = {"xmin": 5, "ymin": 5, "xmax": 60, "ymax": 60}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data root with one picture a split in each layout, and the teachers."""
    root = tmp_path_factory.mktemp("root")
    draw_coco(root / "coco", "{split}2017")
    draw_coco(root / "pictures", "{split}")
    draw_voc(root / "VOC0712")
    (root / "teachers").mkdir()
    for recipe in RECIPES:
        spec = json.loads(recipe.read_bytes())
        if spec["kind"] == "distill":
            write_card(root / spec["teacher"]["weights"], spec["student"]["architecture"])
    return root


def draw_coco(folder: Path, name: str) -> None:
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": number, "name": each} for number, each in enumerate(CLASSES, 1)]
    for number, split in enumerate(("train", "val"), 1):
        pictures = folder / name.format(split=split)
        pictures.mkdir()
        Image.new("RGB", (96, 64), (number, 0, 0)).save(pictures / f"{number}.jpg")
        image = {"id": number, "file_name": f"{number}.jpg", "width": 96, "height": 64}
        boxes = [
            {
                "id": c["id"],
                "image_id": number,
                "category_id": c["id"],
                "bbox": [5, 5, 50, 50],
                "area": 2500,
                "iscrowd": 0,
            }
            for c in categories
        ]
        content = {"images": [image], "annotations": boxes, "categories": categories}
        file = folder / "annotations" / f"instances_{name.format(split=split)}.json"
        file.write_text(json.dumps(content))


def draw_voc(folder: Path) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for number, split in enumerate(("train", "val"), 1):
        Image.new("RGB", (96, 64), (number, 0, 0)).save(folder / "JPEGImages" / f"{number}.jpg")
        objects = "".join(
            f"<object><name>{name}</name><bndbox>{sides()}</bndbox></object>" for name in CLASSES
        )
        size = "<size><width>96</width><height>64</height><depth>3</depth></size>"
        (folder / "Annotations" / f"{number}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{number}\n")


def sides() -> str:
    return "".join(f"<{name}>{value}</{name}>" for name, value in BOX.items())


def write_card(path: Path, architecture: str) -> None:
    """Write a model file without weights: only its card is read."""
    config = DetectorConfig.model_validate({"architecture": architecture})
    card = ModelCard.of(config, CLASSES, image_size=64)
    header = json.dumps({"__metadata__": {"gkd": card.model_dump_json()}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.stem))
def test_the_service_accepts_it(recipe: Path, root: Path) -> None:
    found = resolve(job_spec.validate_json(recipe.read_bytes()), roots=[root], find_job=lambda _: None)
    assert found.config.kind == json.loads(recipe.read_bytes())["kind"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.stem))
def test_the_readme_says_what_it_needs_and_whether_it_was_measured(recipe: Path) -> None:
    pair = recipe.stem.removesuffix("-teacher")
    (row,) = re.findall(rf"^\| `{pair}` \|.*$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    spec: dict[str, Any] = json.loads(recipe.read_bytes())
    assert f"{spec['data']}/" in row or "the same" in row
    assert row.rstrip(" |").endswith(("no", "yes"))


def test_every_distillation_has_the_recipe_of_its_teacher() -> None:
    names = {path.stem for path in RECIPES}
    pairs = {name for name in names if not name.endswith("-teacher")}
    assert {f"{name}-teacher" for name in pairs} == names - pairs
    for name in pairs:
        teacher, student = (
            json.loads((FOLDER / f"{each}.json").read_bytes()) for each in (f"{name}-teacher", name)
        )
        assert student["teacher"]["weights"] == f"teachers/{teacher['name']}.safetensors"
        assert student["data"] == teacher["data"]
