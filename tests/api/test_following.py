"""Events and the log of a job over HTTP."""

from __future__ import annotations

import pytest

from gkd_core.events import Evaluation, Progress
from gkd_core.run_dir import RunDir


def progress(step: int) -> Progress:
    return Progress(run="model", epoch=0, epochs=1, step=step, steps=10, fraction=step / 10)


def test_events_are_numbered_and_continue_where_one_left_off(service, train_spec):
    job_id = service.submit(train_spec)["id"]
    ticket = service.claim(job_id)
    for step in range(4):
        service.store.commands.record(ticket, progress(step), offset=step + 1)
    everything = service.http.get(f"/jobs/{job_id}/events").json()
    numbers = [event["number"] for event in everything["items"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [e["body"]["step"] for e in everything["items"] if e["kind"] == "progress"] == [0, 1, 2, 3]
    some = service.http.get(f"/jobs/{job_id}/events", params={"after": numbers[-3], "limit": 2}).json()
    assert [event["number"] for event in some["items"]] == numbers[-2:]
    nothing = service.http.get(f"/jobs/{job_id}/events", params={"after": everything["next"]}).json()
    assert nothing == {"items": [], "next": everything["next"]}


def test_a_job_shows_its_latest_progress_and_evaluation(service, train_spec):
    job_id = service.submit(train_spec)["id"]
    ticket = service.claim(job_id)
    service.store.commands.record(ticket, progress(3), offset=1)
    evaluation = Evaluation(run="model", epoch=1, metrics={"AP": 0.25}, per_class={"disc": 0.25}, seconds=1)
    service.store.commands.record(ticket, evaluation, offset=2)
    job = service.http.get(f"/jobs/{job_id}").json()
    assert job["progress"]["step"] == 3
    assert job["evaluation"]["metrics"] == {"AP": 0.25}


def log_of(service, job_id: str, data: bytes) -> None:
    path = RunDir(service.settings.runs / job_id).log
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("limit", [4, 7])
def test_a_log_is_read_piece_by_piece_without_tearing_a_character(service, train_spec, limit: int):
    job_id = service.submit(train_spec)["id"]
    text = "größer, 1 → 2, 😀 = 3\nab"
    log_of(service, job_id, text.encode())
    pieces, offset = [], 0
    while True:
        answer = service.http.get(f"/jobs/{job_id}/log", params={"offset": offset, "limit": limit})
        if not answer.text:
            break
        pieces.append(answer.text)
        assert len(answer.content) <= limit
        offset = int(answer.headers["X-Next-Offset"])
    assert "".join(pieces) == text
    assert offset == len(text.encode())


def test_a_negative_offset_counts_from_the_end(service, train_spec):
    job_id = service.submit(train_spec)["id"]
    log_of(service, job_id, b"0123456789")
    assert service.http.get(f"/jobs/{job_id}/log", params={"offset": -3}).text == "789"
    assert service.http.get(f"/jobs/{job_id}/log", params={"offset": -30}).text == "0123456789"


def test_bytes_that_are_no_text_do_not_stop_a_log(service, train_spec):
    job_id = service.submit(train_spec)["id"]
    log_of(service, job_id, b"ok \xff\xfe\x80 end\xe2")
    answer = service.http.get(f"/jobs/{job_id}/log")
    assert answer.text.startswith("ok ")
    assert " end" in answer.text


def test_a_job_that_never_ran_has_an_empty_log(service, train_spec):
    job_id = service.submit(train_spec)["id"]
    answer = service.http.get(f"/jobs/{job_id}/log")
    assert (answer.status_code, answer.text, answer.headers["X-Next-Offset"]) == (200, "", "0")
