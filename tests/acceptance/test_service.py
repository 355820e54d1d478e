"""A job from POST to the student's file, with the real engine: the same bits whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(400)

Send = Callable[[Any, Path], tuple[str, str]]


def outcomes(job: dict[str, Any]) -> list[str]:
    return [attempt["outcome"] for attempt in job["attempts"]]


def test_both_ways_to_run_give_the_same_student(
    node: Any, pictures: Path, send: Send, undisturbed: dict[str, str]
) -> None:
    _, student = send(node, pictures)
    waiting = node.get(f"/jobs/{student}")
    assert waiting["state"] == "queued"
    assert "waits for" in waiting["reason"]
    job = node.await_end(student)
    assert outcomes(job) == ["succeeded"]
    assert node.hashes(student) == undisturbed
    report = node.get(f"/jobs/{student}/report")
    assert report["models"]["student"]["sha256"] == undisturbed["student.safetensors"]
    assert report["models"]["student"]["sha256"] != report["models"]["control"]["sha256"]


def test_engine_worker_and_api_may_be_killed_on_a_node(
    node: Any, pictures: Path, send: Send, undisturbed: dict[str, str]
) -> None:
    _, student = send(node, pictures)
    node.await_epoch(student, "student", 1)
    node.kill_engine()
    node.await_epoch(student, "student", 2)
    engine = node.engine()
    node.kill("worker")
    node.start("worker")
    node.await_epoch(student, "control", 1)
    assert node.engine() != engine
    node.kill("api")
    node.start("api")
    job = node.await_end(student)
    assert outcomes(job) == ["requeued", "lost", "succeeded"]
    assert "SIGKILL" in job["attempts"][0]["message"]
    assert "was lost" in job["attempts"][1]["message"]
    assert node.hashes(student) == undisturbed


def test_engine_and_server_may_be_killed_on_a_laptop(
    laptop: Any, pictures: Path, send: Send, undisturbed: dict[str, str]
) -> None:
    _, student = send(laptop, pictures)
    laptop.await_epoch(student, "student", 1)
    laptop.kill_engine()
    laptop.await_epoch(student, "control", 1)
    laptop.kill("serve")
    laptop.start("serve")
    job = laptop.await_end(student)
    assert outcomes(job) == ["requeued", "lost", "succeeded"]
    assert laptop.hashes(student) == undisturbed
    numbers = [event["number"] for event in laptop.get(f"/jobs/{student}/events?limit=1000")["items"]]
    assert numbers == list(range(1, len(numbers) + 1))
