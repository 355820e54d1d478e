"""PGM inside a run: pool the instances of the training split in both feature spaces, choose, tell what was chosen."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from gkd_core.bank import Bank
from gkd_core.data.loading import eval_batches
from gkd_core.data.records import ImageRecord
from gkd_core.distiller import Chosen, Distiller
from gkd_core.distributed import World
from gkd_core.events import Event, Progress, PrototypesSelected
from gkd_core.instances import Choice, InstancePool, Pooled
from gkd_core.outliers import least_alike, own_levels
from gkd_core.prototypes import Prototypes
from gkd_core.run_dir import write_atomically
from gkd_core.session import Session


def renew_prototypes(
    session: Session,
    distiller: Distiller,
    choice: Choice,
    base: Progress,
    *,
    untrained: bool = False,
    seed: int = 0,
) -> Generator[Event, None, PrototypesSelected]:
    """Choose the prototypes of every level anew: from the distiller's bank or, without one, a pass.

    Writes `{run}-prototypes.json`: of each prototype its class, picture and box, so that people can look at it, and
    the same of the objects that teacher and student see least alike.

    Args:
        session: the run at work; its data is read.
        distiller: gets the prototypes.
        choice: which boxes are pooled.
        base: the progress to repeat meanwhile; its `run` and `epoch` name what is written.
        untrained: the student has seen no picture yet.
        seed: decides, together with the epoch, for selections that draw.

    Returns:
        What to tell.
    """
    began = time.monotonic()
    source = "pass" if distiller.bank is None else "bank"
    pooled = yield from _pooled(session, distiller, choice, base, untrained)
    generator = torch.Generator().manual_seed(int(np.random.default_rng([seed, base.epoch]).integers(2**62)))
    errors, kept = {}, {}
    for level, stride in enumerate(distiller.strides):
        session.stop_if_asked()
        chosen = _choose(session.world, distiller, pooled, level, generator)
        errors[str(stride)] = chosen.error
        kept[str(stride)] = _origins(session, pooled, chosen)
    if session.world.first:
        told = {
            "epoch": base.epoch,
            "source": source,
            "levels": kept,
            "least_alike": _outliers(session, distiller, pooled),
        }
        write_atomically(session.folder / f"{base.run}-prototypes.json", json.dumps(told).encode())
    return PrototypesSelected(
        run=base.run,
        epoch=base.epoch,
        instances=_by_class(session.classes, pooled.labels.bincount(minlength=len(session.classes))),
        prototypes=_by_class(session.classes, distiller.prototypes[0].class_start.diff()),
        reconstruction_error=errors,
        seconds=time.monotonic() - began,
    )


def _pooled(
    session: Session, distiller: Distiller, choice: Choice, base: Progress, untrained: bool
) -> Generator[Event, None, Pooled]:
    """What the training steps left in the bank; before the first of them what a pass finds, and the bank begins."""
    wanted = distiller.config.prototypes
    if distiller.bank is not None:
        return distiller.bank.pooled(at_least=wanted.per_class)
    pool = distiller.instance_pool(untrained=untrained)
    yield from _fill(session, pool, choice, base)
    pooled = pool.finish(session.world)
    if wanted.source == "bank":
        distiller.bank = Bank(pooled, wanted.min_box_side, base.epoch - 1)
    return pooled


def _fill(session: Session, pool: InstancePool, choice: Choice, base: Progress) -> Iterator[Event]:
    """Run both detectors over the chosen pictures; several processes share the work."""
    positions = list(choice)
    share = session.world.deal(len(positions), session.batch_size)
    mine = [positions[at] for at in share.positions]
    chosen = [(session.data.train.images[position], choice[position]) for position in mine]
    images, parts = [image for image, _ in chosen], iter(chosen)
    batches = eval_batches(images, session.image_size, session.batch_size, session.workers, session.cache)
    done = 0
    for batch in batches:
        pool.add(batch, list(islice(parts, len(batch))))
        done += len(batch)
        session.stop_if_asked()
        if session.clock.progress_due():
            yield session.meanwhile(base, "prototypes", done / len(images))
    for _ in range(share.idle):
        session.stop_if_asked()


def _choose(
    world: World, distiller: Distiller, pooled: Pooled, level: int, generator: torch.Generator
) -> Chosen:
    """Renew the prototypes of a level. The first process chooses, so that all have the same bits."""
    if world.size == 1:
        return distiller.choose_prototypes(pooled, level, generator)

    def choose() -> tuple[Chosen, list[torch.Tensor]]:
        chosen = distiller.choose_prototypes(pooled, level, generator)
        there = chosen._replace(indices=chosen.indices.cpu())
        return there, [tensor.cpu() for tensor in distiller.prototypes[level]]

    chosen, tensors = world.from_first(choose)
    prototypes = Prototypes(*(tensor.to(world.device) for tensor in tensors))
    distiller.prototypes[level : level + 1] = [prototypes]
    return chosen


def _origins(session: Session, pooled: Pooled, chosen: Chosen) -> list[dict[str, Any]]:
    """Where prototypes come from, class, picture and box in its pixels, and what each adds to the others."""
    records = _by_id(session.data.train.images)
    return [
        {**_origin(session, records, pooled, index), "share": share}
        for index, share in zip(chosen.indices.tolist(), chosen.shares.tolist(), strict=True)
    ]


def _outliers(session: Session, distiller: Distiller, pooled: Pooled) -> list[dict[str, Any]]:
    """The objects that teacher and student see least alike, seen from the prototypes that were just chosen."""
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
    """Where an instance comes from."""
    image_id = int(pooled.image_ids[index])
    return {
        "class": session.classes[int(pooled.labels[index])],
        "image_id": image_id,
        "file": records[image_id].path.name,
        "box": pooled.boxes[index].tolist(),
    }


def _by_id(images: Sequence[ImageRecord]) -> dict[int, ImageRecord]:
    return {image.image_id: image for image in images}


def _by_class(classes: Sequence[str], counts: torch.Tensor) -> dict[str, int]:
    """Counts by class name."""
    return dict(zip(classes, counts.tolist(), strict=True))
