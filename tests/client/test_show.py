"""What people see."""

from __future__ import annotations

import io
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from client import show
from client.follow import follow
from gkd_core.config import DataConfig
from gkd_core.data.examine import examine
from gkd_core.data.shapes import draw_shapes
from gkd_core.events import Gain, Latency, ModelReport, Progress, Report
from jobs.curves import Curve, JobCurves, RunCurves
from jobs.job import StoredEvent
from jobs.presence import Gpu, Worker, WorkerState


def shown(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=200)
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
    text = shown(show.report(Report(models=models, gain=gain, notes=("one seed",))))
    rows = [line.split()[0] for line in text.splitlines()[1:4]]
    assert rows == ["teacher", "control", "student"]
    assert "0.350" in text
    assert "student minus control: +0.050 AP (95 % interval +0.010 to +0.090)" in text
    assert "It helped." in text
    assert "one seed" in text


def test_a_report_shows_size_spread_and_the_numbers_that_the_format_has():
    measured = model(0.4).model_copy(update={"size": 12_700_000, "metrics": {"AP": 0.4, "VOC07": 0.61}})
    figures = ("losses.png", "pictures.png")
    told = Report(models={"model": measured}, headline=("AP", "VOC07"), figures=figures)
    text = shown(show.report(told))
    assert "VOC07" in text.splitlines()[0]
    assert all(part in text for part in ("0.610", "12.7 MB", "12.5 (12.0 to 13.0)"))
    assert "to look at: losses.png, pictures.png" in text


def test_a_number_that_coco_does_not_have_is_a_dash():
    assert show.number(-1.0) == show.number(None) == "-"


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
    assert show.line(event) == "student, epoch 3/12, step 40/240, loss 1.5 (box 1 global 0.5), 10 min left"


def test_durations_and_sizes_are_readable():
    assert [show.duration(s) for s in (3, 89, 100, 7200)] == ["3 s", "89 s", "2 min", "2.0 h"]
    assert [show.size(count) for count in (400, 2_500_000)] == ["0.4 kB", "2.5 MB"]


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


def test_a_state_is_not_said_twice():
    assert show.told("queued", "queued: next, waiting for a worker") == "queued: next, waiting for a worker"
    assert show.told("running", "running on ada") == "running on ada"
    assert show.told("queued", "worker ada was lost") == "queued: worker ada was lost"


def test_a_data_set_shows_its_oddities_and_what_its_splits_share(tmp_path: Path):
    draw_shapes(tmp_path, train=12, val=12, size=64, seed=0)
    annotations = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"] = [0, 0, 0, 5]
    annotations.write_text(json.dumps(content))
    for number in range(1, 8):
        name = f"{number:05}.jpg"
        shutil.copy(tmp_path / "images" / "train" / name, tmp_path / "images" / "val" / name)
    text = shown(show.examination(examine(DataConfig(path=str(tmp_path)), image_size=64)))
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
    text = shown(show.workers_table((worker,)))
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
    rows = [line.split() for line in shown(show.curves_table(JobCurves(runs={"student": run}))).splitlines()]
    assert rows[1:] == [
        ["student", "loss_cls", "step", "10", "step", "30", "2", "0.5", "2", "1"],
        ["student", "AP", "epoch", "1", "epoch", "2", "0.25", "0.25", "0.5", "0.5"],
        ["student", "AP", "cat", "epoch", "1", "epoch", "1", "0.125", "0.125", "0.125", "0.125"],
    ]


def test_what_people_changed_of_a_job_is_part_of_its_story():
    def line(kind: str, **body: object) -> str:
        time = datetime(2026, 1, 1, tzinfo=UTC)
        return show.stored_line(StoredEvent(number=1, attempt=1, time=time, kind=kind, body=body))

    assert line("change", name="cells", priority=9, tags={"team": "lab"}) == (
        "changed: name cells, priority 9, tags team:lab"
    )
    assert line("request", desired="run") == "no longer asked to pause"
    assert line("request", desired="pause") == "asked to pause"
