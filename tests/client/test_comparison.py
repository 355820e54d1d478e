"""Jobs side by side: what differs, and whether AP can be compared."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from client.cli import app
from client.comparison import compare
from client.show_comparison import comparison
from gkd_core.events import Gain, Latency, ModelReport, Report
from jobs.job import Job

CONFIG: dict[str, Any] = {
    "kind": "train",
    "data": {"val": {"images": "/d/val", "annotations": "/d/val.json"}, "classes": ["cell"]},
    "train": {"image_size": 320, "epochs": 3, "augment": {"scale": [0.5, 1.5]}},
}


def job(name: str, **changes: Any) -> Job:
    fields = dict.fromkeys(("worker", "lease_until", "started_at", "progress", "evaluation", "failure"))
    fields |= dict.fromkeys(("reason", "queue"), "cpu") | {"id": name, "name": name, "kind": "train"}
    fields |= {"state": "succeeded", "desired": "run", "priority": 5, "tags": {}, "attempt": 1, "spec": {}}
    fields |= {"created_at": "2026-01-01T00:00:00Z", "finished_at": None, "waits_for": [], "attempts": []}
    return Job.model_validate({**fields, "resolved": CONFIG | changes})


def report(ap: float, **changes: Any) -> Report:
    model = ModelReport(
        architecture="fcos",
        backbone="resnet18",
        parameters=2_500_000,
        gflops=3.2,
        latency_ms=Latency(median=12.5, low=12.0, high=13.0, device="cpu"),
        metrics={"AP": ap, "AP50": 0.5},
        per_class={},
        size=10_000_000,
    )
    gain = Gain(ap=0.05, ap50=0.07, ap_low=0.01, ap_high=0.09, verdict="It helped.")
    return Report.model_validate(
        {"models": {"student": model, "teacher": model}, "gain": gain, "pictures": {"val": 9}} | changes
    )


def shown(*jobs: Job, reports: tuple[Report, ...] = (report(0.3), report(0.4))) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(comparison(compare(jobs, reports)))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_only_fields_that_differ_are_listed_with_defaults_filled_in():
    other = {"image_size": 320, "epochs": 4, "augment": {"scale": [0.5, 2]}, "ema": 0.9}
    found = compare([job("a"), job("b", train=other)], [report(0.3), report(0.4)])
    assert found.differences == {
        "train.epochs": (3, 4),
        "train.augment.scale": ([0.5, 1.5], [0.5, 2]),
        "train.ema": (None, 0.9),
    }
    assert found.doubts == ()


@pytest.mark.parametrize(
    ("changes", "of_report", "told"),
    [
        ({"train": {"image_size": 640}}, {}, "sizes: 320, 640 pixels"),
        ({"data": {**CONFIG["data"], "val": None}}, {}, "different data"),
        ({"data": {**CONFIG["data"], "classes": ["cell", "dust"]}}, {}, "different data"),
        ({}, {"split": "test", "pictures": {"test": 9}}, "splits: val, test"),
        ({}, {"pictures": {"val": 8}}, "pictures: 9, 8"),
    ],
)
def test_what_makes_ap_incomparable_is_said(changes: dict[str, Any], of_report: dict[str, Any], told: str):
    text = shown(job("a"), job("b", **changes), reports=(report(0.3), report(0.4, **of_report)))
    assert "AP cannot be compared" in text
    assert told in text


def test_models_and_gains_of_all_jobs_stand_side_by_side():
    text = shown(job("a"), job("b"))
    rows = [line.split() for line in text.splitlines()]
    assert [row[:2] for row in rows[1:5]] == [
        ["a", "teacher"],
        ["a", "student"],
        ["b", "teacher"],
        ["b", "student"],
    ]
    assert rows[4][2:] == [
        "fcos",
        "resnet18",
        "0.400",
        "0.500",
        "-",
        "2.50",
        "M",
        "10.0",
        "MB",
        "3.2",
        "12.5",
    ]
    assert "b, student minus control on val: +0.050 AP (95 % interval +0.010 to +0.090), +0.070 AP50" in text
    assert "their specs are the same" in text
    assert "cannot be compared" not in text


def test_jobs_of_one_name_are_told_apart_by_their_ids():
    text = shown(job("a"), job("b").model_copy(update={"name": "a"}))
    assert [line.split()[0] for line in text.splitlines()[1:5]] == ["a", "a", "b", "b"]


def test_programs_get_reports_differences_and_doubts():
    found = compare([job("a"), job("b", train={"image_size": 64})], [report(0.3), report(0.4)]).as_json()
    assert [each["report"]["models"]["student"]["metrics"]["AP"] for each in found["jobs"]] == [0.3, 0.4]
    assert found["differences"]["train.image_size"] == [320, 64]
    assert len(found["not_comparable"]) == 1


@pytest.mark.parametrize("names", [["a"], list("abcde")])
def test_two_to_four_jobs_can_be_compared(names: list[str]):
    result = CliRunner().invoke(app, ["compare", *names])
    assert result.exit_code == 2
    assert "two to 4" in result.stderr
