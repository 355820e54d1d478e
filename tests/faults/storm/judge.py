"""Checks what must hold of a job after its storm, from outside: HTTP and the run directory alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from gkd_core.events import events as engine_events
from jobs.job import END_STATES, MOVES, State

from .faults import Hit
from .service import Service


@dataclass(frozen=True)
class Published:
    """The files that a job published: SHA-256 by name."""

    hashes: dict[str, str]

    @property
    def models(self) -> dict[str, str]:
        """Return the models, whose bits may not depend on any fault."""
        return {name: sha256 for name, sha256 in self.hashes.items() if name.endswith(".safetensors")}


@dataclass
class Verdict:
    """The errors found in a job; empty when there are none."""

    lost: list[str] = field(default_factory=list)
    """It did not end as requested."""
    doubled: list[str] = field(default_factory=list)
    """Something was done or recorded twice, or by a worker whose lease had ended."""
    untrue: list[str] = field(default_factory=list)
    """The record of it differs from what happened, or from that of an undisturbed job."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.untrue)


def judge(service: Service, job: dict[str, Any], like: Published, hits: Sequence[Hit]) -> Verdict:
    """Compare a job that has ended with what must hold.

    Args:
        service: That ran it.
        job: As the API shows it.
        like: The files that an undisturbed job of this spec published.
        hits: The faults during its life.
    """
    verdict = Verdict()
    if job["state"] != State.SUCCEEDED.value:
        verdict.lost.append(f"{job['state']}: {job['failure'] or job['reason']}")
        return verdict
    told = _all_events(service, job["id"])
    judge_events(told, verdict)
    judge_what_the_engine_told(told, service.home / "runs" / job["id"] / "events.jsonl", verdict)
    judge_attempts(job, told, hits, verdict)
    judge_files(service, job["id"], like, verdict)
    return verdict


def published(service: Service, job_id: str) -> Published:
    """Return the hash of every artifact of a job; one that differs from its record says so."""
    listed = service.ask("GET", f"/jobs/{job_id}/artifacts").json()
    items = listed["items"] if isinstance(listed, dict) else listed
    hashes = {}
    for item in items:
        content = service.ask("GET", f"/jobs/{job_id}/artifacts/{item['name']}").content
        sha256 = hashlib.sha256(content).hexdigest()
        right = sha256 == item["sha256"] and len(content) == item["size"]
        hashes[item["name"]] = sha256 if right else f"{sha256}, said to be {item['sha256']}"
    return Published(hashes)


# ---- events ----------------------------------------------------------------------------------------------


def _all_events(service: Service, job_id: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    after = 0
    while page := service.ask("GET", f"/jobs/{job_id}/events", params={"after": after}).json()["items"]:
        told += page
        after = page[-1]["number"]
    return told


def judge_events(told: list[dict[str, Any]], verdict: Verdict) -> None:
    """Check events: numbered without a gap; states by the transition table, one end; attempts never decrease."""
    if [event["number"] for event in told] != list(range(1, len(told) + 1)):
        verdict.doubled.append("events are not numbered 1, 2, 3, ...")
    states = [State(event["body"]["state"]) for event in told if event["kind"] == "state"]
    wrong = [f"{one} to {two}" for one, two in pairwise(states) if two not in MOVES[one]]
    if states[0] is not State.QUEUED or wrong:
        verdict.untrue.append(f"moves that there are not: {', '.join(wrong) or states[0]}")
    if sum(state in END_STATES for state in states) != 1 or told[-1]["kind"] != "state":
        verdict.doubled.append(
            f"ends {[state.value for state in states if state in END_STATES]}, last {told[-1]}"
        )
    attempts = [event["attempt"] for event in told]
    if attempts != sorted(attempts):
        verdict.doubled.append("an event of an attempt came after one of a later attempt: a stale write")
    for event, state in _with_states(told):
        if _is_an_engines(event) and state is not State.RUNNING:
            verdict.doubled.append(
                f"event {event['number']} ({event['kind']}) came while the job was {state}"
            )


def _is_an_engines(event: dict[str, Any]) -> bool:
    """Return whether an event comes from an engine, not from the store (such as remarks on a spec)."""
    return event["kind"] not in ("state", "request", "change") and event["attempt"] > 0


def _with_states(told: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], State]]:
    state = State.QUEUED
    for event in told:
        if event["kind"] == "state":
            state = State(event["body"]["state"])
        yield event, state


def judge_what_the_engine_told(told: list[dict[str, Any]], file: Path, verdict: Verdict) -> None:
    """Check that each whole line of the engines' events is an event of the job, once, in order, with no others."""
    recorded = [_plain(event["kind"], event["body"]) for event in told if _is_an_engines(event)]
    written = [_plain(line["kind"], line) for line in _lines(file)]
    if recorded != written:
        at = next((i for i, (a, b) in enumerate(zip(recorded, written, strict=False)) if a != b), "the end")
        words = f"{len(written)} events in the file, {len(recorded)} recorded, first difference at {at}"
        (verdict.doubled if len(recorded) > len(written) else verdict.lost).append(words)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_bytes().split(b"\n"):
        try:
            yield json.loads(engine_events.validate_json(line).model_dump_json())
        except ValueError:  # the rest of a line of a killed writer
            continue


def _plain(kind: str, body: dict[str, Any]) -> str:
    return json.dumps({**body, "kind": kind}, sort_keys=True)


# ---- attempts --------------------------------------------------------------------------------------------


def judge_attempts(
    job: dict[str, Any], told: list[dict[str, Any]], hits: Sequence[Hit], verdict: Verdict
) -> None:
    """Check attempts: as many as claims; each ended, the last one well; each failed one was hit, each hit shows."""
    attempts = job["attempts"]
    claims = [event for event in told if event["body"].get("state") == State.RUNNING.value]
    if [attempt["attempt"] for attempt in attempts] != list(range(1, len(claims) + 1)):
        verdict.untrue.append(f"{len(claims)} claims, attempts {[each['attempt'] for each in attempts]}")
    outcomes = [attempt["outcome"] for attempt in attempts]
    if outcomes.count("succeeded") != 1 or outcomes[-1] != "succeeded" or not all(outcomes):
        verdict.doubled.append(f"attempts ended {outcomes}")
    killed = {hit.engine.attempt for hit in hits if hit.engine and hit.engine.job_id == job["id"]}
    survived = [
        number for number in sorted(killed) if outcomes[number - 1] not in ("requeued", "lost", "paused")
    ]
    if survived:
        verdict.untrue.append(
            f"attempts {survived} are said to be {outcomes}, though their engines were killed"
        )
    struck = {name for hit in hits for name in hit.workers}
    unexplained = [
        each
        for each in attempts[:-1]
        if each["attempt"] not in killed
        and each["worker"] not in struck
        and not each["worker"].startswith("rival-")
    ]
    if len(unexplained) > sum(hit.everybody for hit in hits):
        words = [
            f"{each['attempt']} on {each['worker']}: {each['outcome']}, {each['message']}"
            for each in unexplained
        ]
        verdict.untrue.append(f"attempts broke off and nothing had hit them: {words}")


# ---- files -----------------------------------------------------------------------------------------------


def judge_files(service: Service, job_id: str, like: Published, verdict: Verdict) -> None:
    """Check files: the names and model bits of an undisturbed job; every file matches its record."""
    found = published(service, job_id)
    if found.hashes.keys() != like.hashes.keys():
        verdict.untrue.append(f"published {sorted(found.hashes)}, undisturbed {sorted(like.hashes)}")
    if found.models != like.models:
        verdict.untrue.append(f"other bits than undisturbed: {found.models} for {like.models}")
    verdict.untrue += [f"{name} is {sha256}" for name, sha256 in found.hashes.items() if "said" in sha256]
    report = service.ask("GET", f"/jobs/{job_id}/report").json()
    told = {model["file"]: model["sha256"] for model in report["models"].values() if model.get("file")}
    wrong = {name: sha256 for name, sha256 in told.items() if found.hashes.get(name) != sha256}
    if wrong:
        verdict.untrue.append(f"the report names files that are not there: {wrong}")
