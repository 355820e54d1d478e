"""A job from POST to the student's file, with the real engine, in both ways to run the service.

tests/faults/test_storm.py shows which processes may be killed meanwhile without changing a bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(400)

Send = Callable[[Any, Path], tuple[str, str]]


def test_both_ways_to_run_give_the_same_student(node: Any, laptop: Any, pictures: Path, send: Send) -> None:
    _, student = send(node, pictures)
    waiting = node.get(f"/jobs/{student}")
    assert waiting["state"] == "queued"
    assert "waits for" in waiting["reason"]
    job = node.await_end(student)
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["succeeded"]
    report = node.get(f"/jobs/{student}/report")
    assert report["models"]["student"]["sha256"] == node.hashes(student)["student.safetensors"]
    assert report["models"]["student"]["sha256"] != report["models"]["control"]["sha256"]
    _, same = send(laptop, pictures)
    laptop.await_end(same)
    assert laptop.hashes(same) == node.hashes(student)
