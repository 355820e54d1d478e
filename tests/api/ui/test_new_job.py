"""Submitting by form: the same checks as for programs, with the errors beside what was typed."""

from __future__ import annotations

import json
import re
from typing import Any

from api.ui.new_job import RECIPES
from jobs.specs.spec import job_spec


def test_each_kind_has_a_recipe_that_is_a_spec(browser):
    for kind, (text, spec) in RECIPES.items():
        assert job_spec.validate_python(spec).kind == kind
        assert text
    assert "&#34;kind&#34;: &#34;distill&#34;" in browser.get("/ui/new?kind=distill").text
    assert browser.get("/ui/new?kind=nothing").status_code == 422


def test_a_spec_becomes_a_job_once_however_often_it_is_sent(browser, service, train_spec):
    once = re.search(r'name="once" value="(\w+)"', browser.get("/ui/new").text)
    assert once
    fields = {"spec": json.dumps(train_spec), "once": once[1], "do": "submit"}
    led = {browser.post("/ui/new", "/ui/new", **fields).headers["Location"] for _ in range(2)}
    [job] = service.jobs()
    assert led == {f"/ui/jobs/{job.id}"}


def test_a_spec_can_be_checked_without_queueing_it(browser, service, train_spec):
    text = browser.post("/ui/new", "/ui/new", spec=json.dumps(train_spec), do="check").text
    assert "It can be carried out" in text
    assert "train: 3 pictures, 6 boxes" in text
    assert "&#34;epochs&#34;: 2" in text, "what was typed is still there"
    assert service.jobs() == ()


def test_mistakes_are_named_at_their_field_and_what_was_typed_stays(browser, service, train_spec):
    wrong: dict[str, Any] = train_spec | {"train": {"epochz": 3}, "name": "<b>"}
    for spec, told in (
        (json.dumps(wrong), "<code>train.epochz</code>"),
        (json.dumps(train_spec | {"data": "nowhere"}), "<code>data"),
        ('{"kind": "train", ', "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('"\\ud800"', "to mend"),
        ("", "is not JSON"),
        ("[]", "to mend"),
    ):
        answer = browser.post("/ui/new", "/ui/new", spec=spec, do="submit")
        assert (answer.status_code, told in answer.text) == (422, True), (spec[:40], answer.text[-3000:])
    answer = browser.post("/ui/new", "/ui/new", spec=json.dumps(wrong), do="submit")
    assert "&lt;b&gt;" in answer.text
    assert service.jobs() == ()


def test_a_clone_begins_with_the_spec_of_its_job(browser, make_key, running):
    text = browser.get(f"/ui/jobs/{running}/clone").text
    assert "&#34;image_size&#34;: 64" in text
    assert f'href="/ui/jobs/{running}/clone"' in browser.get(f"/ui/jobs/{running}").text
    browser.log_in(make_key(tenant="ours"))
    assert browser.get(f"/ui/jobs/{running}/clone").status_code == 404


def test_who_may_only_read_is_told_so_before_typing(browser, service, make_key, train_spec):
    browser.log_in(make_key("read", tenant="default"))
    text = browser.get("/ui/new").text
    assert ("needs the scope <code>write</code>" in text, ">Submit<" in text) == (True, False)
    answer = browser.post("/ui/new", "/ui/new", spec=json.dumps(train_spec), do="submit")
    assert (answer.status_code, service.jobs()) == (403, ())
