"""The figures of a run: right after any history, readable with any class names; an error in one never ends a job."""

from __future__ import annotations

import ast
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

import gkd_core.figures
from gkd_core.config import DistillRun, TrainRun
from gkd_core.data.records import ImageRecord
from gkd_core.detectors.checkpoint import sha256_of
from gkd_core.evaluation.coco import Score, score
from gkd_core.events import Event, FileWritten, Progress, Report, Warning
from gkd_core.figures.bars import draw_class_bars
from gkd_core.figures.boxes import FALSE_ALARM, HIT, IGNORED, MISSED, Drawn, with_boxes
from gkd_core.figures.curves import draw_losses, draw_scores
from gkd_core.figures.gallery import Cuttings, draw_outliers, draw_prototypes
from gkd_core.figures.history import RunHistory, read_history
from gkd_core.figures.pictures import Found, choose_pictures, draw_pictures, found_on
from gkd_core.figures.style import at_most, shown
from gkd_core.process.engine import EventLog
from gkd_core.runs.figures import Figure, draw, to_png
from gkd_core.runs.session import Session
from gkd_core.train import train

STRANGE = (
    "$\\nonsense{$",
    "a _ ^ \\ % & # {",
    "red\ncell\t\x00",
    "x" * 199 + "1",
    "x" * 199 + "2",
    "Эритроцит",
    "红细胞",
    "🦠 \u202eabc",
    " ",
)
TALLEST = 3000
"""Largest height in pixels."""

Make = Callable[..., TrainRun | DistillRun]


# ---- a whole run -----------------------------------------------------------------------------------------


def carried_out(run: TrainRun | DistillRun, folder: Path) -> list[Event]:
    """Return the events of a run, written to a file as the engine process does."""
    told = []
    folder.mkdir(exist_ok=True)
    with EventLog(folder / "events.jsonl") as log:
        for event in train(run, folder):
            log.append(event)
            told.append(event)
    return told


def files(events: list[Event]) -> dict[str, FileWritten]:
    return {event.file: event for event in events if isinstance(event, FileWritten)}


def test_a_distill_job_draws_all_and_again_the_same_bytes_when_it_was_killed_at_its_end(
    distill: Make, tmp_path: Path
) -> None:
    run, folder = distill(epochs=1), tmp_path / "run"
    events = carried_out(run, folder)
    told = files(events)
    assert set(told) == {
        "losses.png",
        "scores.png",
        "classes.png",
        "pictures.png",
        "student-prototypes.png",
        "student-least-alike.png",
    }
    for name, event in told.items():
        assert event.sha256 == sha256_of(folder / name)
        assert event.size == (folder / name).stat().st_size < 3e6
        with Image.open(folder / name) as image:
            assert image.format == "PNG"
            assert 400 < image.width < 2000
            assert 200 < image.height < TALLEST
            assert not image.info  # no software, no time of writing: the same picture gives the same bytes
    assert isinstance(events[-1], Report)
    assert set(events[-1].figures) == set(told)
    assert not [event for event in events if isinstance(event, Warning) and "drawn" in event.message]
    again = files(carried_out(run, folder))
    assert {name: event.sha256 for name, event in again.items()} == {n: e.sha256 for n, e in told.items()}


class Nobody:
    """The attributes of a run that drawing needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stop_if_asked(self) -> None:
        """Do nothing: there is no request to stop."""


def drawn_in(folder: Path, *figures: Figure) -> tuple[list[Event], tuple[str, ...]]:
    """Return the events and files of some figures."""
    base = Progress(run="student", epoch=1, epochs=1, step=3, steps=3, fraction=1)
    events, drawing = [], draw(cast(Session, Nobody(folder)), figures, base)
    while True:
        try:
            events.append(next(drawing))
        except StopIteration as end:
            return events, end.value


def a_figure(file: str, make: Callable[[], Image.Image | None]) -> Figure:
    return Figure(file, "a title", "job", make)


def test_a_figure_that_fails_is_a_warning_and_the_others_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> Image.Image:
        raise MemoryError("no ink")

    white = a_figure("white.png", lambda: Image.new("RGB", (9, 9), "white"))
    nothing = a_figure("nothing.png", lambda: None)
    events, files = drawn_in(tmp_path, a_figure("broken.png", fails), nothing, white)
    assert files == ("white.png",)
    assert [path.name for path in tmp_path.iterdir()] == ["white.png"]
    (warning,) = [event for event in events if isinstance(event, Warning)]
    assert warning.message == "broken.png could not be drawn: MemoryError: no ink"
    assert "Traceback" in capsys.readouterr().err  # log.txt
    assert {event.activity for event in events if isinstance(event, Progress)} == {"draw"}


def test_without_matplotlib_there_is_one_warning_that_says_how_to_get_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it fails
    white = a_figure("white.png", lambda: Image.new("RGB", (9, 9), "white"))
    events, files = drawn_in(tmp_path, white, white)
    assert files == ()
    (warning,) = events
    assert isinstance(warning, Warning)
    assert "matplotlib is not installed" in warning.message
    assert "pip install matplotlib" in warning.hint


def test_matplotlib_is_imported_inside_functions_only() -> None:
    package = Path(gkd_core.figures.__file__).parent
    for path in package.glob("*.py"):
        imports = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not [node for node in imports if "matplotlib" in ast.unparse(node)], path


# ---- history ---------------------------------------------------------------------------------------------


def progress(step: int, loss: float | None, activity: str = "train") -> dict[str, Any]:
    losses = {} if loss is None else {"loss": loss}
    place = {"epoch": 0, "epochs": 2, "step": step, "steps": 100}
    return {"kind": "progress", "run": "student", "activity": activity, "losses": losses, **place}


def written(path: Path, *events: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_steps_that_a_killed_attempt_told_of_and_lost_are_forgotten(tmp_path: Path) -> None:
    killed = [progress(10, 5.0), progress(20, 4.0), progress(30, 3.0), progress(40, 2.5)]
    resumed = [progress(20, None), progress(28, 3.5), progress(40, 2.0)]
    path = written(tmp_path / "events.jsonl", *killed, *resumed)
    losses = read_history(path)["student"].losses
    assert losses == {10: {"loss": 5.0}, 20: {"loss": 4.0}, 28: {"loss": 3.5}, 40: {"loss": 2.0}}


def test_torn_lines_and_what_is_no_training_are_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", progress(10, 5.0), progress(10, 5.0, "evaluate"))
    with path.open("a") as file:
        file.write('{"kind": "progress", "run": "stu\n[]\n')
        file.write(json.dumps({"kind": "warning", "message": "x", "hint": ""}) + "\n")
        file.write(json.dumps(progress(20, 4.0)))
    assert list(read_history(path)["student"].losses) == [10, 20]
    assert read_history(tmp_path / "nothing") == {}


def test_the_last_word_on_an_epoch_counts(tmp_path: Path) -> None:
    def evaluation(epoch: int, ap: float) -> dict[str, Any]:
        return {"kind": "evaluation", "run": "student", "epoch": epoch, "metrics": {"AP": ap}}

    def best(epoch: int, is_best: bool) -> dict[str, Any]:
        return {"kind": "checkpoint", "run": "student", "epoch": epoch, "best": is_best}

    path = written(
        tmp_path / "events.jsonl", evaluation(1, 0.1), evaluation(1, 0.2), best(1, True), best(2, False)
    )
    history = read_history(path)["student"]
    assert history.evaluations == {1: {"AP": 0.2}}
    assert history.best == 1


def test_curves_of_any_length_are_drawn() -> None:
    for points in (1, 1000):
        long = RunHistory(
            losses={step: {"loss_a": 1e3 / (step + 1), "loss_b": 0.0} for step in range(points)},
            evaluations={epoch: {"AP": 0.1, "AP50": -1.0} for epoch in range(1, points)},
            errors={epoch: {"8": 0.5} for epoch in range(points)},
            epochs=points,
            steps=points,
        )
        assert draw_losses({"student": long, "control": long}) is not None
        drawn = draw_scores({"student": long}, {"AP": 0.5, "AP50": -1}, "VOC07")
        assert (drawn is None) == (points == 1)
    assert draw_losses({}) is None


# ---- names and numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [STRANGE, tuple(f"class {i}" for i in range(80)), ("only",)])
@pytest.mark.parametrize("roles", [("teacher", "control", "student")])
def test_bars_stay_readable(classes: tuple[str, ...], roles: tuple[str, ...]) -> None:
    random = np.random.default_rng(0)
    per_class = {role: dict(zip(classes, random.random(len(classes)), strict=True)) for role in roles}
    image = draw_class_bars(per_class, classes, [3] * len(classes))
    assert image is not None
    assert image.height < TALLEST
    assert image.width < 2000


def test_of_too_many_classes_those_are_shown_on_which_the_models_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gkd_core.figures import bars

    classes = [f"class {number}" for number in range(1203)]
    control = dict.fromkeys(classes, 0.5)
    student = control | {f"class {number}": 0.9 for number in range(1000, 1050)}
    order = bars._order({"control": control, "student": student}, ["control", "student"], classes)
    assert len(order) == bars.MOST
    assert set(range(1000, 1050)) <= set(order)
    image = draw_class_bars({"control": control, "student": student}, classes, [1] * 1203)
    assert image is not None
    assert image.height < TALLEST


def test_a_class_without_objects_has_no_bar() -> None:
    from gkd_core.figures import bars

    assert bars._order({"model": {"a": -1, "b": 0.0}}, ["model"], ["a", "b"]) == [1]
    assert draw_class_bars({"model": {"a": -1}}, ["a"], [0]) is None


def test_names_are_shown_on_one_line_and_told_apart_where_letters_lack() -> None:
    assert shown("red\ncell\t") == "red cell"
    assert shown("Эритроцит", 2) == "Эритроцит"
    assert shown("红细胞", 3) == "#3 \ufffd\ufffd\ufffd"
    assert shown(" ", 4) == "#4 "


def test_long_names_keep_their_start_and_their_end() -> None:
    assert at_most("short", 9) == "short"
    assert at_most("x" * 199 + "1", 9) == "xxxxxx…x1"
    assert at_most("anything", 0) == "…"


# ---- galleries -------------------------------------------------------------------------------------------

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


@pytest.fixture
def cuttings(tmp_path: Path) -> Cuttings:
    """Return three grey pictures, each with a square of its own colour at (40, 20) to (60, 40).

    The last is stored smaller.
    """

    def opened(path: Path, white: int | None) -> Image.Image:
        number = int(path.stem)
        image = Image.new("RGB", (100, 80), "grey")
        image.paste(COLOURS[number], (40, 20, 60, 40))
        return image.reduce(2) if number == 2 else image

    return Cuttings([record(number, []) for number in range(3)], opened)


def record(number: int, boxes: list[tuple[float, ...]], crowd: tuple[bool, ...] = ()) -> ImageRecord:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return ImageRecord(
        image_id=number,
        path=Path(f"{number}.png"),
        width=100,
        height=80,
        boxes=array,
        labels=np.ones(len(array), dtype=np.int64),
        crowd=np.array(crowd or [False] * len(array), dtype=np.bool_),
        area=(array[:, 2:] - array[:, :2]).prod(axis=1),
    )


def entry(name: str, number: int, **more: Any) -> dict[str, Any]:
    return {
        "class": name,
        "image_id": number % 3,
        "file": f"{number % 3}.png",
        "box": [40, 20, 60, 40],
        **more,
    }


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_object_is_cut_out_of_its_own_picture_at_its_own_place(cuttings: Cuttings, number: int) -> None:
    tile = np.asarray(cuttings.cut(entry("a", number), 60, around=0.5))
    assert tile.shape == (60, 60, 3)
    assert tile[30, 30].tolist() == list(COLOURS[number])
    assert tile[30, 3].tolist() == [128, 128, 128]


@pytest.mark.parametrize("told", ["first", 2**63, 0])
def test_an_object_is_found_by_the_id_that_people_know(told: int | str) -> None:
    pictures = [replace(record(1, []), source_id=told), replace(record(2, []), source_id="other")]
    cuttings = Cuttings(pictures, lambda path, white: Image.new("RGB", (100, 80), COLOURS[int(path.stem)]))
    tile = np.asarray(cuttings.cut({**entry("a", 0), "image_id": told}, 60, around=0.5))
    assert tile[30, 30].tolist() == list(COLOURS[1])


@pytest.mark.parametrize("box", [[0, 0, 1, 1], [99, 79, 100, 80], [-5, -5, 300, 300], [0, 40, 100, 40.2]])
def test_boxes_at_and_over_the_border_are_cut_out_too(cuttings: Cuttings, box: list[float]) -> None:
    assert cuttings.cut({**entry("a", 0), "box": box}, 60, around=0.5).size == (60, 60)


def row_colours(image: Image.Image, y: int) -> list[tuple[int, ...]]:
    """Return the colours of the objects along a row of pixels, in order."""
    seen = [tuple(pixel) for pixel in np.asarray(image)[y].tolist()]
    found = [pixel for pixel in seen if pixel in COLOURS]
    return [pixel for at, pixel in enumerate(found) if at == 0 or found[at - 1] != pixel]


def test_the_prototype_that_explains_most_comes_first(cuttings: Cuttings) -> None:
    shares = {0: 0.1, 1: 0.4, 2: 0.2}
    told = {
        "epoch": 3,
        "levels": {"8": [entry("a", number, share=share) for number, share in shares.items()]},
    }
    image = draw_prototypes(told, ["a"], cuttings)
    assert image is not None
    middle = image.height - 20 - 20 - 8 - 44  # margin, caption and gap below half a tile
    assert row_colours(image, middle) == [COLOURS[1], COLOURS[2], COLOURS[0]]


@pytest.mark.parametrize("classes", [STRANGE, tuple(f"class {i}" for i in range(80)), ("a",)])
@pytest.mark.parametrize("per_class", [1, 10, 100])
def test_a_gallery_of_many_classes_is_no_monster(
    cuttings: Cuttings, classes: tuple[str, ...], per_class: int
) -> None:
    entries = [entry(name, number, share=0.1) for name in classes for number in range(per_class)]
    told = {"epoch": 3, "levels": {"8": entries, "16": entries, "32": entries}}
    image = draw_prototypes(told, classes, cuttings)
    assert image is not None
    assert image.height < TALLEST
    assert image.width < 1300


def test_what_a_gallery_leaves_out_is_said() -> None:
    from gkd_core.figures.gallery import _chosen, _rows

    classes = [f"class {number}" for number in range(30)]
    weak = [entry(name, 0, share=0.1) for name in classes]
    strong = [entry(name, 0, share=0.2) for name in classes]
    rows, said = _chosen(_rows({"8": weak, "16": strong}, classes))
    assert [row.name for row in rows] == classes[:24]
    assert {row.level for row in rows} == {"16"}
    assert said == "Of each class that level where these shares are largest; the first 24 of 30 classes."
    assert _chosen(_rows({"8": weak[:3], "16": strong[:3]}, classes)[:6])[1] == ""


def test_outliers_of_any_number_are_laid_out(cuttings: Cuttings) -> None:
    for count in (1, 7, 24):
        entries = [entry(STRANGE[at % 9], at, robustness=0.1 * at, level="8") for at in range(count)]
        image = draw_outliers({"epoch": 1, "levels": {}, "least_alike": entries}, STRANGE, cuttings)
        assert image is not None
        assert image.height < 1300
    assert draw_outliers({"epoch": 1, "levels": {}}, STRANGE, cuttings) is None
    assert draw_prototypes({"epoch": 1, "levels": {"8": []}}, STRANGE, cuttings) is None


# ---- pictures with boxes ---------------------------------------------------------------------------------

OBJECT, ELSEWHERE = (40.0, 20.0, 60.0, 40.0), (0.0, 0.0, 20.0, 20.0)
PICTURES = [record(number, [OBJECT]) for number in range(8)]


def found(*boxes: tuple[float, ...]) -> dict[str, np.ndarray]:
    count = len(boxes)
    return {
        "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
        "labels": np.ones(count, dtype=np.int64),
        "scores": 0.9 - 0.1 * np.arange(count),
    }


def scored(detections: dict[int, dict[str, np.ndarray]], images: list[ImageRecord] = PICTURES) -> Score:
    return score(images, ("cat",), detections)


def test_first_come_the_pictures_on_which_student_and_control_differ_most() -> None:
    student = scored({number: found(OBJECT) for number in range(8)})
    control = scored({number: found(OBJECT) for number in range(8) if number not in (5, 2)})
    models = [Found.of("control", control), Found.of("student", student)]
    chosen = choose_pictures(models, PICTURES)
    assert [at for at, _ in chosen] == [2, 5, 0, 1, 3]
    assert chosen[0][1] == "student and control differ much here (control F1 0.00, student F1 1.00)"
    assert chosen[2][1] == "typical (control F1 1.00, student F1 1.00)"


def test_without_a_control_the_hardest_pictures_come_first() -> None:
    model = scored({number: found(OBJECT) for number in range(8) if number != 6})
    assert [at for at, _ in choose_pictures([Found.of("model", model)], PICTURES)] == [6, 0, 1, 2]


def test_hits_false_alarms_and_misses_are_told_apart() -> None:
    images = [record(0, [OBJECT, (70.0, 50.0, 90.0, 70.0), (5.0, 50.0, 30.0, 75.0)], (False, False, True))]
    result = scored({0: found(OBJECT, ELSEWHERE, (5.0, 50.0, 30.0, 75.0))}, images)
    drawn = found_on(Found("student", result, 0.0), 0, images[0], ("cat",))
    assert [box.colour for box in drawn] == [HIT, FALSE_ALARM, IGNORED, MISSED]
    assert drawn[0] == Drawn(OBJECT, HIT, "cat 0.90")
    assert drawn[3].box == (70, 50, 90, 70)
    above = found_on(Found("student", result, 0.85), 0, images[0], ("cat",))
    assert [box.colour for box in above] == [HIT, MISSED]


def test_boxes_lie_where_they_are_and_names_do_not_cover_each_other() -> None:
    grey = Image.new("RGB", (200, 160), "grey")
    image = np.asarray(with_boxes(grey, [Drawn(OBJECT, HIT, "")], 2.0))
    assert image[60, 80].tolist() == [0, 114, 178]  # the left edge, at twice the size
    assert image[60, 100].tolist() == [128, 128, 128]
    one = with_boxes(grey, [Drawn(OBJECT, HIT, "cat 0.90")], 2.0)
    crowded = with_boxes(grey, [Drawn(OBJECT, HIT, "cat 0.90")] * 9, 2.0)
    coloured = [int((np.asarray(picture) == (0, 114, 178)).all(axis=2).sum()) for picture in (one, crowded)]
    assert coloured[0] < coloured[1] < 4 * coloured[0]  # three places at most, then no more names


def test_pictures_of_any_shape_and_models_without_a_find_are_drawn() -> None:
    opened = lambda path, white: Image.new("RGB", (100, 80))  # noqa: E731
    nothing = {"teacher": scored({}), "control": scored({}), "student": scored({})}
    assert draw_pictures(nothing, ("cat",), PICTURES, opened) is not None
    empty = [record(0, [])]
    assert draw_pictures({"model": scored({}, empty)}, ("cat",), empty, opened) is None


def test_the_same_picture_gives_the_same_bytes() -> None:
    image = Image.effect_noise((50, 50), 30).convert("RGB")
    assert to_png(image) == to_png(image.copy())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(to_png(image)))), np.asarray(image))
