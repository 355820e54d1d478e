"""Pages of data sets, models and workers."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.presence import Gpu, Presence
from jobs.resources import NewResource, ResourceKind, ResourceState, Verdict

SPLIT = {
    "images": 292,
    "boxes": 4888,
    "images_without_boxes": 1,
    "small": 0,
    "medium": 5,
    "large": 4883,
    "crowd": 2,
}
REPORT = {
    "format": "coco",
    "classes": ["RBC", "<i>"],
    "train": SPLIT | {"boxes_per_class": {"RBC": 4888, "<i>": 0}},
    "val": None,
    "warnings": [{"loc": [], "message": "2 boxes have no area", "hint": "They are left out."}],
}


@pytest.fixture
def dataset(service) -> str:
    """Return the id of a data set that was checked."""
    new = NewResource(ResourceKind.DATASET, "<b>cells</b>", "/data/cells")
    made, _ = service.store.resources.add_resource(new, tenant="default")
    told = Verdict(state=ResourceState.READY, reason="292 pictures", report=REPORT, size=31_000_000)
    service.store.resources.conclude_check(service.store.resources.next_check(), told)
    return str(made.id)


def test_without_any_they_say_how_to_add_one(browser):
    for path, command in (
        ("datasets", "gkd datasets add"),
        ("models", "gkd models add"),
        ("workers", "gkd worker"),
    ):
        assert f"<code>{command}</code>" in browser.get(f"/ui/{path}").text


def test_a_data_set_is_listed_and_shows_what_was_found(browser, dataset):
    listed, page = browser.get("/ui/datasets").text, browser.get(f"/ui/datasets/{dataset}").text
    for text in (listed, page):
        assert "&lt;b&gt;cells&lt;/b&gt;" in text
        assert "292 pictures" in text
        assert "31.0 MB" in text
    assert f'href="/ui/datasets/{dataset}"' in listed
    assert "2 boxes have no area" in page
    assert '<th scope="row">RBC</th><td class="num">4,888</td>' in page
    assert '<th scope="row">&lt;i&gt;</th><td class="num bad">0</td>' in page
    assert dataset not in browser.get("/ui/models").text


def test_one_that_is_being_checked_or_was_refused_says_so(browser, service):
    def register(name: str) -> str:
        new = NewResource(ResourceKind.MODEL, name, f"/data/{name}")
        return str(service.store.resources.add_resource(new, tenant="default")[0].id)

    refused = register("refused")
    told = Verdict(state=ResourceState.REFUSED, reason="no such file")
    service.store.resources.conclude_check(service.store.resources.next_check(), told)
    checking = register("checking")
    text = browser.get(f"/ui/models/{refused}").text
    assert ('<b class="bad">refused</b>' in text, "no such file" in text, "data-every" in text) == (
        True,
        True,
        False,
    )
    text = browser.get(f"/ui/models/{checking}").text
    assert ('<b class="dim">checking</b>' in text, 'data-every="3"' in text) == (True, True), "it asks again"


def test_another_tenants_resources_are_unknown(browser, make_key, dataset):
    browser.log_in(make_key(tenant="ours"))
    assert "cells" not in browser.get("/ui/datasets").text
    assert browser.get(f"/ui/datasets/{dataset}").status_code == 404


def test_workers_show_their_gpus_and_no_job_of_another_tenant(browser, service, make_key, running):
    gpu: dict[str, Any] = {"memory_total": 80_000_000_000, "memory_used": 31_000_000_000, "utilisation": 91}
    gpus = (Gpu(index=0, uuid="GPU-1", name="H100", **gpu), Gpu(index=1, uuid="GPU-2", name="H100"))
    service.store.workers.appear(
        Presence(name="a-worker", host="node7", version="1", queues=("gpu", "cpu"), gpus=gpus)
    )
    text = browser.get("/ui/workers").text
    for told in (
        "a-worker",
        "busy",
        "gpu, cpu",
        "91 % busy",
        "31.0 GB of 80.0 GB",
        f'href="/ui/jobs/{running}"',
    ):
        assert told in text
    browser.log_in(make_key(tenant="ours"))
    assert running not in browser.get("/ui/workers").text
