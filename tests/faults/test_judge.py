"""The judge of storms finds errors; one that never did would prove nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gkd_core.events import Warning
from jobs.job import Ticket

from .storm.faults import Hit
from .storm.judge import Verdict, judge_attempts, judge_events, judge_what_the_engine_told

STATES = ("queued", "running", "queued", "running", "succeeded")


def told(*kinds: str, attempts: tuple[int, ...] = (0, 1, 1, 2, 2)) -> list[dict[str, Any]]:
    """Return events as the API lists them; all that are no states are an engine's."""
    return [
        {"number": number, "attempt": attempt, "kind": "state", "body": {"state": kind}}
        if kind in STATES
        else {"number": number, "attempt": attempt, "kind": "warning", "body": {"message": kind}}
        for number, (kind, attempt) in enumerate(zip(kinds, attempts, strict=True), 1)
    ]


def job(*outcomes: str | None, worker: str = "ada") -> dict[str, Any]:
    attempts = [
        {"attempt": number, "worker": worker, "outcome": outcome, "message": ""}
        for number, outcome in enumerate(outcomes, 1)
    ]
    return {"id": "j", "attempts": attempts}


def of_events(events: list[dict[str, Any]]) -> Verdict:
    verdict = Verdict()
    judge_events(events, verdict)
    return verdict


def of_attempts(job: dict[str, Any], *hits: Hit) -> Verdict:
    verdict = Verdict()
    judge_attempts(job, told(*STATES), hits, verdict)
    return verdict


def test_a_job_that_was_lost_once_and_succeeded_is_well() -> None:
    assert not of_events(told(*STATES))
    assert not of_attempts(job("lost", "succeeded"), Hit("", workers=("ada",)))


def test_a_gap_an_end_twice_and_a_late_word_are_found() -> None:
    gap = told(*STATES)
    del gap[2]
    assert "1, 2, 3" in of_events(gap).doubled[0]
    twice = told(*STATES, "succeeded", attempts=(0, 1, 1, 2, 2, 2))
    assert of_events(twice).doubled
    assert of_events(twice).untrue
    late = told(*STATES[:4], "late", "succeeded", attempts=(0, 1, 1, 2, 1, 2))
    assert "stale" in of_events(late).doubled[0]


def test_a_word_while_nothing_ran_is_found() -> None:
    events = told("queued", "running", "queued", "late", "running", "succeeded", attempts=(0, 1, 1, 1, 2, 2))
    assert "while the job was queued" in of_events(events).doubled[0]


def test_an_attempt_that_broke_off_must_have_been_hit() -> None:
    lost = job("lost", "succeeded")
    assert "nothing had hit" in of_attempts(lost).untrue[0]
    assert "nothing had hit" in of_attempts(lost, Hit("", workers=("bob",))).untrue[0]
    assert not of_attempts(lost, Hit("", everybody=True))
    assert not of_attempts(lost, Hit("", engine=Ticket("j", 1)))


def test_an_attempt_whose_engine_was_killed_must_have_broken_off() -> None:
    assert of_attempts(job("succeeded", "succeeded"), Hit("", engine=Ticket("j", 1))).untrue


@pytest.mark.parametrize("outcomes", [("lost", None), ("succeeded", "succeeded"), ("lost",)])
def test_attempts_that_do_not_add_up_are_found(outcomes: tuple[str | None, ...]) -> None:
    assert of_attempts(job(*outcomes), Hit("", everybody=True))


@pytest.mark.parametrize(
    ("recorded", "wrong"),
    [(["a", "b"], ""), (["a"], "lost"), (["a", "b", "b"], "doubled"), (["b", "a"], "lost")],
)
def test_what_the_engine_told_is_recorded_once_and_in_order(
    tmp_path: Path, recorded: list[str], wrong: str
) -> None:
    file = tmp_path / "events.jsonl"
    lines = [Warning(message=message).model_dump_json() for message in "ab"]
    file.write_text("\n".join([lines[0], '{"kind":"torn', lines[1], ""]))
    events = [{"attempt": 1, "kind": "warning", "body": body_of(message)} for message in recorded]
    verdict = Verdict()
    judge_what_the_engine_told(events, file, verdict)
    assert [name for name in ("lost", "doubled", "untrue") if getattr(verdict, name)] == [wrong] * bool(wrong)


def body_of(message: str) -> dict[str, Any]:
    return json.loads(Warning(message=message).model_dump_json())
