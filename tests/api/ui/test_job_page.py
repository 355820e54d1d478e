"""The page of a job."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import update

from api.ui.job_page import CurveCache
from gkd_core.errors import Failure, FailureClass
from gkd_core.events import Evaluation, FileWritten, Warning
from gkd_core.run_dir import RunDir
from jobs.curves import JobCurves
from jobs.job import Artifact
from jobs.store.tables import jobs


def model(ap: float, **per_class: float) -> dict[str, Any]:
    """Return a model of a report."""
    return {
        "architecture": "fcos",
        "backbone": "resnet18",
        "parameters": 12_600_000,
        "gflops": 41.0,
        "latency_ms": {"median": 3.4, "low": 3.0, "high": 4.0, "device": "CPU"},
        "metrics": {"AP": ap, "AP50": 0.9, "APs": -1},
        "per_class": per_class,
        "size": 50_400_000,
    }


REPORT = {
    "models": {
        "teacher": model(0.609, disc=0.7, ring=0.5),
        "control": model(0.563, disc=0.6, ring=0.5),
        "student": model(0.591, disc=0.61, ring=0.57),
    },
    "gain": {"ap": 0.028, "ap50": 0.01, "ap_low": 0.017, "ap_high": 0.042, "verdict": "Distillation gained."},
    "headline": ["AP", "AP50", "APs"],
    "notes": ["A note."],
}


def reported(service, job_id: str, report: dict[str, Any] = REPORT) -> None:
    """Let a job have a report."""
    with service.store.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(report=report))


def test_a_running_job_shows_its_curves_and_how_far_it_is(browser, running):
    text = browser.get(f"/ui/jobs/{running}").text
    assert '<p class="bigno">25.0 <small>AP</small></p>' in text
    assert "of the model, the best so far, at epoch 2." in text
    assert 'aria-label="AP over epochs: model 25.0"' in text
    assert 'aria-label="loss_box over steps: 0.5"' in text
    assert '<th class="num" scope="row">1</th><td class="num">12.5</td>' in text, "the chart as a table"
    assert "model, epoch 2: AP 25.0, AP50 25.0" in text
    assert 'aria-label="AP50 over epochs' in browser.get(f"/ui/jobs/{running}?metric=AP50").text
    assert 'aria-label="AP over epochs' in browser.get(f"/ui/jobs/{running}?metric=none").text


def test_a_job_without_evaluations_says_why_there_is_nothing(browser, service, train_spec):
    job_id = service.submit(train_spec)["id"]
    text = browser.get(f"/ui/jobs/{job_id}").text
    assert "Next, waiting for a worker" in text
    assert "bigno" not in text
    assert "The engine has written nothing yet." in text


def test_a_report_is_a_verdict_a_scale_and_a_table(browser, service, running):
    reported(service, running)
    text = browser.get(f"/ui/jobs/{running}").text
    assert '<p class="bigno">+2.8 <small>AP</small></p>' in text
    assert "Distillation gained." in text
    assert 'aria-label="teacher 60.9 AP, control 56.3 AP, student 59.1 AP"' in text
    assert text.index('<th scope="row">ring</th>') < text.index('<th scope="row">disc</th>'), (
        "largest gain first"
    )
    assert "12.6 M" in text
    assert "50.4 MB" in text
    assert "A note." in text


def test_the_list_shows_what_came_of_it(browser, service, running):
    reported(service, running)
    service.store.submission.cancel_requested(running)
    with service.store.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == running).values(state="succeeded"))
    text = browser.get("/ui/jobs").text
    assert "+2.8 AP over the control (95\N{NO-BREAK SPACE}%: +1.7 to +4.2)." in text
    assert '<td class="c-g num up" data-to="to control">+2.8</td>' in text
    assert '<td class="c-g num" data-to="to teacher">\N{MINUS SIGN}1.8</td>' in text


def test_student_and_control_are_compared_at_equal_epochs(browser, service, train_spec):
    job_id = service.submit(train_spec)["id"]
    ticket = service.claim(job_id)
    scores = [("student", 1, 0.2), ("student", 2, 0.4), ("control", 1, 0.15)]
    for number, (run, epoch, ap) in enumerate(scores, start=1):
        told = Evaluation(run=run, epoch=epoch, metrics={"AP": ap}, per_class={}, seconds=1)
        service.store.commands.record(ticket, told, number)
    text = browser.get(f"/ui/jobs/{job_id}").text
    assert '<p class="bigno">+5.0 <small>AP</small></p>' in text
    assert "student over control, both at epoch 1." in text


def test_a_failed_job_says_what_to_do(browser, service, running):
    ticket = service.store.reading.get(running).ticket
    failure = Failure(failure_class=FailureClass.OUT_OF_MEMORY, message="memory ran out", hint="Try less.")
    service.store.commands.fail(ticket, failure, log_tail="last words")
    text = browser.get(f"/ui/jobs/{running}").text
    for told in ("Failed: out of memory", "memory ran out", "Try less.", "last words", ">Retry<", "Delete…"):
        assert told in text


def test_the_log_and_its_end_are_there(browser, service, running):
    path = RunDir(service.settings.runs / running).log
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"line {n} {'x' * 90}\n" for n in range(1000)) + "<b>ö</b>\n")
    text = browser.get(f"/ui/jobs/{running}").text
    assert "&lt;b&gt;ö&lt;/b&gt;" in text
    assert "line 999 " in text
    assert "line 700 " not in text
    assert browser.get(f"/ui/jobs/{running}/log").text.startswith("line 0 ")


def test_files_can_be_fetched_and_figures_are_shown(browser, service, running):
    service.settings.home.mkdir(exist_ok=True)
    file = service.settings.home / "losses.png"
    file.write_bytes(b"not quite a picture")
    blob = service.artifacts.put(file)
    ticket = service.store.reading.get(running).ticket
    told = FileWritten(run="model", file=file.name, title="Losses <3", size=blob.size, sha256=blob.sha256)
    artifact = Artifact(name=file.name, size=blob.size, sha256=blob.sha256, created_at=datetime.now(UTC))
    service.store.commands.record(ticket, told, 100, artifact)
    text = browser.get(f"/ui/jobs/{running}").text
    address = f"/ui/jobs/{running}/files/losses.png"
    assert f'<img src="{address}" alt="Losses &lt;3" loading="lazy">' in text
    assert blob.sha256 in text
    answer = browser.get(address)
    assert (answer.content, answer.headers["Content-Type"]) == (b"not quite a picture", "image/png")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert browser.get(address, **{"If-None-Match": answer.headers["ETag"]}).status_code == 304


def test_a_warning_stands_among_the_events(browser, service, running):
    ticket = service.store.reading.get(running).ticket
    service.store.commands.record(ticket, Warning(message="2 boxes have no area", hint="Look."), 100)
    assert '<p class="warn">2 boxes have no area Look.</p>' in browser.get(f"/ui/jobs/{running}").text


def test_another_tenants_job_is_unknown(browser, make_key, running):
    browser.log_in(make_key(tenant="ours"))
    for part in ("", "/log", "/stream", "/files/x", "/files/events.jsonl"):
        answer = browser.get(f"/ui/jobs/{running}{part}")
        assert (answer.status_code, "There is no job" in answer.text) == (404, True), part


def test_curves_are_computed_anew_after_an_event_but_not_all_the_time():
    cache, curves = CurveCache(), JobCurves(runs={})
    cache.put("quick", 3, curves, seconds=0)
    cache.put("slow", 3, curves, seconds=60)
    assert cache.get("quick", 3) is cache.get("slow", 3) is cache.get("slow", 4) is curves
    assert cache.get("quick", 4) is cache.get("other", 3) is None


def test_an_open_job_can_be_followed_from_the_event_that_its_page_has(browser, service, running):
    text = browser.get(f"/ui/jobs/{running}").text
    found = re.search(r'data-stream="([^"]+)" data-after="(\d+)"', text)
    assert found
    last = service.store.reading.events(running)[-1].number
    assert found.groups() == (f"/ui/jobs/{running}/stream", str(last))
    service.store.submission.cancel_requested(running)
    service.store.commands.cancel(service.store.reading.get(running).ticket)
    events = browser.get(f"{found[1]}?after={last}").text
    assert re.findall(r"event: (\w+)", events) == ["request", "state"]
    assert "data-stream" not in browser.get(f"/ui/jobs/{running}").text, "it has ended"
