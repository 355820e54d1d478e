"""A report, split by split: what terminal and page show of each model on the validation and on the test split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gkd_core.events import Confusion, Report, Scores, in_order

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRICS = (*COCO_METRICS, "VOC07", "VOC12")


class SplitScores(NamedTuple):
    """The models on one split."""

    split: str
    models: dict[str, Scores]
    """By role, in the order of `gkd_core.events.ROLES`; of models that have metrics."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes in the report's order."""
        return tuple(dict.fromkeys(name for scores in self.models.values() for name in scores.per_class))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the metrics that any model has, in their usual order."""
        return tuple(name for name in METRICS if any(name in one.metrics for one in self.models.values()))


def by_split(report: Report) -> Iterator[SplitScores]:
    """Yield the scores on each split on which some model was scored."""
    models = {role: report.models[role] for role in in_order(report.models)}
    first = {
        role: Scores(
            metrics=model.metrics,
            per_class=model.per_class,
            per_class_voc=model.per_class_voc,
            assessment=model.assessment,
        )
        for role, model in models.items()
        if model.metrics
    }
    test = {role: model.test for role, model in models.items() if model.test}
    for split, found in ((str(report.split), first), ("test", test)):
        if found:
            yield SplitScores(split, found)


def confusion_rows(
    confusion: Confusion, classes: tuple[str, ...]
) -> Iterator[tuple[str | None, tuple[int, ...]]]:
    """Yield annotated class and counts by detected class, background last; the last row is the background's (None)."""
    for name in classes:
        detected: Mapping[str, int] = confusion.detected.get(name, {})
        yield name, (*(detected.get(other, 0) for other in classes), confusion.missed.get(name, 0))
    yield None, (*(confusion.false_alarms.get(name, 0) for name in classes), 0)
