"""PGM inside a run: pool the instances of the training split in both feature spaces, choose prototypes, report them.

Between two selections `refresh_prototypes` keeps the student's features of the prototypes up to date.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch

from gkd_core.data.loading import eval_batches
from gkd_core.data.records import ImageRecord
from gkd_core.distill.bank import Bank
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.instances import Choice, InstancePool, Pooled, instances_again
from gkd_core.distill.outliers import least_alike, own_levels
from gkd_core.distill.prototypes import Chosen
from gkd_core.events import Event, Progress, PrototypesSelected
from gkd_core.run_dir import write_atomically
from gkd_core.runs.session import Session


def renew_prototypes(
    session: Session,
    distiller: Distiller,
    choice: Choice,
    base: Progress,
    *,
    statistics: Literal["batch", "running"] = "batch",
    precision: str = "float32",
    seed: int = 0,
) -> Generator[Event, None, PrototypesSelected]:
    """Select new prototypes of every level: from the distiller's bank or, without one, a pass over the images.

    Writes `{run}-prototypes.json`: class, image and box of each prototype, for people to look at, and the same of the
    objects of lowest robustness.

    Args:
        session: the running job; its data is read.
        distiller: gets the prototypes.
        choice: which boxes are pooled.
        base: progress that is reported meanwhile; its `run` and `epoch` name what is written.
        statistics: of the student's batch norms in a pass, see `Distiller.instance_pool`.
        precision: of a pass.
        seed: of random selections, together with the epoch.

    Returns:
        The event to report.
    """
    began = time.monotonic()
    if distiller.bank is None:
        pool = distiller.instance_pool(statistics=statistics, precision=precision)
        source, pooled = "pass", (yield from _pool_in_pass(session, distiller, pool, choice, base))
    else:
        source, pooled = "bank", distiller.bank.pooled(at_least=distiller.config.prototypes.per_class)
    generator = torch.Generator().manual_seed(int(np.random.default_rng([seed, base.epoch]).integers(2**62)))
    session.stop_if_asked()
    levels = _choose(session, distiller, pooled, generator)
    distiller.prototypes = [chosen.prototypes for chosen in levels.values()]
    distiller.chosen = [pooled.origins(chosen.indices) for chosen in levels.values()]
    if session.world.first:
        told = {
            "epoch": base.epoch,
            "source": source,
            "levels": {level: _origins(session, pooled, chosen) for level, chosen in levels.items()},
            "least_alike": _outliers(session, distiller, pooled),
        }
        write_atomically(session.folder / f"{base.run}-prototypes.json", json.dumps(told).encode())
    return PrototypesSelected(
        run=base.run,
        epoch=base.epoch,
        instances=_by_class(session.classes, pooled.labels.bincount(minlength=len(session.classes))),
        prototypes=_by_class(session.classes, distiller.prototypes[0].class_start.diff()),
        reconstruction_error={level: float(chosen.error) for level, chosen in levels.items()},
        seconds=time.monotonic() - began,
    )


def refresh_prototypes(
    session: Session, distiller: Distiller, base: Progress, *, precision: str = "float32"
) -> Generator[Event, None, float]:
    """Recompute the student's features of the prototypes: the choice may be old, the features must not be.

    From the bank, which training steps fill, at no cost; or by a pass of the student over the images that contain a
    prototype, with batch norm statistics of each batch.

    Args:
        session: the running job; its data is read.
        distiller: its prototypes are replaced.
        base: progress that is reported meanwhile.
        precision: of a pass.

    Returns:
        The mean cosine of the features before and now.
    """
    if distiller.bank is not None:
        return distiller.refresh(distiller.bank.latest(), both=True)
    pool = distiller.instance_pool(precision=precision, again=True)
    choice = instances_again(session.data.train.images, distiller.chosen)
    yield from _run_over_images(session, pool, choice, base)
    return distiller.refresh(pool.finish(session.world))


def _pool_in_pass(
    session: Session, distiller: Distiller, pool: InstancePool, choice: Choice, base: Progress
) -> Generator[Event, None, Pooled]:
    """Pool the instances in a pass over the images.

    The result starts the bank; without one, it is kept so that the teacher need not run again.
    """
    wanted = distiller.config.prototypes
    yield from _run_over_images(session, pool, choice, base)
    pooled = pool.finish(session.world)
    if wanted.source == "bank":
        distiller.bank = Bank(pooled, wanted.min_box_side, base.epoch - 1)
    else:
        distiller.cache_teacher_features(pooled)
    return pooled


def _run_over_images(session: Session, pool: InstancePool, choice: Choice, base: Progress) -> Iterator[Event]:
    """Run the detectors over the images with chosen boxes; several processes share the work."""
    positions = list(choice)
    share = session.world.deal(len(positions), session.batch_size)
    mine = [positions[at] for at in share.positions]
    chosen = [(session.data.train.images[position], choice[position]) for position in mine]
    images, parts = [image for image, _ in chosen], iter(chosen)
    how = session.image_size, session.batch_size, session.workers, session.cache
    batches = eval_batches(images, *how, zoom=pool.zoom_of_pictures)
    done = 0
    for batch in batches:
        pool.add(batch, list(islice(parts, len(batch))))
        done += len(batch)
        session.stop_if_asked()
        if session.progress_meter.progress_due():
            yield session.meanwhile(base, "prototypes", done / len(images))
    for _ in range(share.idle):
        session.stop_if_asked()


def _choose(
    session: Session, distiller: Distiller, pooled: Pooled, generator: torch.Generator
) -> dict[str, Chosen]:
    """Choose the prototypes of every level, by its stride.

    The first of several processes chooses, so that all have the same bits; it does not check for stop requests, since
    the others wait for it.
    """
    world = session.world
    if world.size == 1:
        levels = distiller.choose_prototypes(pooled, generator, session.stop_if_asked)
    else:
        there = world.from_first(
            lambda: [chosen.to("cpu") for chosen in distiller.choose_prototypes(pooled, generator)]
        )
        levels = [chosen.to(world.device) for chosen in there]
    return dict(zip(map(str, distiller.strides), levels, strict=True))


def _origins(session: Session, pooled: Pooled, chosen: Chosen) -> list[dict[str, Any]]:
    """Return where prototypes come from: class, image, box in its pixels, and explained share."""
    records = _by_id(session.data.train.images)
    return [
        {**_origin(session, records, pooled, index), "share": share}
        for index, share in zip(chosen.indices.tolist(), chosen.shares.tolist(), strict=True)
    ]


def _outliers(session: Session, distiller: Distiller, pooled: Pooled) -> list[dict[str, Any]]:
    """Return the objects of lowest robustness with respect to the prototypes that were just chosen."""
    records = _by_id(session.data.train.images)
    ids = pooled.image_ids.tolist()
    sizes = torch.tensor([max(records[number].width, records[number].height) for number in ids])
    cells = distiller.student.cells_per_box
    levels = own_levels(pooled.boxes.cpu(), sizes, session.image_size, distiller.strides, cells)
    return [
        {
            **_origin(session, records, pooled, outlier.instance),
            "level": str(distiller.strides[outlier.level]),
            "robustness": outlier.robustness,
        }
        for outlier in least_alike(pooled, distiller.prototypes, levels)
    ]


def _origin(session: Session, records: dict[int, ImageRecord], pooled: Pooled, index: int) -> dict[str, Any]:
    """Return where an instance comes from."""
    image_id = int(pooled.image_ids[index])
    return {
        "class": session.classes[int(pooled.labels[index])],
        "image_id": records[image_id].told_id,
        "file": records[image_id].path.name,
        "box": pooled.boxes[index].tolist(),
    }


def _by_id(images: Sequence[ImageRecord]) -> dict[int, ImageRecord]:
    return {image.image_id: image for image in images}


def _by_class(classes: Sequence[str], counts: torch.Tensor) -> dict[str, int]:
    """Return counts by class name."""
    return dict(zip(classes, counts.tolist(), strict=True))
