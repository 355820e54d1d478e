"""Events in a line each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from api.ui.event_text import event_text
from jobs.job import StoredEvent


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("state", {"state": "queued", "reason": "queued by ada"}, "queued by ada"),
        ("state", {"state": "queued", "reason": ""}, "queued"),
        ("request", {"desired": "pause"}, "asked to pause"),
        ("request", {"desired": "run"}, "a request to pause was withdrawn"),
        ("change", {"name": "x", "priority": 5, "tags": {}}, "name x, priority 5, tags none"),
        ("report", {}, "the report is written"),
        ("of a later release", {}, "of a later release"),
    ],
)
def test_an_event_is_one_line(kind: str, body: dict[str, Any], text: str):
    event = StoredEvent(number=1, attempt=1, time=datetime.now(UTC), kind=kind, body=body)
    assert event_text(event) == text
