"""What an engine reports is recorded once, with the file that it names; a real worker does it in tests/faults."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gkd_core.events import Checkpoint, Event, Warning
from gkd_core.run_dir import RunDir
from jobs.artifacts import open_artifacts
from jobs.errors import ArtifactsRefused
from jobs.job import Desired, Ticket
from worker.engine import UnreadableLines
from worker.event_recorder import EventRecorder
from worker.stop_request import StopRequest

TICKET = Ticket("j", 1)


class Recorded:
    """A store that keeps what it gets, and an engine that reports it."""

    def __init__(self, tmp_path: Path, events: list[Event]) -> None:
        self.rows: list[tuple[str, int, str | None]] = []
        self.asked_for: list[int] = []
        self.lease: Any = SimpleNamespace(
            desired=Desired.RUN, lost=False, ticket=TICKET, insist=lambda write: write()
        )
        self.run_dir = RunDir(tmp_path / "run")
        self.run_dir.path.mkdir()
        self.stop = StopRequest(self.lease, threading.Event(), 1.0)
        self.artifacts: Any = open_artifacts(tmp_path / "artifacts")
        store: Any = SimpleNamespace(commands=SimpleNamespace(record=self.record))
        self.recorder = EventRecorder(store, self.artifacts, self.lease, self.stop, self.run_dir, 10)
        self.engine: Any = SimpleNamespace(events=self.after(events), poll=lambda: None, stop=lambda: None)

    def after(self, events: list[Event]) -> Callable[[int], Any]:
        def read(offset: int) -> Any:
            self.asked_for.append(offset)
            yield from ((event, at) for at, event in enumerate(events, 11) if at > offset)

        return read

    def record(self, ticket: Ticket, event: Event, offset: int, artifact: Any) -> Desired:
        assert ticket == TICKET
        self.rows.append((event.kind, offset, artifact and artifact.sha256))
        return Desired.PAUSE if len(self.rows) == 2 else Desired.RUN

    def news(self) -> bool:
        return self.recorder.record_news(self.engine)


def checkpoint(content: bytes) -> Checkpoint:
    digest = hashlib.sha256(content).hexdigest()
    return Checkpoint(
        run="model", epoch=1, step=1, file="model.safetensors", size=1, sha256=digest, best=True
    )


def test_events_are_recorded_from_the_offset_on_and_only_once(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [Warning(message="a"), Warning(message="b")])
    assert recorded.news()
    assert recorded.news()
    assert recorded.rows == [("warning", 11, None), ("warning", 12, None)]
    assert recorded.asked_for == [10, 12]
    assert recorded.lease.desired is Desired.PAUSE, "the store's answer is what is wanted of the job"


def test_a_file_is_published_before_its_event_is_recorded(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [checkpoint(b"weights")])
    (recorded.run_dir.path / "model.safetensors").write_bytes(b"weights")
    recorded.news()
    digest = hashlib.sha256(b"weights").hexdigest()
    assert recorded.rows == [("checkpoint", 11, digest)]
    assert recorded.recorder.unpublished == set()


def test_a_file_that_was_replaced_waits_for_the_event_that_names_it_again(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [checkpoint(b"old"), checkpoint(b"new")])
    (recorded.run_dir.path / "model.safetensors").write_bytes(b"new")
    recorded.news()
    assert [digest is None for _, _, digest in recorded.rows] == [True, False]
    assert recorded.recorder.unpublished == set()


def test_nothing_is_recorded_after_the_lease_was_lost(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [Warning(message="a")])
    recorded.lease.lost = True
    assert recorded.news()
    assert (recorded.rows, recorded.recorder.offset) == ([], 10)


def test_lines_that_cannot_be_read_are_remembered(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, [UnreadableLines(message="odd")])
    recorded.news()
    assert recorded.recorder.met_unreadable


def test_where_files_are_refused_the_attempt_is_to_stop_and_tries_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise ArtifactsRefused("no such bucket", "Create it.")

    recorded = Recorded(tmp_path, [checkpoint(b"weights")])
    monkeypatch.setattr(recorded.recorder, "_artifacts", SimpleNamespace(put=refuse))
    assert not recorded.news()
    assert recorded.stop.is_wanted
    assert recorded.rows == []
    assert not recorded.news(), "a moment later it is not tried again yet"
    assert recorded.asked_for == [10]
    monkeypatch.undo()
    (recorded.run_dir.path / "model.safetensors").write_bytes(b"weights")
    recorded.recorder._publish_at = 0.0
    assert recorded.news()
    assert not recorded.stop.is_wanted
