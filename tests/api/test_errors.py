"""Errors of requests, and their answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import errors
from jobs.errors import StoreUnavailable

Spec = dict[str, Any]


def refused(service, spec: object) -> dict[str, Any]:
    """Return the problem that a spec is refused with; check that nothing is queued."""
    for route in ("/jobs", "/jobs/validate"):
        answer = service.http.post(route, json=spec)
        assert answer.status_code == 422, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert service.jobs() == ()
    body: dict[str, Any] = answer.json()
    assert body["code"] == "invalid_spec"
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return body


@pytest.mark.parametrize(
    ("change", "loc", "message", "hint"),
    [
        ({"train": {"epoch": 3}}, ["train", "epoch"], "`epoch` is no field of `train`", "`epochs`"),
        ({"trian": {}}, ["trian"], "`trian` is no field of a job spec", "`train`"),
        ({"train": {"epochs": "many"}}, ["train", "epochs"], "valid integer", ""),
        ({"train": {"epochs": 0}}, ["train", "epochs"], "greater than or equal to 1, got 0", ""),
        ({"train": {"workers": "all"}}, ["train", "workers"], "valid integer", ""),
        ({"train": {"optimizer": {"lr": "fast"}}}, ["train", "optimizer", "lr"], "valid number", ""),
        ({"model": {"backbone": "resnet19"}}, ["model", "backbone"], "did you mean `resnet18`?", ""),
        ({"kind": "destill"}, ["kind"], "destill", "`distill`"),
        ({"kind": None}, ["kind"], "None", "distill, evaluate, export"),
        ({"data": {}}, ["data"], "give either `path`", ""),
        ({"data": 5}, ["data"], "", ""),
        ({"data": {"path": "discs", "fromat": "coco"}}, ["data", "fromat"], "no field of `data`", "`format`"),
        ({"tags": {"team": 5}}, ["tags", "team"], "valid string, got 5", ""),
        ({"train": {"batch_size": 8, "accumulate": 3}}, ["train"], "accumulate 3 does not divide", ""),
        ({"priority": 10}, ["priority"], "less than or equal to 9, got 10", ""),
        ({"resources": {"gpus": 9}}, ["resources", "gpus"], "less than or equal to 8", ""),
        ({"device": "cuda"}, ["device"], "`device` is no field", ""),
    ],
)
def test_a_mistake_names_its_field(
    service, train_spec: Spec, change: Spec, loc: list[str], message: str, hint: str
):
    errors = refused(service, {**train_spec, **change})["errors"]
    assert len(errors) == 1, errors
    assert errors[0]["loc"] == loc
    assert message in errors[0]["message"]
    assert hint in errors[0]["hint"]


def test_all_mistakes_are_named_at_once(service):
    spec = {"kind": "distill", "train": {"epoch": 1, "seed": -1}, "student": {"arch": "fcos"}}
    locs = {tuple(error["loc"]) for error in refused(service, spec)["errors"]}
    assert locs == {("data",), ("teacher",), ("train", "epoch"), ("train", "seed"), ("student", "arch")}


def test_a_missing_kind_is_named(service):
    assert refused(service, {"data": "discs"})["errors"][0]["loc"] == ["kind"]


@pytest.mark.parametrize("body", [[], "train", 5, None, True])
def test_a_body_that_is_no_object_is_no_spec(service, body: object):
    answer = service.http.post(
        "/jobs", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert '{"kind": "train"' in answer.json()["errors"][0]["hint"]


def break_nothing(root: Path) -> None:
    pass


def lose_a_picture(root: Path) -> None:
    (root / "discs" / "images" / "train2.png").unlink()


def damage_a_picture(root: Path) -> None:
    (root / "discs" / "images" / "val1.png").write_bytes(b"not a picture")


def damage_annotations(root: Path) -> None:
    (root / "discs" / "annotations" / "instances_train.json").write_text('{"images": [')


def lead_out(root: Path) -> None:
    shutil.move(root / "discs", root.parent / "outside")
    (root / "discs").symlink_to(root.parent / "outside")


@pytest.mark.parametrize(
    ("spoil", "data", "loc", "told"),
    [
        (break_nothing, "nowhere", ["data", "path"], "nowhere"),
        (break_nothing, "../data/discs", ["data", "path"], "leaves the data roots"),
        (break_nothing, "/etc", ["data", "path"], "leaves the data roots"),
        (lead_out, "discs", ["data", "path"], "leaves the data roots"),
        (break_nothing, ".", ["data", "path"], ""),
        (lose_a_picture, "discs", ["data", "train", "images"], "train2.png"),
        (damage_a_picture, "discs", ["data", "val", "images"], "val1.png"),
        (damage_annotations, "discs", ["data", "train", "annotations"], "instances_train.json"),
        (break_nothing, {"path": "discs", "classes": ["disc", "rign"]}, ["data", "classes"], "rign"),
    ],
)
def test_unusable_data_is_found_when_the_spec_is_sent(
    service,
    root: Path,
    train_spec: Spec,
    spoil: Callable[[Path], None],
    data: object,
    loc: list[str],
    told: str,
):
    spoil(root)
    errors = refused(service, {**train_spec, "data": data})["errors"]
    assert errors[0]["loc"] == loc
    assert told in errors[0]["message"]


def test_a_teacher_of_other_classes_is_refused(service, root: Path, train_spec: Spec, draw):
    draw(root / "stars", classes=("star",))
    teacher = service.submit({**train_spec, "data": "stars"})
    answer = service.http.post(
        "/jobs", json={"kind": "distill", "data": "discs", "teacher": {"weights": f"job:{teacher['id']}"}}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["teacher", "weights"]
    assert "star" in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    "weights", ["job:nobody", "job:", "absent.safetensors", "../x", "discs/images/train1.png"]
)
def test_a_teacher_that_is_no_model_is_refused(service, weights: str):
    errors = refused(service, {"kind": "distill", "data": "discs", "teacher": {"weights": weights}})["errors"]
    assert errors[0]["loc"] == ["teacher", "weights"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 422, "invalid_spec"),
        (b"null", 422, "invalid_spec"),
        (b'{"kind": "train", "data": "discs", "train": {"optimizer": {"lr": NaN}}}', 422, "invalid_spec"),
        (b'{"kind": "train", "data": "discs", "train": {"optimizer": {"lr": 1e999}}}', 422, "invalid_spec"),
        (b'{"kind": "train", "data": "discs", "distill": NaN}', 422, "invalid_spec"),
        (
            b'{"kind": "train", "data": "discs", "train": {"epochs": ' + b"9" * 5000 + b"}}",
            400,
            "invalid_json",
        ),
        (b"[" * 100_000 + b"]" * 100_000, 400, "invalid_json"),
        (b'{"kind": "train", "data": "discs", "name": "\\ud800"}', 422, "invalid_spec"),
        (b'{"kind": "train", "data": "discs", "name": "\\u0000"}', 422, "invalid_spec"),
        (b'{"kind": "train", "data": "discs\\u0000"}', 422, "invalid_spec"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b'{"name": "' + b"x" * 1024 * 1024 + b'"}', 413, "too_large"),
    ],
)
def test_a_hostile_body_is_refused_and_never_a_crash(service, body: bytes, status: int, code: str):
    answer = service.http.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert service.jobs() == ()


def test_a_body_without_a_length_is_limited_too(service):
    answer = service.http.post(
        "/jobs", content=(b" " * 65536 for _ in range(17)), headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_form_is_no_spec(service, train_spec: Spec):
    answer = service.http.post(
        "/jobs", content=json.dumps(train_spec), headers={"Content-Type": "text/plain"}
    )
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("route", ["", "/events", "/log", "/report", "/artifacts", "/artifacts/x"])
def test_an_unknown_job_is_a_404(service, route: str):
    answer = service.http.get(f"/jobs/nobody{route}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_an_unknown_job_cannot_be_asked_anything(service, verb: str):
    answer = service.http.post(f"/jobs/nobody/{verb}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


def test_an_unknown_route_and_a_wrong_method_are_problems_too(service):
    absent = service.http.get("/job").json()
    assert absent["code"] == "not_found"
    assert absent["detail"] == "there is nothing at /job; /docs shows every route"
    answer = service.http.delete("/jobs")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.json()["detail"] == f"DELETE is not for /jobs; it understands {answer.headers['Allow']}"


def test_a_name_that_utf8_cannot_hold_is_quoted_in_the_refusal(service):
    spec = b'{"kind": "train", "data": {"path": "discs", "classes": ["\\ud800", "\\ud800"]}}'
    answer = service.http.post("/jobs", content=spec, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "ud800" in answer.json()["detail"]
    assert answer.json()["errors"][0]["loc"] == ["data", "classes"]


@pytest.mark.parametrize("after", [-1, 2**31, 10**30, "x"])
def test_a_number_that_no_event_has_is_refused(service, train_spec: Spec, after: object):
    job = service.submit(train_spec)
    answer = service.http.get(f"/jobs/{job['id']}/events", params={"after": after})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["loc"] == ["query", "after"]


@pytest.mark.parametrize("filters", [{"state": "runing"}, {"kind": "trian"}, {"limit": 0}])
def test_a_filter_that_fits_no_job_ever_is_refused(service, filters: dict[str, object]):
    answer = service.http.get("/jobs", params=filters)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["loc"] == ["query", *filters]


def test_a_defect_shows_its_request_id_and_no_traceback(service, monkeypatch: pytest.MonkeyPatch):
    def broken(job_id: str) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(service.store.reading, "get", broken)
    answer = service.http.get("/jobs/x", headers={"X-Request-ID": "trace-7"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "trace-7"
    assert "secret" not in answer.text


def test_a_database_that_is_away_is_a_503_that_asks_to_come_back(service, monkeypatch: pytest.MonkeyPatch):
    def away(job_id: str, **_: object) -> None:
        raise StoreUnavailable(OSError("connection refused to db.internal"))

    monkeypatch.setattr(service.store.reading, "get", away)
    answer = service.http.get("/jobs/x")
    assert (answer.status_code, answer.json()["code"]) == (503, "database_away")
    assert answer.headers["Retry-After"]
    assert "db.internal" not in answer.text


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.UnknownJob("x"), 404, "unknown_job"),
        (errors.NotAllowed("x", "retry", "queued", ("cancel",)), 409, "not_allowed"),
        (errors.QuotaExceeded("gpu_hours", 1, 2), 403, "quota_exceeded"),
    ],
)
def test_a_refusal_of_a_finer_class_is_answered_like_its_parent(
    service, monkeypatch, error: errors.JobsError, status: int, code: str
):
    finer = type(f"Finer{type(error).__name__}", (type(error),), {})
    refusal = finer.__new__(finer)
    refusal.__dict__.update(error.__dict__)
    refusal.args = error.args

    def refuse(*_: object, **__: object) -> None:
        raise refusal

    monkeypatch.setattr(service.store.submission, "cancel_requested", refuse)
    answer = service.http.post("/jobs/x/cancel")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json().get("actions") == (["cancel"] if code == "not_allowed" else None)
