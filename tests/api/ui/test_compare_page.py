"""Jobs side by side."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from gkd_core.events import Evaluation
from jobs.store.tables import jobs


@pytest.fixture
def pair(service, train_spec: dict[str, Any]) -> tuple[str, str]:
    """Return two jobs with a gain each, which differ in their epochs."""
    ids = []
    for ap, low, epochs in ((0.5, 0.01, 2), (0.4, -0.01, 3)):
        spec = train_spec | {"name": f"<b>{epochs}", "train": {"epochs": epochs, "image_size": 64}}
        job_id = str(service.submit(spec)["id"])
        told = Evaluation(run="model", epoch=1, metrics={"AP": ap}, per_class={}, seconds=1)
        service.store.commands.record(service.claim(job_id), told, 1)
        gain = {"ap": 0.02, "ap_low": low, "ap_high": 0.03}
        models = {"model": {"metrics": {"AP": ap, "AP50": -1}, "parameters": 3e6, "gflops": 41.25}}
        with service.store.database.write() as connection:
            report = {"models": models, "gain": gain}
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(report=report))
        ids.append(job_id)
    return ids[0], ids[1]


def test_jobs_are_compared_in_words_numbers_curves_and_fields(browser, pair):
    text = browser.get(f"/ui/compare?job={pair[0]}&job={pair[1]}").text
    assert "+2.0 AP over its control; the interval leaves out zero." in text
    assert "+2.0 AP over its control; the interval holds zero." in text
    assert 'aria-label="AP over epochs: A 50.0, B 40.0"' in text
    assert "<b>★ 50.0</b>" in text
    assert "★ 40.0" not in text
    assert "★ +2.0" not in text, "two are equal"
    assert "<code>train.epochs</code></th><td><code>2</code></td><td><code>3</code></td>" in text
    assert "train.image_size" not in text, "that is the same"
    assert "&lt;b&gt;2" in text
    assert "cannot be compared" not in text


def test_different_image_sizes_are_said_first(browser, service, train_spec, pair):
    other = service.submit(train_spec | {"train": {"image_size": 96}})["id"]
    text = browser.get(f"/ui/compare?job={pair[0]}&job={other}").text
    assert "AP cannot be compared between them: their pictures had different sizes: 64, 96 pixels." in text
    assert "has no gain over a control to compare." in text


def test_only_two_to_four_jobs_are_compared(browser, pair):
    for query in (
        "",
        f"job={pair[0]}",
        f"job={pair[0]}&job={pair[0]}",
        "&".join(f"job={n}" for n in range(5)),
    ):
        answer = browser.get(f"/ui/compare?{query}")
        assert (answer.status_code, "Mark 2 to 4 jobs in the list" in answer.text) == (422, True), query


def test_jobs_are_marked_in_the_list(browser, pair):
    text = browser.get("/ui/jobs").text
    for job_id in pair:
        assert f'<input type="checkbox" name="job" value="{job_id}" form="compare"' in text
    assert '<form id="compare" class="tray" action="/ui/compare">' in text


def test_another_tenants_jobs_cannot_be_compared(browser, make_key, pair):
    browser.log_in(make_key(tenant="ours"))
    assert browser.get(f"/ui/compare?job={pair[0]}&job={pair[1]}").status_code == 404
