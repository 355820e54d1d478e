"""Events as curves, and the points that thinning must keep."""

from __future__ import annotations

import json
import math
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from gkd_core.events import Evaluation, Event, Progress, PrototypesSelected
from jobs.curves import thin
from jobs.job import Ticket
from jobs.store.store import Store, UnknownJob


def progress(step: int, **fields: Any) -> Progress:
    given = {"run": "student", "losses": {"loss_cls": float(step)}, "lr": 0.01, "images_per_second": 8.0}
    return Progress(epoch=0, epochs=1, step=step, steps=1000, fraction=0, **(given | fields))


def record(store: Store, ticket: Ticket, *told: Event) -> None:
    for event in told:
        store.commands.record(ticket, event, len(store.reading.events(ticket.job_id)) + 1)


def test_losses_go_over_steps_and_scores_over_epochs(store: Store, ask: Any) -> None:
    ticket = ask.running()
    selected = PrototypesSelected(
        run="student",
        epoch=0,
        instances={"cat": 5},
        prototypes={"cat": 2},
        reconstruction_error={"8": 0.5},
        seconds=1,
    )
    scores = {"AP": 0.25, "APs": -1.0}
    first = Evaluation(run="student", epoch=1, metrics=scores, per_class={"cat": 0.25}, seconds=1)
    control = progress(4, run="control", losses={"loss_box": 2.0}, lr=None, images_per_second=None)
    record(store, ticket, progress(1), selected, progress(2), first, control)
    runs = store.following.curves(ticket.job_id).model_dump()["runs"]
    assert runs["student"] == {
        "losses": {"loss_cls": {"x": (1, 2), "y": (1.0, 2.0)}},
        "lr": {"x": (1, 2), "y": (0.01, 0.01)},
        "images_per_second": {"x": (1, 2), "y": (8.0, 8.0)},
        "evaluation": {"AP": {"x": (1,), "y": (0.25,)}},
        "per_class": {"cat": {"x": (1,), "y": (0.25,)}},
        "reconstruction_error": {"8": {"x": (0,), "y": (0.5,)}},
    }
    assert runs["control"]["losses"] == {"loss_box": {"x": (4,), "y": (2.0,)}}
    assert runs["control"]["lr"] is None


def test_what_an_attempt_did_again_is_there_once_and_steps_rise(store: Store, ask: Any) -> None:
    ticket = ask.running()
    again = [progress(step, losses={"loss_cls": 10.0 + step}) for step in (2, 3, 4)]
    record(store, ticket, *map(progress, (1, 2, 3)), *again)
    curve = store.following.curves(ticket.job_id).runs["student"].losses["loss_cls"]
    assert (curve.x, curve.y) == ((1, 2, 3, 4), (1.0, 12.0, 13.0, 14.0))


def test_what_is_no_number_is_left_out_and_json_can_say_the_rest(store: Store, ask: Any) -> None:
    ticket = ask.running()
    record(
        store,
        ticket,
        *(progress(n, losses={"a": value}) for n, value in enumerate((1.0, math.nan, math.inf, 2.0))),
    )
    curves = store.following.curves(ticket.job_id)
    curve = curves.runs["student"].losses["a"]
    assert (curve.x, curve.y) == ((0, 3), (1.0, 2.0))
    json.loads(curves.model_dump_json(), parse_constant=pytest.fail)


def test_evaluating_is_no_training(store: Store, ask: Any) -> None:
    ticket = ask.running()
    record(store, ticket, progress(1, activity="evaluate"))
    assert store.following.curves(ticket.job_id).runs == {}


def test_a_job_without_events_has_no_curves_and_no_job_none_at_all(store: Store, ask: Any) -> None:
    assert store.following.curves(ask.submit().id).runs == {}
    with pytest.raises(UnknownJob):
        store.following.curves("nothing")


@given(st.lists(st.floats(-1e6, 1e6), max_size=400), st.integers(10, 60))
def test_thinning_keeps_the_ends_the_extremes_and_the_order(values: list[float], points: int) -> None:
    kept = thin(values, points)
    assert len(kept) <= points
    assert list(kept) == sorted(set(kept))
    if values:
        assert (kept[0], kept[-1]) == (0, len(values) - 1)
        shown = [values[n] for n in kept]
        assert (min(shown), max(shown)) == (min(values), max(values))
    if len(values) <= points:
        assert len(kept) == len(values)


def test_a_spike_of_one_step_is_seen_wherever_it_is() -> None:
    for place in range(1000):
        values = [0.0] * 1000
        values[place] = 1.0
        assert place in thin(values, 10)


def test_no_stretch_of_a_long_curve_is_left_blank() -> None:
    kept = thin([math.sin(n / 50) for n in range(100_000)], 500)
    assert len(kept) > 400
    assert max(after - before for before, after in pairwise(kept)) < 1000


def test_a_hundred_thousand_events_are_curves_in_seconds(store: Store, ask: Any) -> None:
    job = ask.submit()
    losses = {f"loss_{n}": 0.123456789 for n in range(6)}
    body = json.dumps(progress(0, losses=losses).model_dump(mode="json"))
    stepped = """replace(:body, '"step": 0', '"step": ' || n)"""
    if store.database.engine.dialect.name == "postgresql":
        stepped = f"CAST({stepped} AS JSON)"
    with store.database.write() as connection:
        statement = f"""INSERT INTO events (job_id, number, attempt, time, kind, body)
            WITH RECURSIVE counted(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted WHERE n < 99999)
            SELECT :id, n + 2, 1, 0, 'progress', {stepped} FROM counted"""
        connection.execute(text(statement), {"id": job.id, "body": body})
    started = time.process_time()
    curves = store.following.curves(job.id, points=100)
    assert time.process_time() - started < 10, "about 1 s on an idle machine"
    curve = curves.runs["student"].losses["loss_5"]
    assert (curve.x[0], curve.x[-1]) == (0, 99_999)
    assert len(curve.x) <= 100
