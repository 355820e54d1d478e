"""Which figures a run gets, and how they are written and reported.

A figure that cannot be drawn leads to a warning and never fails a run.
"""

from __future__ import annotations

import hashlib
import io
import json
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gkd_core.evaluation.coco import Score
from gkd_core.events import Event, FileWritten, Progress, Warning
from gkd_core.figures.bars import draw_class_bars
from gkd_core.figures.curves import draw_losses, draw_scores
from gkd_core.figures.gallery import Cuttings, draw_outliers, draw_prototypes
from gkd_core.figures.history import read_history
from gkd_core.figures.pictures import draw_pictures
from gkd_core.run_dir import RunDir, write_atomically
from gkd_core.runs.session import Session


class Figure(NamedTuple):
    """A figure that is to be drawn."""

    file: str
    title: str
    """What it shows, in a sentence."""
    run: str
    """The training that it belongs to, or "job"."""
    draw: Callable[[], Image.Image | None]
    """Draws the figure; returns None if there is nothing to show."""


def draw_training(
    session: Session, scores: Mapping[str, Score], best_by: str, base: Progress
) -> Generator[Event, None, tuple[str, ...]]:
    """Draw the figures of a train or distill job.

    Args:
        session: the running job; its data is read, its folder holds events and prototypes.
        scores: of the published models, by role.
        best_by: the metric by which the best epoch was chosen.
        base: progress that is reported meanwhile.

    Returns:
        The files that were written.
    """
    wanted = [*training_figures(session, scores, best_by), *prototype_figures(session, "student")]
    return (yield from draw(session, wanted, base))


def training_figures(session: Session, scores: Mapping[str, Score], best_by: str) -> list[Figure]:
    """Return curves, bars, and images of the validation split."""
    images, classes = session.data.val.images, session.classes
    history = read_history(RunDir(session.folder).events)
    teacher = scores["teacher"].metrics if "teacher" in scores else None
    per_class = {role: score.per_class for role, score in scores.items()}
    objects = next(iter(scores.values())).matches.objects.tolist()
    return [
        Figure(
            "losses.png",
            "every loss over the steps of training",
            "job",
            lambda: draw_losses(history),
        ),
        Figure(
            "scores.png",
            "what was reached on the validation split, epoch by epoch",
            "job",
            lambda: draw_scores(history, teacher, best_by),
        ),
        Figure(
            "classes.png",
            "AP of every class",
            "job",
            lambda: draw_class_bars(per_class, classes, objects),
        ),
        Figure(
            "pictures.png",
            "the same validation pictures through every model, with boxes",
            "job",
            lambda: draw_pictures(scores, classes, images, session.cache.get),
        ),
    ]


def prototype_figures(session: Session, run: str) -> list[Figure]:
    """Return the prototypes of a run, and the objects of lowest robustness; none without prototypes."""
    path = session.folder / f"{run}-prototypes.json"
    if not path.exists():
        return []
    pictures = Cuttings(session.data.train.images, session.cache.get)
    return [
        Figure(
            f"{run}-prototypes.png",
            "the prototypes, cut out of their pictures",
            run,
            lambda: draw_prototypes(json.loads(path.read_bytes()), session.classes, pictures),
        ),
        Figure(
            f"{run}-least-alike.png",
            "the training objects that teacher and student see least alike",
            run,
            lambda: draw_outliers(json.loads(path.read_bytes()), session.classes, pictures),
        ),
    ]


# ---- writing ---------------------------------------------------------------------------------------------


def draw(
    session: Session, figures: Sequence[Figure], base: Progress
) -> Generator[Event, None, tuple[str, ...]]:
    """Draw figures one by one, write them into the run's folder and report each; return the names of those written.

    Raises:
        StoppedError: the run was asked to stop.
    """
    if not is_possible():
        message = "there are no figures: matplotlib is not installed where this ran"
        yield Warning(
            message=message, hint="Install it there with `pip install matplotlib`, and run the job again."
        )
        return ()
    written = []
    for figure in figures:
        session.stop_if_asked()
        yield base.model_copy(update={"activity": "draw"})
        try:
            told = _written(session.folder, figure)
        except Exception as error:
            traceback.print_exc()  # goes to log.txt
            yield Warning(
                message=f"{figure.file} could not be drawn: {type(error).__name__}: {error}",
                hint="Nothing else is missing; the log has the details.",
            )
        else:
            if told is not None:
                written.append(told.file)
                yield told
    return tuple(written)


def is_possible() -> bool:
    """Return whether matplotlib is installed; machines that only train need not have it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def _written(folder: Path, figure: Figure) -> FileWritten | None:
    """Draw and write one figure; return None where there is nothing to show."""
    image = figure.draw()
    if image is None:
        return None
    data = to_png(image)
    write_atomically(folder / figure.file, data)
    return FileWritten(
        run=figure.run,
        file=figure.file,
        title=figure.title,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def to_png(image: Image.Image) -> bytes:
    """Encode an image as PNG, pixels without metadata, so that equal images give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
