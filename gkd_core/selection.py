"""PGM inside a run: pool the instances of the training split in both feature spaces, choose, tell what was chosen."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from gkd_core.data.loading import eval_batches
from gkd_core.data.records import ImageRecord
from gkd_core.distiller import Chosen, Distiller
from gkd_core.events import Event, Progress, PrototypesSelected
from gkd_core.instances import Choice, InstancePool, Pooled
from gkd_core.run_dir import write_atomically
from gkd_core.session import Session


def renew_prototypes(
    session: Session, distiller: Distiller, choice: Choice, base: Progress, *, untrained: bool = False
) -> Generator[Event, None, PrototypesSelected]:
    """Choose the prototypes of every level anew, from a pass over the chosen instances.

    Writes `{run}-prototypes.json`: of each prototype its class, picture and box, so that people can look at it.

    Args:
        session: the run at work; its data is read.
        distiller: gets the prototypes.
        choice: which boxes are pooled.
        base: the progress to repeat meanwhile; its `run` and `epoch` name what is written.
        untrained: the student has seen no picture yet.

    Returns:
        What to tell.
    """
    began = time.monotonic()
    pool = distiller.instance_pool(untrained=untrained)
    yield from _fill(session, pool, choice, base)
    pooled = pool.finish()
    errors, kept = {}, {}
    for level, stride in enumerate(distiller.strides):
        session.stop_if_asked()
        chosen = distiller.choose_prototypes(pooled, level)
        errors[str(stride)] = chosen.error
        kept[str(stride)] = _origins(session, pooled, chosen)
    path = session.folder / f"{base.run}-prototypes.json"
    write_atomically(path, json.dumps({"epoch": base.epoch, "levels": kept}).encode())
    return PrototypesSelected(
        run=base.run,
        epoch=base.epoch,
        instances=_by_class(session.classes, pooled.labels.bincount(minlength=len(session.classes))),
        prototypes=_by_class(session.classes, distiller.prototypes[0].class_start.diff()),
        reconstruction_error=errors,
        seconds=time.monotonic() - began,
    )


def _fill(session: Session, pool: InstancePool, choice: Choice, base: Progress) -> Iterator[Event]:
    """Run both detectors over the chosen pictures."""
    chosen = [(session.data.train.images[position], rows) for position, rows in choice.items()]
    images, parts = [image for image, _ in chosen], iter(chosen)
    batches = eval_batches(images, session.image_size, session.batch_size, session.workers, session.cache)
    for batch in batches:
        pool.add(batch, list(islice(parts, len(batch))))
        session.stop_if_asked()
        if session.clock.progress_due():
            yield base.model_copy(update={"activity": "prototypes"})


def _origins(session: Session, pooled: Pooled, chosen: Chosen) -> list[dict[str, Any]]:
    """Where prototypes come from, class, picture and box in its pixels, and what each adds to the others."""
    files = _file_names(session.data.train.images)
    return [
        {
            "class": session.classes[int(pooled.labels[index])],
            "image_id": int(pooled.image_ids[index]),
            "file": files[int(pooled.image_ids[index])],
            "box": pooled.boxes[index].tolist(),
            "share": share,
        }
        for index, share in zip(chosen.indices.tolist(), chosen.shares.tolist(), strict=True)
    ]


def _file_names(images: Sequence[ImageRecord]) -> dict[int, str]:
    return {image.image_id: image.path.name for image in images}


def _by_class(classes: Sequence[str], counts: torch.Tensor) -> dict[str, int]:
    """Counts by class name."""
    return dict(zip(classes, counts.tolist(), strict=True))
