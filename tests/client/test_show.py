"""The output of commands for people."""

from __future__ import annotations

import io
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from client import show_data, show_events, show_jobs, show_report, show_resources, show_text
from client.cli_keys import key_table
from client.follow import ProgressLine, follow
from gkd_core.config import DataConfig
from gkd_core.data.examine import examine
from gkd_core.data.shapes import draw_shapes
from gkd_core.events import Gain, Latency, ModelReport, Progress, Report, Scores
from jobs.curves import Curve, JobCurves, RunCurves
from jobs.job import Artifact, Job, StoredEvent
from jobs.keys import Key, Scope
from jobs.presence import Gpu, Worker, WorkerState
from jobs.resources import Resource, ResourceKind, ResourceState


def shown(renderable: object, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def model(ap: float) -> ModelReport:
    return ModelReport(
        architecture="fcos",
        backbone="resnet18",
        parameters=2_500_000,
        gflops=3.2,
        latency_ms=Latency(median=12.5, low=12.0, high=13.0, device="cpu"),
        metrics={"AP": ap, "AP50": 0.5, "AP75": -1.0},
        per_class={},
    )


def test_a_report_has_its_models_in_order_and_the_gain_with_its_interval():
    gain = Gain(ap=0.05, ap50=0.07, ap_low=0.01, ap_high=0.09, verdict="It helped.")
    models = {"student": model(0.35), "teacher": model(0.4), "control": model(0.3)}
    text = shown(show_report.report(Report(models=models, gain=gain, notes=("one seed",))))
    rows = [line.split()[0] for line in text.splitlines()[1:4]]
    assert rows == ["teacher", "control", "student"]
    assert "0.350" in text
    assert "student minus control: +0.050 AP (95 % interval +0.010 to +0.090)" in text
    assert "It helped." in text
    assert "one seed" in text


def test_a_report_has_both_splits_where_there_is_a_test_split():
    both = [
        model(0.5).model_copy(update={"test": Scores(metrics={"AP": ap}, per_class={})}) for ap in (0.4, 0.3)
    ]
    gain = Gain(ap=0.05, ap50=0.07, ap_low=0.01, ap_high=0.09, verdict="It helped.")
    on_test = gain.model_copy(update={"ap": 0.1, "verdict": "It helped there, too."})
    models = dict(zip(("student", "control"), both, strict=True))
    text = shown(show_report.report(Report(models=models, gain=gain, gain_on_test=on_test)))
    assert "student minus control on val: +0.050 AP" in text
    assert "student minus control on test: +0.100 AP" in text
    assert "It helped there, too." in text
    rows = [line.split() for line in text.partition("on test")[2].splitlines()]
    assert ["control", "0.300", "-", "-"] in rows
    assert ["student", "0.400", "-", "-"] in rows


def test_a_report_shows_size_spread_and_the_numbers_that_the_format_has():
    measured = model(0.4).model_copy(update={"size": 12_700_000, "metrics": {"AP": 0.4, "VOC07": 0.61}})
    figures = ("losses.png", "pictures.png")
    told = Report(models={"model": measured}, headline=("AP", "VOC07"), figures=figures)
    text = shown(show_report.report(told))
    assert "VOC07" in text.splitlines()[0]
    assert all(part in text for part in ("0.610", "12.7 MB", "12.5 (12.0 to 13.0)"))
    assert "to look at: losses.png, pictures.png" in text


def test_a_number_that_coco_does_not_have_is_a_dash():
    assert show_text.number(-1.0) == show_text.number(None) == "-"


def test_progress_tells_run_epoch_losses_and_the_time_left():
    event = Progress(
        run="student",
        epoch=2,
        epochs=12,
        step=40,
        steps=240,
        fraction=0.2,
        losses={"loss_box": 1.0, "loss_global": 0.5},
        seconds_left=600,
    )
    assert (
        show_events.line(event)
        == "student, epoch 3/12, step 40/240, loss 1.5 (box 1 global 0.5), 10 min left"
    )


def test_durations_and_sizes_are_readable():
    assert [show_text.duration(s) for s in (3, 89, 100, 7200)] == ["3 s", "89 s", "2 min", "2.0 h"]
    assert [show_text.size(count) for count in (400, 2_500_000)] == ["0.4 kB", "2.5 MB"]


def test_a_log_file_gets_one_line_of_progress_in_five_seconds():
    console = Console(file=io.StringIO(), width=40)
    events = [Progress(run="model", epoch=0, epochs=1, step=n, steps=9, fraction=n / 9) for n in range(9)]
    follow(events, console)
    assert console.file.getvalue() == "  0 %  model, epoch 1/1, step 0/9\n"  # type: ignore[attr-defined]


def test_a_terminal_gets_a_bar_and_names_with_brackets_are_no_markup():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    follow([Progress(run="[red]model", epoch=0, epochs=1, step=1, steps=9, fraction=0.5)], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]model" in text
    assert "50%" in text


LOSSES = {
    f"loss_{name}": 1.234 for name in ("classification", "box", "centerness", "global", "local", "response")
}
STANDINGS = {
    "train": Progress(
        run="model",
        epoch=11,
        epochs=120,
        step=12345,
        steps=123456,
        fraction=0.45,
        losses=LOSSES,
        seconds_left=5000,
    ),
    "distill": Progress(
        run="control",
        epoch=2,
        epochs=12,
        step=40,
        steps=240,
        fraction=0.45,
        losses=LOSSES,
        seconds_left=360_000,
    ),
    "prototypes": Progress(
        run="student",
        activity="prototypes",
        epoch=2,
        epochs=120,
        step=4,
        steps=9,
        fraction=0.45,
        seconds_left=60,
    ),
    "evaluate": Progress(
        run="teacher", activity="evaluate", epoch=0, epochs=0, step=0, steps=0, fraction=0.45, seconds_left=5
    ),
    "export": Progress(
        run="model", activity="export", epoch=0, epochs=0, step=0, steps=0, fraction=0.45, seconds_left=89
    ),
    "draw": Progress(
        run="job", activity="draw", epoch=9, epochs=9, step=0, steps=0, fraction=0.45, seconds_left=1
    ),
    "long name": Progress(run="x" * 70, epoch=0, epochs=1, step=1, steps=9, fraction=0.45, seconds_left=12),
}


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("event", STANDINGS.values(), ids=STANDINGS)
def test_bar_percent_and_time_left_are_the_last_to_give_way(event: Progress, width: int):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(ProgressLine(event))
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(line.rstrip()) <= width
    bar, percent, left = line.split()[0], "45%", show_events.time_left(event)
    assert set(bar) <= set("━╸╺ ")
    assert len(bar) >= 3
    assert percent in line
    assert left in line
    assert event.run[:7] in line or show_events.ACTIVITIES.get(event.activity, "") in line, (
        "it says what it does"
    )


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("event", STANDINGS.values(), ids=STANDINGS)
def test_a_narrow_terminal_shows_percent_and_time_left_of_every_kind_of_job(event: Progress, width: int):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    follow([event], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "45%" in text
    assert show_text.duration(event.seconds_left) + " left" in text


def test_losses_are_shortened_before_steps_and_epochs():
    event = STANDINGS["distill"]
    whole = show_events.standing(event, 500)
    assert whole.endswith("loss 7.4 (" + " ".join(f"{n[5:]} 1.23" for n in LOSSES) + ")")
    assert show_events.standing(event, len(whole) - 1).endswith("local 1.23 …)")
    head = "control, epoch 3/12, step 40/240"
    assert show_events.standing(event, len(head) + len(", loss 7.4")) == f"{head}, loss 7.4"
    assert show_events.standing(event, len(head)) == head
    assert show_events.standing(event, len(head) - 1) == "control, epoch 3/12"
    assert show_events.standing(event, 12) == "control 3/12"
    assert show_events.standing(event, 3) == ""


def test_a_state_is_not_said_twice():
    assert (
        show_events.told("queued", "queued: next, waiting for a worker")
        == "queued: next, waiting for a worker"
    )
    assert show_events.told("running", "running on ada") == "running on ada"
    assert show_events.told("queued", "worker ada was lost") == "queued: worker ada was lost"


def test_a_data_set_shows_its_oddities_and_what_its_splits_share(tmp_path: Path):
    draw_shapes(tmp_path, train=12, val=12, size=64, seed=0)
    annotations = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"] = [0, 0, 0, 5]
    annotations.write_text(json.dumps(content))
    for number in range(1, 8):
        name = f"{number:05}.jpg"
        shutil.copy(tmp_path / "images" / "train" / name, tmp_path / "images" / "val" / name)
    text = shown(show_data.examination(examine(DataConfig(path=str(tmp_path)), image_size=64)))
    rows = [line.split() for line in text.splitlines()]
    assert ["pictures", "12", "12"] in rows
    assert ["train", "64", "x", "64", "64", "x", "64", "64", "x", "64", "64", "x", "64", "(12)"] in rows
    assert "box left out: its width or height is not above 0" in text
    assert "7 of 12 pictures of val are in train, too, byte for byte: 00001.jpg and 00001.jpg;" in text
    assert "; and more, see --json" in " ".join(text.split())
    assert "train at 64" in text


def test_workers_are_shown_with_their_gpus():
    gpu = Gpu(
        index=3, uuid="GPU-1", name="H200", memory_total=140 * 10**9, memory_used=7 * 10**9, utilisation=93
    )
    now = datetime.now(UTC)
    worker = Worker(
        name="node-0",
        host="node",
        version="1",
        queues=("gpu", "cpu"),
        gpus=(gpu,),
        state=WorkerState.BUSY,
        job_id="cafe",
        started_at=now,
        seen_at=now,
    )
    text = shown(show_jobs.workers_table((worker,)))
    assert "node-0" in text
    assert "busy" in text
    assert "cafe" in text
    assert "3  H200" in text
    assert "at work 93 % 7.0 GB of 140.0" in text


def test_curves_are_told_by_where_they_began_and_are_and_their_ends():
    run = RunCurves(
        losses={"loss_cls": Curve(x=(10, 20, 30), y=(2.0, 0.5, 1.0))},
        evaluation={"AP": Curve(x=(1, 2), y=(0.25, 0.5))},
        per_class={"cat": Curve(x=(1,), y=(0.125,))},
    )
    rows = [
        line.split() for line in shown(show_jobs.curves_table(JobCurves(runs={"student": run}))).splitlines()
    ]
    assert rows[1:] == [
        ["student", "loss_cls", "step", "10", "step", "30", "2", "0.5", "2", "1"],
        ["student", "AP", "epoch", "1", "epoch", "2", "0.25", "0.25", "0.5", "0.5"],
        ["student", "AP", "cat", "epoch", "1", "epoch", "1", "0.125", "0.125", "0.125", "0.125"],
    ]


def test_a_job_shows_what_its_check_found():
    assert "warnings" not in shown(show_jobs.job_card(job()))
    warned = job(warnings=("3 boxes have no area", "val.json is old"))
    lines = shown(show_jobs.job_card(warned)).splitlines()
    (first,) = [line for line in lines if "warnings" in line]
    assert "3 boxes have no area" in first
    assert "val.json is old" in lines[lines.index(first) + 1]


def test_what_people_changed_of_a_job_is_part_of_its_story():
    def line(kind: str, **body: object) -> str:
        time = datetime(2026, 1, 1, tzinfo=UTC)
        return show_events.stored_line(StoredEvent(number=1, attempt=1, time=time, kind=kind, body=body))

    assert line("change", name="cells", priority=9, tags={"team": "lab"}) == (
        "changed: name cells, priority 9, tags team:lab"
    )
    assert line("request", desired="run") == "no longer asked to pause"
    assert line("request", desired="pause") == "asked to pause"


# ---- 80 columns ------------------------------------------------------------------------------------------

NOW = datetime.now(UTC)
WHY = "queued: 3 ahead, but no worker serves queue gpu2, and " + "this goes on and on, " * 20


def job(**known: Any) -> Job:
    fields: dict[str, Any] = {
        "id": "4f1c0a9be27d",
        "name": "student number 17 of 24, wide, seed 3",
        "kind": "prototypes",
        "state": "queued",
        "desired": "run",
        "reason": WHY,
        "created_at": NOW,
        **dict.fromkeys(("priority", "attempt"), 0),
        **{name: {} for name in ("tags", "spec", "resolved")},
        **dict.fromkeys(("waits_for", "attempts"), ()),
        **dict.fromkeys(("worker", "lease_until", "started_at", "finished_at", "progress"), None),
        **dict.fromkeys(("evaluation", "failure"), None),
        "queue": "gpu2",
    }
    return Job(**{**fields, **known})


def test_a_long_reason_takes_two_lines_of_the_list_and_all_it_needs_of_the_job():
    running = job(state="running", reason="running on " + "n" * 90, progress={"fraction": 0.456})
    lines = shown(show_jobs.jobs_table((job(), running, job(reason="queued: next"))), 80).splitlines()
    assert len(lines) <= 1 + 2 + 2 + 1
    assert all(len(line) <= 80 for line in lines)
    rows = [line for line in lines if line.startswith("4f1c0a9be27d ")]
    assert len(rows) == 3
    assert "running 46%" in rows[1]
    assert rows[2].split("queued")[1].split()[0] == "next", "the state is not said twice"
    assert sum(line.rstrip().endswith("…") for line in lines) == 2, "what was left out is marked"
    assert " ".join(WHY.split()) in " ".join(shown(show_jobs.job_card(job()), 80).split()), (
        "here all of it stands"
    )


def test_tables_of_workers_data_sets_and_files_keep_what_is_copied_whole_in_80_columns():
    worker = Worker(
        name="node-17.cluster.example.org-0",
        host="node",
        version="1",
        queues=("gpu8", "gpu4", "gpu2", "gpu", "cpu"),
        gpus=(Gpu(index=3, uuid="GPU-1", name="NVIDIA H200 141GB HBM3e", memory_total=140 * 10**9),),
        state=WorkerState.BUSY,
        job_id="4f1c0a9be27d",
        started_at=NOW,
        seen_at=NOW,
    )
    data_set = Resource(
        id="a" * 12,
        kind=ResourceKind.DATASET,
        name="blood cells of the other laboratory, second visit",
        state=ResourceState.READY,
        reason=WHY,
        uploaded=False,
        path="/srv/data/" + "folder/" * 20,
        layout=None,
        size=123_456_789,
        sha256=None,
        created_at=NOW,
        checked_at=None,
    )
    file = Artifact(name="student-last.safetensors", size=12_345_678, sha256="ab" * 32, created_at=NOW)
    for table, whole, most in (
        (show_jobs.workers_table((worker,)), "4f1c0a9be27d", 4),
        (show_resources.resources_table((data_set,)), f"dataset:{'a' * 12}", 3),
        (show_jobs.artifacts_table((file,)), "student-last.safetensors", 2),
    ):
        text = shown(table, 80)
        assert whole in text
        assert len(text.splitlines()) <= most
        assert all(len(line) <= 80 for line in text.splitlines())
        assert "…" not in shown(table, 220), "where there is room, nothing is left out"


def test_ids_of_keys_are_whole_in_80_columns():
    key = Key(
        id="4f1c0a9be27d",
        tenant="laboratory",
        name="ada of the lab",
        scopes=(Scope.READ, Scope.WRITE),
        **dict.fromkeys(("created_at", "expires_at", "used_at", "revoked_at"), NOW),
    )
    assert "4f1c0a9be27d" in shown(key_table((key,)), 80)
