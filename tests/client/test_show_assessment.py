"""All numbers of a report, as `gkd report` prints them."""

from __future__ import annotations

import io

from rich.console import Console

from client.show_assessment import complete
from gkd_core.events import (
    Assessed,
    Calibration,
    Confusion,
    Latency,
    ModelReport,
    OperatingPoint,
    Report,
    Scores,
)

METRICS = {"AP": 0.31, "AP50": 0.52, "ARl": 0.61, "VOC07": 0.55, "APs": -1.0}


def assessed(classes: tuple[str, ...]) -> Assessed:
    """Return an assessment with a confusion of the first class with the second."""
    first, second, *others = classes
    return Assessed(
        operating_points={
            first: OperatingPoint(threshold=0.42, precision=0.9, recall=0.8, f1=0.847),
            second: None,
        },
        precision_recall={},
        confusion=Confusion(
            threshold=0.37,
            detected={first: {first: 71, second: 13}, **{name: {name: 5} for name in (second, *others)}},
            missed=dict.fromkeys(classes, 0) | {first: 9},
            false_alarms=dict.fromkeys(classes, 0) | {second: 17},
        ),
        calibration=Calibration(error=0.123, bins=()),
    )


def report(classes: tuple[str, ...] = ("cat", "dog"), *, test: bool = False) -> Report:
    scores = Scores(metrics=METRICS, per_class=dict.fromkeys(classes, 0.25), assessment=assessed(classes))
    model = ModelReport(
        architecture="fcos",
        backbone="resnet18",
        parameters=1,
        gflops=1.0,
        latency_ms=Latency(median=1.0, low=1.0, high=1.0, device="cpu"),
        test=scores.model_copy(update={"metrics": {"AP": 0.29}}) if test else None,
        **dict(scores),
    )
    return Report(models={"student": model, "teacher": model.model_copy(update={"metrics": {"AP": 0.4}})})


def rows(shown: Report, width: int = 100) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(complete(shown))
    return [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_every_metric_has_a_row_with_the_models_in_order() -> None:
    shown = rows(report())
    assert ["teacher", "student"] in shown
    assert ["AP", "0.400", "0.310"] in shown
    assert ["ARl", "-", "0.610"] in shown
    assert ["APs", "-", "-"] in shown
    assert ["calibration", "error", "0.123", "0.123"] in shown


def test_every_class_has_its_ap_and_its_best_threshold() -> None:
    shown = rows(report())
    assert ["cat", "teacher", "0.250", "0.420", "0.900", "0.800", "0.847"] in shown
    assert ["student", "0.250", "-", "-", "-", "-"] in shown  # nothing found of the second class


def test_the_confusion_matrix_ends_with_the_background() -> None:
    shown = rows(report())
    assert ["cat", "dog", "background"] in shown
    assert ["cat", "71", "13", "9"] in shown
    assert ["background", "-", "17", "-"] in shown


def test_a_class_may_be_named_like_a_colour_of_the_terminal() -> None:
    assert ["[red]", "[/red]", "background"] in rows(report(("[red]", "[/red]")))


def test_of_many_classes_the_most_frequent_errors_are_told() -> None:
    shown = rows(report(tuple(f"class{number}" for number in range(11))))
    errors = [" ".join(row) for row in shown[-3:]]
    assert errors == [
        "17 class1 detected where none is",
        "13 class0 detected as class1",
        "9 class0 missed",
    ]


def test_the_test_split_has_the_same_tables() -> None:
    shown = rows(report(test=True))
    assert ["on", "val"] in shown
    assert ["AP", "0.290", "0.290"] in shown[shown.index(["on", "test"], 5) :]


def test_a_report_of_an_older_version_has_no_thresholds_and_is_shown() -> None:
    told = report()
    older = {role: model.model_copy(update={"assessment": None}) for role, model in told.models.items()}
    shown = rows(told.model_copy(update={"models": older}))
    assert ["cat", "teacher", "0.250", "-", "-", "-", "-"] in shown
    assert not [row for row in shown if "calibration" in row]


def test_all_fits_a_terminal_of_80_columns() -> None:
    assert ["cat", "teacher", "0.250", "0.420", "0.900", "0.800", "0.847"] in rows(report(), width=80)
