"""One comparison of entity tags for every route that has them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.entity_tags import read_tags
from gkd_core.events import Checkpoint
from jobs.job import Artifact
from jobs.resources import NewResource, ResourceKind

TAG = 'W/"4f1c"'


@pytest.mark.parametrize(
    "values",
    [
        ['W/"4f1c"'],
        ['"4f1c"'],
        ["*"],
        [" * "],
        ['"older", W/"4f1c"'],
        ['"older",W/"4f1c"'],
        ['"one, two" , "4f1c"'],
        [', ,"4f1c",,'],
        ['"older"', '"4f1c"'],
        ['"\xe4", "4f1c"'],
        ['"", "4f1c"'],
    ],
)
def test_a_tag_that_is_named_is_known(values: list[str]):
    assert read_tags(values).hold(TAG)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ['"4f1"'],
        ['"4f1c0"'],
        ['"x4f1c"'],
        ['"*"'],
        ['"older, W/", "4f1"'],
        ['"before,4f1c"'],
        ["4f1c"],
        ["W/4f1c"],
        ['w/"4f1c"'],
        ['"4f1c'],
        ['"older" "4f1c"'],
        ['*, "older"'],
        ["," * 60_000 + "x"],
        ['"' * 60_001],
    ],
)
def test_a_tag_that_is_not_named_is_not_known(values: list[str]):
    assert not read_tags(values).hold(TAG)


@pytest.fixture(params=["job", "dataset", "model", "artifact"])
def url(request, service, train_spec, tmp_path: Path) -> str:
    """Return the URL of something that has an entity tag."""
    if request.param in ("dataset", "model"):
        new = NewResource(ResourceKind(request.param), "discs", path="/data/discs")
        made, _ = service.store.resources.add_resource(new, tenant="default")
        return f"/{request.param}s/{made.id}"
    job = f"/jobs/{service.submit(train_spec)['id']}"
    return f"{job}/artifacts/{published(service, job, tmp_path)}" if request.param == "artifact" else job


def published(service, job: str, folder: Path) -> str:
    file = folder / "m.safetensors"
    file.write_bytes(b"weights")
    blob = service.artifacts.put(file, None)
    known = {"size": blob.size, "sha256": blob.sha256}
    event = Checkpoint(run="model", epoch=1, step=1, file=file.name, best=True, **known)
    artifact = Artifact(name=file.name, created_at=datetime.now(UTC), **known)
    service.store.commands.record(service.claim(job.removeprefix("/jobs/")), event, 10, artifact)
    return file.name


def test_every_route_compares_alike(service, url: str):
    tag = service.http.get(url).headers["ETag"]
    opaque = tag.removeprefix("W/")
    for sent, status in (
        (tag, 304),
        (opaque, 304),
        (f"W/{opaque}", 304),
        ("*", 304),
        (f'"a, b", {opaque}', 304),
        (opaque[:-2] + '"', 200),
        (f'"before {opaque[1:]}', 200),
        (f'"x,{opaque[1:-1]},y"', 200),
        (opaque[1:-1], 200),
    ):
        answer = service.http.get(url, headers={"If-None-Match": sent})
        assert answer.status_code == status, sent
    two = [("If-None-Match", '"older"'), ("If-None-Match", opaque)]
    assert service.http.get(url, headers=two).status_code == 304


@pytest.mark.parametrize("shape", ["{opaque}", "*", "not a tag"])
def test_a_long_poll_waits_however_the_tag_is_written(service, train_spec, shape: str):
    url = f"/jobs/{service.submit(train_spec)['id']}"
    opaque = service.http.get(url).headers["ETag"].removeprefix("W/")
    started = time.monotonic()
    sent = {"If-None-Match": shape.format(opaque=opaque)}
    answer = service.http.get(url, params={"wait": 0.5}, headers=sent)
    assert answer.status_code == (200 if shape == "not a tag" else 304)
    assert time.monotonic() - started >= 0.5
