"""No name leaves its folder: of an artifact, in a spec, in a data set, or of a file that an engine names.

Archives are tested in tests/jobs/uploads/test_archives.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from gkd_core.events import Checkpoint, FileWritten

SECRET = "the-secret-itself"

WAYS_OUT = [
    "../secret.txt",
    "discs/../../secret.txt",
    "..\\secret.txt",
    "%2e%2e/secret.txt",
    "%2e%2e%2fsecret.txt",
    "%252e%252e%252fsecret.txt",
    "..%c0%afsecret.txt",
    "....//secret.txt",
    "/etc/passwd",
    "//etc/passwd",
    "{tmp}/secret.txt",
    "file://{tmp}/secret.txt",
    "\\\\host\\share",
    "C:\\secret.txt",
    "~/secret.txt",
    "discs\0/../../secret.txt",
    "../secret.txt\0.png",
    "link",
    "folder/secret.txt",
    "/proc/self/environ",
    "/dev/stdin",
    ".",
    "",
]


@pytest.fixture
def links(root: Path, secret_file: Path) -> None:
    """Make links in the data root that lead to the secret and to its folder."""
    (root / "link").symlink_to(secret_file)
    (root / "folder").symlink_to(secret_file.parent)


SPELT_OUT = {
    split: {"images": "discs/images", "annotations": f"discs/annotations/instances_{split}.json"}
    for split in ("train", "val")
}


def spelt(way: str, tmp_path: Path) -> str:
    return way.format(tmp=tmp_path)


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.usefixtures("links")
def test_no_path_in_a_spec_leads_out_of_the_data_roots(service, send, tmp_path: Path, way: str):
    place = spelt(way, tmp_path)
    both = {"images": place, "annotations": place, "names": place}
    specs = [
        {"kind": "train", "data": place},
        {"kind": "train", "data": {"train": both, "val": both}},
        {"kind": "train", "data": {"train": both, "val": both, "format": "yolo"}},
        {"kind": "train", "data": SPELT_OUT | {"test": both}},
        {"kind": "train", "data": "discs", "model": {"weights": place}},
        {"kind": "distill", "data": "discs", "teacher": {"weights": place}},
    ]
    for spec in specs:
        answer = send("/jobs", spec)
        assert answer.status_code == 422, spec
        assert SECRET not in answer.text
        assert "root:" not in answer.text
    assert service.jobs() == ()


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_name_of_an_artifact_leads_to_another_file(
    service, train_spec, publish, secret_file: Path, tmp_path: Path, way: str
):
    job_id = service.submit(train_spec)["id"]
    url = publish(service, service.claim(job_id), "chart.svg", b"<svg/>")
    place = spelt(way, tmp_path).replace("\0", "%00")
    answer = service.http.get(f"{url}/{place}")
    assert answer.status_code in (404, 200)
    if answer.status_code == 200:  # httpx and every browser resolve dots in a path
        assert place in ("", ".", "/"), place
    assert SECRET not in answer.text


@pytest.mark.parametrize("way", ["../secret.txt", "%2e%2e%2fsecret.txt", "/etc/passwd", "..\\secret.txt"])
def test_a_published_name_is_looked_up_and_never_opened(service, train_spec, publish, way: str):
    """Put such a name into the database: it still names the bytes that were published under it."""
    job_id = service.submit(train_spec)["id"]
    url = publish(service, service.claim(job_id), way, b"published")
    names = [each["name"] for each in service.http.get(url).json()]
    assert names == [way]
    answer = service.http.get(f"{url}/{way.replace('%', '%25').replace('/', '%2f')}")
    assert answer.content == b"published" or answer.status_code == 404


@pytest.mark.parametrize(
    "name", ["../state.db", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "a\0b", "a\nb", "\x1b[2J", "x" * 256]
)
def test_a_worker_takes_no_file_from_outside_the_run_directory(name: str):
    """Write the events of a hostile engine: one with such a name is invalid."""
    known = {"run": "model", "size": 1, "sha256": "0" * 64}
    with pytest.raises(ValidationError):
        FileWritten(file=name, title="x", **known)
    with pytest.raises(ValidationError):
        Checkpoint(file=name, epoch=0, step=0, best=True, **known)


# ---- data sets that name files ----


@pytest.mark.parametrize(
    "name",
    [
        "../../../secret.txt",
        "/etc/passwd",
        "{tmp}/secret.txt",
        "x\0.png",
        "..",
        ".",
        "a/../../../../secret.txt",
        "link",
    ],
)
def test_no_file_name_in_coco_leads_out(
    service, send, train_spec, root: Path, tmp_path: Path, secret_file, name: str
):
    (root / "discs" / "images" / "link").symlink_to(secret_file)
    file = root / "discs" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = spelt(name, tmp_path)
    file.write_text(json.dumps(content))
    answer = send("/jobs", train_spec)
    assert answer.status_code == 422
    assert SECRET not in answer.text


YAML_PATHS = [
    "path: ../..",
    "path: /etc",
    "train: ../../secret",
    "train: /etc",
    "train: link",
    "train: list.txt",
    "test: ../../secret",
    "test: link",
]


@pytest.mark.parametrize("line", YAML_PATHS)
def test_no_data_yaml_leads_out(service, send, train_spec, root: Path, secret_file: Path, line: str):
    folder = root / "yolo"
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        picture = (root / "discs" / "images" / "train1.png").read_bytes()
        (folder / "images" / split / f"{split}.png").write_bytes(picture)
        (folder / "labels" / split / f"{split}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root.parent / "secret").mkdir()
    (root.parent / "secret" / "1.png").write_bytes(picture)
    (folder / "link").symlink_to(secret_file.parent)
    (folder / "list.txt").write_text(f"{secret_file}\n../../secret.txt\n")
    known = {"train": "images/train", "val": "images/val", "names": "[disc]"}
    key, _, value = line.partition(": ")
    lines = [f"{name}: {where}" for name, where in (known | {key: value}).items()]
    (folder / "data.yaml").write_text("\n".join(lines))
    answer = send("/jobs", train_spec | {"data": "yolo"})
    assert answer.status_code == 422, answer.text
    assert SECRET not in answer.text


@pytest.mark.parametrize("kind", ["picture", "label", "folder", "loop", "through a folder inside"])
def test_no_link_in_a_data_set_leads_out(service, send, train_spec, root: Path, secret_file: Path, kind: str):
    pictures = root / "discs" / "images"
    match kind:
        case "picture":
            outside = secret_file.with_suffix(".png")
            os.replace(pictures / "train1.png", outside)
            (pictures / "train1.png").symlink_to(outside)
        case "label":
            (root / "discs" / "annotations" / "instances_train.json").unlink()
            (root / "discs" / "annotations" / "instances_train.json").symlink_to(secret_file)
        case "folder":
            (pictures / "more").symlink_to("/etc")
        case "loop":
            (pictures / "more").symlink_to(pictures / "more")
        case "through a folder inside":
            (root / "inside").mkdir()
            (root / "inside" / "train.png").symlink_to(secret_file)
            (pictures / "more").symlink_to(root / "inside")
    answer = send("/jobs", train_spec)
    assert answer.status_code == 422, answer.text
    assert "link" in answer.json()["detail"]
    assert SECRET not in answer.text
    assert service.jobs() == ()


def test_links_inside_the_roots_are_followed(service, send, train_spec, root: Path):
    """Follow links inside the roots: many collections are a folder of links to another."""
    pictures = root / "discs" / "images"
    (root / "store").mkdir()
    os.replace(pictures / "train1.png", root / "store" / "1.png")
    (pictures / "train1.png").symlink_to(root / "store" / "1.png")
    (pictures / "itself").symlink_to(pictures)
    assert send("/jobs", train_spec).status_code == 201
